"""Reads an ONNX file into a checked model, running nothing of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnx_soda.errors import ExternalDataError, ModelFileError, NotAClassifierError
from onnx_soda.model.external import ExternalFile, check_external_data, external_tensors
from onnx_soda.model.maps import without_maps
from onnx_soda.model.signatures import describe_foreign_file
from onnx_soda.model.versions import check_domains, check_versions
from onnx_soda.model.wellformed import check_text, well_formed

__all__ = ["OnnxModel", "load_model"]

# A protobuf message cannot be larger (https://protobuf.dev/programming-guides/proto-limits/);
# bigger models keep their weights in external data.
_MAX_BYTES = 2**31 - 1
# Initializers of these types are shapes, axes and flags, not parameters.
_NOT_PARAMETERS = {ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL, ir.DataType.STRING}


@dataclass(frozen=True)
class OnnxModel:
    """A model file that was read and checked.

    Attributes:
        file: Name without folders, "<bytes>" where bytes were given.
        folder: Folder of the file, where external data lies; None where bytes were given.
        sha256: Digest of the file, hexadecimal.
        external_data: Files beside the model that hold weights.
        ir: The model as onnx-ir objects; shared, not to be changed.
        opset: Version of the `ai.onnx` operator set.
        ir_version: Version of the file format.
        producer: Name and version of the program that wrote the file, may be empty.
        parameters: Number of weights.
        metadata: The file's own key-value pairs.
        source: The path or the bytes that it was read from.
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


def load_model(source: str | Path | bytes) -> OnnxModel:
    """Read and check an ONNX model.

    External data is looked for beside the file and must lie in the file's own folder.

    Args:
        source: Path of the model, or the bytes of a model without external data.

    Raises:
        ModelFileError: Not a file, empty, cut short, or not an ONNX model.
        ExternalDataError: Weights beside the model are missing or outside its folder.
        UnsupportedModelError: Newer than the installed runtime, or unknown operators.
        NotAClassifierError: The graph has no outputs.
    """
    if isinstance(source, bytes):
        return _checked(source, "<bytes>", None)
    path = Path(source)
    return _checked(_read(path), path.name, path.absolute())


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise ModelFileError(f"{path.name} is a folder", "Give the .onnx file inside it.")
    if not path.is_file():
        raise ModelFileError(f"{path.name} does not exist", "Check the path of the model.")
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ModelFileError(
            f"{path.name} has {size} bytes; an ONNX file cannot have over {_MAX_BYTES}",
            "Save the model with its weights as external data.",
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(
            f"{path.name} cannot be read: {error.strerror}", "Check its permissions."
        ) from error


def _checked(content: bytes, file: str, path: Path | None) -> OnnxModel:
    proto = _parse(content, file)
    opset = _opset(proto, file)
    check_versions(proto, opset, file)
    check_domains(proto, file)
    if not proto.graph.output:
        raise NotAClassifierError(f"{file} has no outputs", "Export it with its logits as output.")
    outside = list(external_tensors(proto))
    if outside and path is None:
        raise ExternalDataError(
            "a model given as bytes cannot have external data", "Give its path instead."
        )
    files = check_external_data(outside, path.parent) if path else ()
    with well_formed(file):
        # By path where the checker must see the external data.
        onnx.checker.check_model(str(path) if path and outside else proto)
        model = ir.serde.deserialize_model(without_maps(proto))
    if path:
        ir.external_data.set_base_dir(model.graph, path.parent)
    return OnnxModel(
        file=file,
        folder=path.parent if path else None,
        sha256=hashlib.sha256(content).hexdigest(),
        external_data=files,
        ir=model,
        opset=opset,
        ir_version=proto.ir_version,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        parameters=_count_parameters(model),
        metadata={entry.key: entry.value for entry in proto.metadata_props},
        source=path or content,
    )


def _parse(content: bytes, file: str) -> onnx.ModelProto:
    if not content:
        raise ModelFileError(f"{file} is empty", "Download it again.")
    foreign = describe_foreign_file(content[:64])
    if foreign:
        raise ModelFileError(f"{file} is not an ONNX model but {foreign}", "Convert it to ONNX.")
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise ModelFileError(
            f"{file} cannot be read as ONNX: it is cut short or of another format",
            "Compare its size and digest with the source, and download it again.",
        ) from error
    if not proto.ir_version or not proto.HasField("graph"):
        raise ModelFileError(f"{file} holds no ONNX graph", "Check that it is an ONNX model.")
    with well_formed(file):
        check_text(proto, file)
    return proto


def _opset(proto: onnx.ModelProto, file: str) -> int:
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx"):
            return int(entry.version)
    raise ModelFileError(f"{file} does not say which opset it uses", "Export it again.")


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
