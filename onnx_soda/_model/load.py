"""Reads an ONNX file into a checked model, running nothing of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from onnx_soda._errors import ModelFileError
from onnx_soda._model.inputs import unneeded_inputs
from onnx_soda._model.runtime import SubModel, loads
from onnx_soda._preflight.check import Passed, check_model, model_opset
from onnx_soda._preflight.copies import for_checker, without_maps
from onnx_soda._preflight.external import ExternalFile
from onnx_soda._preflight.limits import DEFAULT_LIMITS, FileFinding, FileLimits
from onnx_soda._rules import RULE_MENDED

# What onnx and onnx-ir raise on graphs that are none; most of onnx-ir's are RuntimeErrors.
_MALFORMED = (
    onnx.checker.ValidationError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def well_formed(file: str) -> Iterator[None]:
    """Turn a library's complaint about a graph into one that names the file.

    Args:
        file: File name to show.

    Raises:
        ModelFileError: The body raised one of the errors that a malformed graph causes.
    """
    try:
        yield
    except _MALFORMED as error:
        raise ModelFileError(
            f"{file} is not valid ONNX: {_root_cause(error)}", "Export it again."
        ) from error


def _root_cause(error: BaseException) -> str:
    """Return what the innermost error says: onnx-ir wraps the real one several times.

    In one line: onnx's checker names the node in the last one.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).replace("==> Context: Bad node spec for node.", ";").split())
    return text[:300] or type(error).__name__


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
    limits: FileLimits = DEFAULT_LIMITS


def load_model(source: str | Path | bytes, limits: FileLimits = DEFAULT_LIMITS) -> OnnxModel:
    """Read and check an ONNX model.

    External data is looked for beside the file and must lie in the file's own folder
    (`onnx_soda._preflight.external` has the rule).

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
        tolerated = _check_well_formed(passed)
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
        ir_version=passed.ir_version,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        parameters=_count_parameters(model),
        metadata={entry.key: entry.value for entry in proto.metadata_props},
        source=passed.content if isinstance(source, bytes) else source.absolute(),
        findings=(*tolerated, *passed.findings, *_spare_inputs(model.graph)),
        limits=limits,
    )


def _check_well_formed(passed: Passed) -> tuple[FileFinding, ...]:
    """Ask onnx's checker, and where it objects ONNX Runtime, which runs the model in the end.

    Raises:
        ModelFileError: Both refuse the model.
    """
    try:
        onnx.checker.check_model(for_checker(passed.proto, bool(passed.external_data)))
    except onnx.checker.ValidationError as error:
        content = passed.proto.SerializeToString()
        if not loads(SubModel(content, passed.folder, (), ())):
            raise
        what = "onnx's checker objects to the file, and ONNX Runtime loads it"
        return (FileFinding(RULE_MENDED, "info", what, _root_cause(error)),)
    return ()


def _spare_inputs(graph: ir.Graph) -> Iterator[FileFinding]:
    for value in unneeded_inputs(graph):
        what = "an input that no output needs was left out of the scan"
        yield FileFinding(RULE_MENDED, "info", what, value.name or "")


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
