"""What the converters of PyTorch models share: running a module, and torch's two exporters.

Imported inside `convert` alone; it imports torch.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from numpy.typing import NDArray

from .result import Reference

__all__ = ["TORCH_PACKAGES", "quiet", "reference", "to_onnx", "trace_to_onnx"]

TORCH_PACKAGES = ("torch", "onnxscript")
# The exporter writes 18 even where less is asked for (seen with torch 2.15).
_OPSET = 18
# The older exporter's; BatchNormalization and pooling are written in one piece.
_TRACED_OPSET, _TRACED_NEWEST = 17, 20


@contextmanager
def quiet() -> Iterator[None]:
    """Compute without gradients, and keep torch's warnings about its own future to itself."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def reference(module: Any) -> Reference:
    """Return a function that runs a module on a batch."""

    def run(images: NDArray[Any]) -> list[NDArray[Any]]:
        with quiet():
            given = module(torch.from_numpy(images))
        return [tensor.detach().numpy() for tensor in _flat(given)]

    return run


def _flat(given: Any) -> Iterator[torch.Tensor]:
    if isinstance(given, torch.Tensor):
        yield given
    elif isinstance(given, dict):
        for one in given.values():
            yield from _flat(one)
    elif isinstance(given, Sequence):
        for one in given:
            yield from _flat(one)


def to_onnx(program: Any, opset: int | None) -> onnx.ModelProto:
    """Return a `torch.export.ExportedProgram` as ONNX."""
    with quiet():
        exported = torch.onnx.export(
            program, (), dynamo=True, opset_version=opset or _OPSET, verbose=False
        )
    assert exported is not None  # noqa: S101 - so with dynamo=True
    proto: onnx.ModelProto = exported.model_proto
    return proto


def trace_to_onnx(
    module: Any, example: Any, opset: int | None, free: Sequence[int]
) -> onnx.ModelProto:
    """Return a module as ONNX by torch's older exporter, which can free what was fixed.

    Args:
        module: A TorchScript module.
        example: A batch.
        opset: Version of the operator set; the usual one where None.
        free: Axes of the input that take any length.
    """
    axes = {"image": {axis: ("batch", "", "height", "width")[axis] for axis in free}}
    axes["scores"] = {0: "batch"} if 0 in free else {}
    buffer: Any = io.BytesIO()  # declared for paths alone
    with quiet():
        torch.onnx.export(
            module,
            (example,),
            buffer,
            dynamo=False,
            opset_version=min(opset or _TRACED_OPSET, _TRACED_NEWEST),
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes={name: chosen for name, chosen in axes.items() if chosen},
        )
    return onnx.load_model_from_string(buffer.getvalue())
