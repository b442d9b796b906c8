"""The part of the `.pt2` converter that runs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch

from onnx_soda.errors import ConvertError, UnsupportedSourceError

from .protocol import Conversion, ConvertOptions
from .result import Source, compare, finish
from .torch_export import (
    TORCH_PACKAGES,
    quiet,
    reference,
    to_onnx,
    trace_to_onnx,
)

__all__ = ["convert_program"]


def convert_program(
    converter: str, path: Path, copy: Path, out: Path, options: ConvertOptions
) -> Conversion:
    """Convert a checked copy of a `.pt2` file.

    Args:
        converter: Name of the converter.
        path: The file, for its name and digest.
        copy: What torch may read of it.
        out: File to write.
        options: See `ConvertOptions`.
    """
    with quiet():
        program = torch.export.load(copy)
        module = program.module()
    shape, dtype = _input(program, path.name)
    source = Source(converter, path, reference(module), shape, TORCH_PACKAGES, dtype)
    if shape[0] is None:
        return finish(to_onnx(program, options.opset), source, out, options)
    freed = _freed(module, source, options)
    if freed is not None:
        return finish(*freed, out, options)
    note = f"The file was exported for exactly {shape[0]} images at once."
    fixed = Source(converter, path, source.run, shape, TORCH_PACKAGES, dtype, notes=(note,))
    return finish(to_onnx(program, options.opset), fixed, out, options)


def _input(program: Any, file: str) -> tuple[tuple[int | None, ...], str]:
    """Return shape and element type of the one input; None for the free batch."""
    names = program.graph_signature.user_inputs
    tensors = [
        node.meta["val"]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in names
    ]
    if len(tensors) != 1 or not isinstance(tensors[0], torch.Tensor):
        raise UnsupportedSourceError(
            f"{file} takes {len(tensors)} inputs, not one batch of images",
            "Export a program that takes images alone.",
        )
    sizes = tuple(size if isinstance(size, int) else None for size in tensors[0].shape)
    return sizes, str(tensors[0].dtype).removeprefix("torch.")


def _freed(
    module: Any, source: Source, options: ConvertOptions
) -> tuple[onnx.ModelProto, Source] | None:
    """Trace a program with a fixed batch for any batch; None where it depends on the number."""
    free = (None, *source.shape[1:])
    example = torch.rand([size or 1 for size in source.shape])
    try:
        with quiet():
            traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
            proto = trace_to_onnx(traced, example, options.opset, [0])
        # The source itself insists on its batch, so what it says of the traced one is asked.
        several = Source(
            source.converter, source.path, reference(traced), free, source.packages, source.dtype
        )
        compare(proto, source, options.seed)
        compare(proto, several, options.seed)
    except (ConvertError, RuntimeError, torch.onnx.errors.OnnxExporterError):
        return None
    return proto, several
