"""All checks in their order: bytes, then messages, then the files beside the model.

What comes first protects what comes after: nothing is parsed before its size is known, nothing
opened before its place is, and onnx, onnx-ir and ONNX Runtime see only what passed everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from onnx_soda._errors import ExternalDataError, ModelFileError, NotAClassifierError
from onnx_soda._preflight.definitions import check_functions, check_operators, check_versions
from onnx_soda._preflight.external import ExternalFile, check_external_data, place_external_data
from onnx_soda._preflight.file import check_start, read_model_file
from onnx_soda._preflight.inventory import (
    Inventory,
    check_names,
    check_outputs,
    check_tensors,
    take_inventory,
)
from onnx_soda._preflight.limits import DEFAULT_LIMITS, FileFinding, FileLimits, unreadable
from onnx_soda._preflight.sizes import check_made
from onnx_soda._preflight.unusual import note_findings, payload_findings
from onnx_soda._preflight.wire import WireSummary, walk_wire


@dataclass(frozen=True, eq=False)
class Passed:
    """A model that passed all checks.

    Attributes:
        file: Name without folders, "<bytes>" where bytes were given.
        content: The file's bytes.
        proto: The model; its external tensors name files relative to `folder`.
        folder: Where external data lies, links followed; the model's own folder where there is
            none, None where bytes were given.
        external_data: Files that hold weights.
        findings: What is unusual.
    """

    file: str
    content: bytes
    proto: onnx.ModelProto
    folder: Path | None
    external_data: tuple[ExternalFile, ...]
    findings: tuple[FileFinding, ...]


def check_model(source: Path | bytes, limits: FileLimits = DEFAULT_LIMITS) -> Passed:
    """Read a model and check everything that can be checked without another library.

    Args:
        source: Path of the model, or its bytes.
        limits: How large it may be.

    Raises:
        ModelFileError: Not a file, not a model, or a model that contradicts itself.
        ExternalDataError: Weights beside the model are missing, changed, or outside its folder.
        UnsupportedModelError: Over a limit, newer than the runtime, or unknown operators.
        NotAClassifierError: The graph has no outputs.
    """
    path = None if isinstance(source, bytes) else source.absolute()
    file = path.name if path else "<bytes>"
    content = source if isinstance(source, bytes) else read_model_file(source, limits)
    check_start(content, file)
    wire = walk_wire(content, file, limits)
    proto = _parse(content, file)
    inventory = take_inventory(proto)
    check_versions(proto, model_opset(proto, file), file)
    check_operators(inventory, file)
    if not proto.graph.output:
        raise NotAClassifierError(f"{file} has no outputs", "Export it with its logits as output.")
    files = _outside(inventory, path, limits)
    check_functions(proto, file, limits)
    check_outputs(inventory, file, limits)
    check_names(inventory, file)
    check_tensors(inventory, file, limits)
    check_made(inventory, file, limits)
    folder = path.parent if path else None
    if files and folder:
        folder = place_external_data(inventory.external, files, folder)
    return Passed(file, content, proto, folder, files, _findings(inventory, wire))


def model_opset(proto: onnx.ModelProto, file: str) -> int:
    """Return the version of the `ai.onnx` operator set.

    Raises:
        ModelFileError: The model does not say.
    """
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx"):
            return int(entry.version)
    raise ModelFileError(f"{file} does not say which opset it uses", "Export it again.")


def _parse(content: bytes, file: str) -> onnx.ModelProto:
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise unreadable(file) from error
    if not proto.ir_version or not proto.HasField("graph"):
        raise ModelFileError(f"{file} holds no ONNX graph", "Check that it is an ONNX model.")
    return proto


def _outside(
    inventory: Inventory, path: Path | None, limits: FileLimits
) -> tuple[ExternalFile, ...]:
    outside = inventory.external
    if not outside:
        return ()
    if path is None:
        raise ExternalDataError(
            "a model given as bytes cannot have external data", "Give its path instead."
        )
    return check_external_data(outside, path, limits)


def _findings(inventory: Inventory, wire: WireSummary) -> tuple[FileFinding, ...]:
    return (*note_findings(inventory, wire), *payload_findings(inventory.tensors))
