"""Reads a model for repair as it is, and writes the repaired one: whole, or not at all."""

from __future__ import annotations

import hashlib
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import onnx
from onnx import external_data_helper

from onnx_soda.errors import ModelFileError, OutputError
from onnx_soda.model.load import OnnxModel, load_model
from onnx_soda.preflight.check import check_model

__all__ = ["PROVENANCE_KEY", "check_target", "read_proto", "with_provenance", "write_model"]

PROVENANCE_KEY = "onnx_soda.repair"


def read_proto(model: OnnxModel) -> onnx.ModelProto:
    """Return the file's content as it is, external data loaded.

    Raises:
        ModelFileError: The file is not the one that was loaded any more.
    """
    passed = check_model(model.source, model.limits)
    if hashlib.sha256(passed.content).hexdigest() != model.sha256:
        raise ModelFileError(f"{model.file} was changed meanwhile", "Scan it again.")
    if passed.external_data:
        external_data_helper.load_external_data_for_model(passed.proto, str(passed.folder))
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


def _moved_out(proto: onnx.ModelProto, data: Path) -> onnx.ModelProto:
    """Write the larger weights to a file of their own; return a model that refers to them."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    data.touch()  # with an ordinary file's permissions, which onnx would make the owner's only
    external_data_helper.convert_model_to_external_data(model, location=data.name)
    external_data_helper.write_external_data_tensors(model, str(data.parent))
    return model
