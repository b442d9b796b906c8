"""The part of the TorchScript converter that runs torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch

from onnx_soda._answers import Conversion
from onnx_soda._errors import ConvertError, UnsupportedSourceError
from onnx_soda._options import ConvertOptions

from .operators import ATEN, PRIM
from .refusals import runs_code
from .result import Source, compare, finish
from .torch_run import TORCH_PACKAGES, quiet, reference, trace_to_onnx

_SPACES = {"aten": ATEN, "prim": PRIM}
# Tried in this order where nothing tells the size of the images: the usual ones of data sets.
_SIZES = (224, 32, 28, 64, 96, 128, 256, 299, 384)
# A network that takes these takes any.
_TWO_SIZES = (64, 96)


def convert_script(
    converter: str,
    path: Path,
    traced: tuple[int, ...] | None,
    out: Path,
    options: ConvertOptions,
) -> Conversion:
    """Convert a TorchScript file.

    Args:
        converter: Name of the converter.
        path: The file.
        traced: Shape of the batch that it was traced with, where it tells.
        out: File to write.
        options: See `ConvertOptions`.

    Raises:
        UnsafeSourceError: The graph has an operator that is not on the list.
        ConvertError: It runs on no size of images that was tried.
    """
    with quiet():
        module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call, unused-ignore]
        _check_graph(module, path.name)
        module = module.eval()
    image = _image(module, path.name, traced, options)
    last: ConvertError | None = None
    for shape, note in _attempts(module, image):
        source = Source(
            converter, path, reference(module), shape, TORCH_PACKAGES, notes=(note,) if note else ()
        )
        try:
            proto = _export(module, image, shape, options)
            compare(proto, source, options.seed)
        except ConvertError as error:
            last = error
            continue
        return finish(proto, source, out, options)
    raise last or ConvertError(f"{path.name} cannot be converted")


def _check_graph(module: Any, file: str) -> None:
    """Look at every operator that running the module would run.

    Raises:
        UnsafeSourceError: One is not on the list.
    """
    for kind in _kinds(module.inlined_graph):
        space, _, name = kind.partition("::")
        if name not in _SPACES.get(space, ()):
            raise runs_code(
                f"{file} uses the operator {kind[:80]!r}, which is not among those allowed",
                "Ask its author for an ONNX or .pt2 file, or for weights alone (.safetensors).",
            )


def _kinds(block: Any) -> Iterator[str]:
    for node in block.nodes():
        yield str(node.kind())
        for inner in node.blocks():
            yield from _kinds(inner)


def _image(
    module: Any, file: str, traced: tuple[int, ...] | None, options: ConvertOptions
) -> tuple[int, ...]:
    """Return the shape of one image, as traced, as asked for, or as the module runs on.

    Raises:
        ConvertError: It runs on none that was tried.
    """
    if traced is not None and options.size is None:
        return traced[1:]
    candidates = list(_candidates(module, options.size))
    for shape in candidates:
        if _runs(module, shape):
            return shape
    raise ConvertError(f"{file} runs on no images of the sizes tried", "Name their size as `size`.")


def _candidates(module: Any, size: int | None) -> Iterator[tuple[int, ...]]:
    """Yield shapes of one image that fit the first weight."""
    first = next((p for p in module.parameters() if p.dim() in (2, 4)), None)
    if first is None:
        raise UnsupportedSourceError(
            "the program has no layer that images could go into", "Ask for an ONNX file."
        )
    channels = (first.shape[1],) if first.dim() == 4 else (1, 3)
    for one in (size,) if size else _SIZES:
        for count in channels:
            yield (count, one, one)
    if first.dim() == 2:
        yield (first.shape[1],)


def _runs(module: Any, shape: tuple[int, ...]) -> bool:
    try:
        with quiet():
            module(torch.zeros(2, *shape))
    except RuntimeError:
        return False
    return True


def _attempts(
    module: Any, image: tuple[int, ...]
) -> Iterator[tuple[tuple[int | None, ...], str | None]]:
    """Yield what to free: batch and size, the batch alone, nothing."""
    if len(image) == 3 and all(_runs(module, (image[0], size, size)) for size in _TWO_SIZES):
        yield (None, image[0], None, None), None
    yield (None, *image), None
    yield (1, *image), "The program depends on the number of images; the result takes one at once."


def _export(
    module: Any, image: tuple[int, ...], shape: tuple[int | None, ...], options: ConvertOptions
) -> onnx.ModelProto:
    free = [axis for axis, length in enumerate(shape) if length is None]
    example = torch.rand(2 if shape[0] is None else 1, *image)
    try:
        return trace_to_onnx(module, example, options.opset, free)
    except Exception as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise ConvertError(
            f"PyTorch cannot export the program: {first[0][:200]}",
            "Ask its author for an ONNX or .pt2 file.",
        ) from error
