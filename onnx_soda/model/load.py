"""Reads an ONNX file into a checked model, running nothing of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from onnx_soda.model.maps import without_maps
from onnx_soda.model.wellformed import well_formed
from onnx_soda.preflight.check import check_model, model_opset
from onnx_soda.preflight.external import ExternalFile
from onnx_soda.preflight.finding import FileFinding
from onnx_soda.preflight.inventory import take_inventory
from onnx_soda.preflight.limits import DEFAULT_LIMITS, Limits

__all__ = ["OnnxModel", "load_model"]

# Initializers of these types are shapes, axes and flags, not parameters.
_NOT_PARAMETERS = {ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL, ir.DataType.STRING}


@dataclass(frozen=True)
class OnnxModel:
    """A model file that was read and checked.

    Attributes:
        file: Name without folders, "<bytes>" where bytes were given.
        folder: Where external data lies, links followed; the file's own folder where it has none,
            None where bytes were given.
        sha256: Digest of the file, hexadecimal.
        external_data: Files beside the model that hold weights.
        ir: The model as onnx-ir objects; shared, not to be changed.
        opset: Version of the `ai.onnx` operator set.
        ir_version: Version of the file format.
        producer: Name and version of the program that wrote the file, may be empty.
        parameters: Number of weights.
        metadata: The file's own key-value pairs.
        source: The path or the bytes that it was read from.
        findings: What is unusual about the file.
        limits: The limits that it was checked by; later stages go by them too.
    """

    file: str
    folder: Path | None
    sha256: str
    external_data: tuple[ExternalFile, ...]
    ir: ir.Model
    opset: int
    ir_version: int
    producer: str
    parameters: int
    metadata: dict[str, str]
    source: Path | bytes
    findings: tuple[FileFinding, ...] = ()
    limits: Limits = DEFAULT_LIMITS


def load_model(source: str | Path | bytes, limits: Limits = DEFAULT_LIMITS) -> OnnxModel:
    """Read and check an ONNX model.

    External data is looked for beside the file and must lie in the file's own folder
    (`onnx_soda.preflight.external` has the rule).

    Args:
        source: Path of the model, or the bytes of a model without external data.
        limits: How large it may be.

    Raises:
        ModelFileError: Not a file, empty, cut short, or not an ONNX model.
        ExternalDataError: Weights beside the model are missing or outside its folder.
        UnsupportedModelError: Over a limit, newer than the runtime, or unknown operators.
        NotAClassifierError: The graph has no outputs.
    """
    source = Path(source) if isinstance(source, str) else source
    passed = check_model(source, limits)
    proto = passed.proto
    with well_formed(passed.file):
        onnx.checker.check_model(_self_contained(proto) if passed.external_data else proto)
        model = ir.serde.deserialize_model(without_maps(proto))
    if passed.folder:
        ir.external_data.set_base_dir(model.graph, passed.folder)
    return OnnxModel(
        file=passed.file,
        folder=passed.folder,
        sha256=hashlib.sha256(passed.content).hexdigest(),
        external_data=passed.external_data,
        ir=model,
        opset=model_opset(proto, passed.file),
        ir_version=proto.ir_version,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        parameters=_count_parameters(model),
        metadata={entry.key: entry.value for entry in proto.metadata_props},
        source=passed.content if isinstance(source, bytes) else source.absolute(),
        findings=passed.findings,
        limits=limits,
    )


def _self_contained(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy for onnx's checker with empty tensors in the place of external ones.

    Given external tensors the checker opens files, which was done already, by a rule that lets
    checked links pass. It does not look at the dimensions of what operators read.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in take_inventory(copy).external:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.dims[:] = [0]
    return copy


def _count_parameters(model: ir.Model) -> int:
    values = (value.const_value for value in model.graph.initializers.values())
    initializers = sum(
        tensor.size for tensor in values if tensor and tensor.dtype not in _NOT_PARAMETERS
    )
    attributes = (
        node.attributes["value"].value
        for node in model.graph.all_nodes()
        if node.op_type == "Constant" and "value" in node.attributes
    )
    constants = (value for value in attributes if isinstance(value, ir.TensorProtocol))
    return initializers + sum(
        tensor.size for tensor in constants if tensor.dtype not in _NOT_PARAMETERS
    )
