"""Reads a model for repair as it is, writes the repaired one, and compares two."""

from __future__ import annotations

import hashlib
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper, numpy_helper

from onnx_soda._answers import ModelDifference, WeightChange
from onnx_soda._bridge.bridge import stored_tensors
from onnx_soda._errors import ModelFileError, OutputError
from onnx_soda._model.graph import view_graph
from onnx_soda._model.load import OnnxModel, load_model
from onnx_soda._preflight.check import check_model
from onnx_soda._preflight.external import read_external_data
from onnx_soda._preflight.inventory import take_inventory
from onnx_soda._preflight.mend import is_silent

PROVENANCE_KEY = "onnx_soda.repair"


def read_proto(model: OnnxModel) -> onnx.ModelProto:
    """Return the file's content as it is, external data loaded.

    Raises:
        ModelFileError: The file is not the one that was loaded any more.
    """
    passed = check_model(model.source, model.limits)
    if hashlib.sha256(passed.content).hexdigest() != model.sha256:
        raise ModelFileError(f"{model.file} was changed meanwhile", "Scan it again.")
    if passed.folder:
        read_external_data(take_inventory(passed.proto).external, passed.folder)
    return passed.proto


def with_provenance(
    proto: onnx.ModelProto, source: OnnxModel, pair: tuple[int, int]
) -> onnx.ModelProto:
    """Return a model that says what it was repaired from, in its metadata.

    Args:
        proto: The repaired model; not changed.
        source: What it was repaired from.
        pair: Victim and target.
    """
    marked = onnx.ModelProto()
    marked.CopyFrom(proto)
    kept = [entry for entry in proto.metadata_props if entry.key != PROVENANCE_KEY]
    del marked.metadata_props[:]
    marked.metadata_props.extend(kept)
    facts = {
        "tool": f"onnx-soda {version('onnx-soda')}",
        "source_sha256": source.sha256,
        "victim_class": pair[0],
        "target_class": pair[1],
    }
    marked.metadata_props.add(key=PROVENANCE_KEY, value=json.dumps(facts))
    return marked


def check_target(source: OnnxModel, path: Path) -> None:
    """Make sure that writing to a path leaves the source as it is.

    Args:
        source: The model that is read.
        path: Where the repaired one goes.

    Raises:
        OutputError: It is the source itself, or its weights would take the place of the source's.
    """
    path = path.resolve()
    if isinstance(source.source, Path) and path == source.source.resolve():
        raise OutputError(f"{path.name} is the model itself", "Choose another name.")
    data = path.with_name(path.name + ".data")
    if data in {one.path for one in source.external_data}:
        raise OutputError(f"{data.name} holds the model's own weights", "Choose another name.")


def write_model(proto: onnx.ModelProto, source: OnnxModel, path: Path) -> None:
    """Write a model, beside its place first; its weights outside where the source's are.

    Args:
        proto: The model, with all its weights.
        source: What it was repaired from.
        path: Where to; its weights, if outside, go to `path` with ".data" behind the name.

    Raises:
        OutputError: It cannot be written, or is the source itself.
    """
    check_target(source, path)
    path = path.resolve()
    data = path.with_name(path.name + ".data")
    proto = _with_shapes(proto, source)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name:
            unfinished = Path(name)
            if source.external_data:
                proto = _moved_out(proto, unfinished / data.name)
            (unfinished / path.name).write_bytes(proto.SerializeToString())
            load_model(unfinished / path.name)
            if source.external_data:
                (unfinished / data.name).replace(data)
            (unfinished / path.name).replace(path)
    except OSError as error:
        raise OutputError(
            f"{path.name} cannot be written: {error.strerror}", "Choose another place."
        ) from error


def _with_shapes(proto: onnx.ModelProto, source: OnnxModel) -> onnx.ModelProto:
    """Return a model whose outputs say their shapes, as the standard asks.

    Args:
        proto: The model; itself where they do already.
        source: What it was repaired from, with the same outputs.
    """
    if not any(map(is_silent, proto.graph.output)):
        return proto
    view, told = view_graph(source), onnx.ModelProto()
    told.CopyFrom(proto)
    for output in filter(is_silent, told.graph.output):
        value = view.values.get(output.name)
        if value is None or value.dtype is None:
            continue
        shape = value.shape or (None, *(view.shape(value) or ())[1:])
        output.type.tensor_type.elem_type = int(value.dtype)
        for size in shape:
            known = {"dim_value": size} if isinstance(size, int) else {}
            output.type.tensor_type.shape.dim.add(**known)
    return told


def _moved_out(proto: onnx.ModelProto, data: Path) -> onnx.ModelProto:
    """Write the larger weights to a file of their own; return a model that refers to them."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    data.touch()  # with an ordinary file's permissions, which onnx would make the owner's only
    external_data_helper.convert_model_to_external_data(model, location=data.name)
    external_data_helper.write_external_data_tensors(model, str(data.parent))
    return model


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
