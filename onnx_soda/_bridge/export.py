"""A repaired model written anew by torch's own exporter, where its weights are not put back."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray

from onnx_soda._bridge.bridge import to_torch
from onnx_soda._errors import ConversionError, first_line

# The newest opset of torch's TorchScript-based exporter (torch.onnx.export, opset_version).
_NEWEST_OPSET = 20


def export_anew(proto: onnx.ModelProto, images: NDArray[Any]) -> onnx.ModelProto:
    """Return what torch exports of a model: the same inputs and outputs, other nodes and weights.

    The TorchScript-based exporter is used, which needs no further package.

    Args:
        proto: The model, with its external data loaded.
        images: Some inputs, as the model takes them.

    Raises:
        ConversionError: The whole graph cannot be converted, or torch cannot export it.
    """
    bridge = to_torch(proto, images=images)
    outputs = tuple(output.name for output in proto.graph.output)
    if bridge.scope != "full" or bridge.outputs != outputs:
        raise ConversionError(
            f"the model cannot be exported anew: {bridge.notes[0]}", "Leave out --export torch."
        )
    opset = next(one.version for one in proto.opset_import if one.domain in ("", "ai.onnx"))
    (name,) = bridge.inputs
    axes = {tensor: {0: "batch"} for tensor in (name, *outputs)} if _free_batch(proto, name) else {}
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            path = Path(folder) / "model.onnx"
            warnings.simplefilter("ignore")  # it warns that it is the older exporter
            torch.onnx.export(
                bridge.module,
                (torch.from_numpy(images),),
                path,
                dynamo=False,
                opset_version=min(opset, _NEWEST_OPSET),
                input_names=[name],
                output_names=list(outputs),
                dynamic_axes=axes,
            )
            exported = onnx.load(path)
    except Exception as error:  # exporters raise anything
        raise ConversionError(
            f"torch cannot export the model: {first_line(error)}",
            "Leave out --export torch.",
        ) from error
    exported.metadata_props.extend(proto.metadata_props)
    return exported


def _free_batch(proto: onnx.ModelProto, name: str) -> bool:
    image = next(one for one in proto.graph.input if one.name == name)
    return not image.type.tensor_type.shape.dim[0].HasField("dim_value")
