"""Which stored tensors of two models differ, and by how much."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_soda.repair.writeback import stored_tensors
from onnx_soda.report.repair_schema import ModelDifference, WeightChange

__all__ = ["compare_models"]


def compare_models(first: onnx.ModelProto, second: onnx.ModelProto) -> ModelDifference:
    """Compare two models, their external data loaded, tensor by tensor."""
    one, two = stored_tensors(first), stored_tensors(second)
    shared = [name for name in one if name in two]
    reshaped = [
        name
        for name in shared
        if (one[name].dims, one[name].data_type) != (two[name].dims, two[name].data_type)
    ]
    comparable = [name for name in shared if name not in reshaped]
    changes = _compare_weights(one, two, comparable)
    return ModelDifference(
        changes=changes,
        reshaped=tuple(reshaped),
        only_first=tuple(name for name in one if name not in two),
        only_second=tuple(name for name in two if name not in one),
        same_graph=_skeleton(first) == _skeleton(second),
        same_tensors=len(comparable) - len(changes),
    )


def _compare_weights(
    one: dict[str, onnx.TensorProto], two: dict[str, onnx.TensorProto], names: list[str]
) -> tuple[WeightChange, ...]:
    """Return the tensors of some names whose values differ; NaN equals NaN."""
    changes = []
    for name in names:
        old, new = (numpy_helper.to_array(tensors[name]) for tensors in (one, two))
        differs = old != new
        if old.dtype.kind == "f":
            differs &= ~(np.isnan(old) & np.isnan(new))
        if differs.any():
            changes.append(_change(name, old, new, differs))
    return tuple(changes)


def _change(
    name: str,
    old: np.ndarray,
    new: np.ndarray,
    differs: np.ndarray,
) -> WeightChange:
    if old.dtype.kind not in "fiub":
        return WeightChange(name, old.size, int(differs.sum()), 0.0, 0.0)
    largest = float(np.nanmax(np.abs(new.astype(np.float64) - old.astype(np.float64))))
    scale = float(np.nanmax(np.abs(old.astype(np.float64)))) or 1.0
    return WeightChange(name, old.size, int(differs.sum()), largest, largest / scale)


def _skeleton(model: onnx.ModelProto) -> bytes:
    """Return what a model computes, without what its compared tensors hold and without metadata."""
    compared = stored_tensors(model)
    rest = onnx.ModelProto(opset_import=model.opset_import, functions=model.functions)
    rest.graph.CopyFrom(model.graph)
    del rest.graph.initializer[:]
    for node in rest.graph.node:
        if node.op_type == "Constant" and node.output[0] in compared:
            del node.attribute[:]
    text: bytes = rest.SerializeToString(deterministic=True)
    return text
