"""All checks in their order: bytes, then messages, then the files beside the model.

What comes first protects what comes after: nothing is parsed before its size is known, nothing
opened before its place is, and onnx, onnx-ir and ONNX Runtime see only what passed everything.
What the runtime loads though it is not quite valid is mended in memory, before its parts are
checked.

Last comes what is unusual without being a reason to refuse the file: data hidden in weights, files
at the start of tensors, low bits that training did not leave. These are indications, never proof:
compressed or encrypted data looks like the low bits of any weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_soda._errors import ExternalDataError, ModelFileError, NotAClassifierError
from onnx_soda._preflight.definitions import (
    RUNTIME_DOMAINS,
    check_functions,
    check_operators,
    check_versions,
    newest_opset,
)
from onnx_soda._preflight.external import (
    ExternalFile,
    check_external_data,
    check_location,
    place_external_data,
    take_in_linked,
)
from onnx_soda._preflight.file import begins_like_a_file, check_start, read_model_file
from onnx_soda._preflight.inventory import (
    Inventory,
    check_names,
    check_outputs,
    check_tensors,
    declared_bytes,
    take_inventory,
)
from onnx_soda._preflight.limits import DEFAULT_LIMITS, FileFinding, FileLimits, unreadable
from onnx_soda._preflight.mend import mend
from onnx_soda._preflight.sizes import check_made
from onnx_soda._preflight.wire import WireSummary, walk_wire
from onnx_soda._rules import (
    RULE_CONTRIB,
    RULE_DOUBLED,
    RULE_EMBEDDED,
    RULE_LOW_BITS,
    RULE_NOTES,
    RULE_STRINGS,
    RULE_TRAINING,
    RULE_UNKNOWN_FIELDS,
    RULE_UNUSED,
)
from onnx_soda._words import shown_name


@dataclass(frozen=True, eq=False)
class Passed:
    """A model that passed all checks.

    Attributes:
        file: Name without folders, "<bytes>" where bytes were given.
        content: The file's bytes.
        proto: The model, mended; its external tensors name files relative to `folder`.
        ir_version: Version of the file format, as the file says it.
        folder: Where external data lies, links followed; the model's own folder where there is
            none, None where bytes were given.
        external_data: Files that hold weights.
        findings: What is unusual.
    """

    file: str
    content: bytes
    proto: onnx.ModelProto
    ir_version: int
    folder: Path | None
    external_data: tuple[ExternalFile, ...]
    findings: tuple[FileFinding, ...]


def check_model(
    source: Path | bytes,
    limits: FileLimits = DEFAULT_LIMITS,
    *,
    runnable: bool = True,
    name: str = "<bytes>",
) -> Passed:
    """Read a model and check everything that can be checked without another library.

    Args:
        source: Path of the model, or its bytes.
        limits: How large it may be.
        runnable: Refuse also what is harmless and cannot be scanned: a model without outputs, or
            newer than ONNX Runtime. Only this asks ONNX Runtime anything.
        name: Name to show where bytes are given.

    Raises:
        ModelFileError: Not a file, not a model, or a model that contradicts itself.
        ExternalDataError: Weights beside the model are missing, changed, or outside its folder.
        UnsupportedModelError: Over a limit, newer than the runtime, or unknown operators.
        NotAClassifierError: The graph has no outputs.
    """
    path = None if isinstance(source, bytes) else source.absolute()
    file = shown_name(path) if path else name
    content = source if isinstance(source, bytes) else read_model_file(source, limits)
    check_start(content, file)
    wire = walk_wire(content, file, limits)
    proto = _parse(content, file)
    ir_version = proto.ir_version
    inventory = take_inventory(proto)
    newest = newest_opset if runnable else onnx.defs.onnx_opset_version
    mended = mend(inventory, file, newest)
    inventory = take_inventory(proto) if mended else inventory
    check_operators(inventory, file)
    if runnable:
        _check_runnable(proto, file)
    files = _outside(inventory, path, limits)
    check_functions(proto, file, limits)
    check_outputs(inventory, file, limits)
    check_names(inventory, file)
    check_tensors(inventory, file, limits)
    check_made(inventory, file, limits)
    folder = path.parent if path else None
    if files and folder:
        folder = place_external_data(inventory.external, files, folder)
        take_in_linked(inventory.external, files, folder)
    findings = (*mended, *_findings(inventory, wire))
    return Passed(file, content, proto, ir_version, folder, files, findings)


def _check_runnable(proto: onnx.ModelProto, file: str) -> None:
    check_versions(proto, model_opset(proto, file), file)
    if not proto.graph.output:
        raise NotAClassifierError(f"{file} has no outputs", "Export it with its logits as output.")


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
        for tensor in outside:
            for entry in tensor.external_data:
                if entry.key == "location":
                    check_location(entry.value)
        raise ExternalDataError(
            "a model given as bytes cannot have external data", "Give its path instead."
        )
    return check_external_data(outside, path, limits)


def _findings(inventory: Inventory, wire: WireSummary) -> tuple[FileFinding, ...]:
    return (*note_findings(inventory, wire), *payload_findings(inventory.tensors))


# Names of 1,000 classes take some 30 kB; stack traces of torch's exporter some kB each.
_LONG_NOTE = 64 * 2**10
_MANY_NOTES = 16 * 2**20
# Fewer bytes hide nothing worth it, and small test models often have spare weights.
_UNUSED_BYTES = 2**20


def note_findings(inventory: Inventory, wire: WireSummary) -> tuple[FileFinding, ...]:
    """Return what is worth telling about a model that passed the checks."""
    return (*_of_the_bytes(wire), *_of_the_content(inventory))


def _of_the_bytes(wire: WireSummary) -> Iterator[FileFinding]:
    for message, size in sorted(wire.unknown.items()):
        yield FileFinding(
            RULE_UNKNOWN_FIELDS,
            "low",
            f"{size} bytes stand in fields that ONNX does not define",
            message,
        )
    for name in wire.doubled:
        yield FileFinding(RULE_DOUBLED, "low", "a field of the model stands there twice", name)
    if wire.longest_note > _LONG_NOTE or wire.note_bytes > _MANY_NOTES:
        yield FileFinding(
            RULE_NOTES,
            "info",
            f"metadata and doc strings have {wire.note_bytes} bytes, "
            f"the longest {wire.longest_note}",
        )


def _of_the_content(inventory: Inventory) -> Iterator[FileFinding]:
    contrib = sorted({n.op_type for n in inventory.nodes if n.domain in RUNTIME_DOMAINS})
    if contrib:
        yield FileFinding(
            RULE_CONTRIB,
            "info",
            f"the model uses {len(contrib)} of ONNX Runtime's own operators",
            ", ".join(contrib[:20])[:500],
        )
    texts = [t for t in inventory.tensors if t.data_type == onnx.TensorProto.STRING]
    if texts:
        count = sum(len(tensor.string_data) for tensor in texts)
        yield FileFinding(RULE_STRINGS, "info", f"{count} strings in tensors", texts[0].name)
    if inventory.model.training_info:
        yield FileFinding(
            RULE_TRAINING, "info", "the file holds training information, which was not looked at"
        )
    yield from _unused(inventory)


def _unused(inventory: Inventory) -> Iterator[FileFinding]:
    """Weights that nothing reads, where they are most of the file."""
    read = {name for node in inventory.nodes for name in node.input}
    read.update(value.name for graph in inventory.graphs for value in graph.output)
    spare = [
        tensor
        for graph in inventory.graphs
        for tensor in graph.initializer
        if tensor.name not in read
    ]
    size = sum(map(declared_bytes, spare))
    if size > _UNUSED_BYTES and 2 * size > sum(map(declared_bytes, inventory.tensors)):
        yield FileFinding(
            RULE_UNUSED,
            "info",
            f"{len(spare)} weights that no operator reads have {size} bytes, most of the model",
            spare[0].name,
        )


_MOST_FINDINGS = 20
# Weights looked at per tensor: a hidden file begins at the start, and has to be large to be useful.
_SAMPLE = 2**18
# Fewer weights make the statistic unsure: the least expected count per value is then 32.
_FEWEST = 2**13
# Weights whose low 13 bits are zero were rounded to 16-bit numbers, zeroed, or whole numbers.
_ROUNDED = np.uint32(2**13 - 1)
_ROUNDED_SHARE = 0.05
# Chi-square per degree of freedom: 1 where the low bytes are evenly spread (255 degrees, so a
# standard deviation of 0.09). Text and machine code have over 100 at the smallest size.
_MOST_CHI_SQUARE = 4.0


def payload_findings(tensors: Iterable[onnx.TensorProto]) -> tuple[FileFinding, ...]:
    """Look for data hidden in the tensors that are inside the model file.

    Args:
        tensors: Tensors that were checked.

    Returns:
        Findings: at most twenty files, and one of the low bits, at the most uneven tensor.
    """
    files: list[FileFinding] = []
    uneven: list[tuple[float, str]] = []
    for tensor in tensors:
        if not tensor.HasField("raw_data"):
            continue
        raw = tensor.raw_data  # a copy, each time
        kind = begins_like_a_file(raw)
        if kind:
            what = f"the data of a tensor begins like {kind}"
            files.append(FileFinding(RULE_EMBEDDED, "medium", what, tensor.name))
        spread = _uneven_spread(tensor.data_type, raw)
        if spread is not None:
            uneven.append((spread, tensor.name))
    return (*files[:_MOST_FINDINGS], *_low_bits(uneven))


def _low_bits(uneven: Sequence[tuple[float, str]]) -> Iterator[FileFinding]:
    """Tell of all tensors with uneven low bits at once: a way of storing them makes many so.

    Args:
        uneven: Chi-square per degree of freedom, and name.
    """
    if not uneven:
        return
    spread, name = max(uneven)
    if len(uneven) == 1:
        what, most = "a tensor's weights are", f"{spread:.1f}"
    else:
        what, most = f"the weights of {len(uneven)} tensors are", f"up to {spread:.1f}"
    yield FileFinding(
        RULE_LOW_BITS,
        "info",
        f"the low bits of {what} unevenly spread "
        f"(chi-square {most} per degree of freedom, usual 1)",
        name,
    )


def _uneven_spread(kind: int, raw: bytes) -> float | None:
    """Return how unevenly the low bits of weights are spread; None where they are as usual."""
    if kind != TensorProto.FLOAT or len(raw) < 4 * _FEWEST:
        return None
    count = min(len(raw) // 4, _SAMPLE)
    spread = low_byte_spread(np.frombuffer(raw, "<u4", count=count))
    return None if spread is None or spread <= _MOST_CHI_SQUARE else spread


def low_byte_spread(words: NDArray[np.uint32]) -> float | None:
    """Return chi-square per degree of freedom of the low bytes of 32-bit floats.

    None where it says nothing: too few weights, or many that were rounded or take few values.
    """
    if len(words) < _FEWEST:
        return None
    spread = _spread(words)
    if spread <= _MOST_CHI_SQUARE:
        return spread
    exact = words[(words & _ROUNDED) != 0]
    if len(exact) < _FEWEST or len(exact) < (1 - _ROUNDED_SHARE) * len(words):
        return None
    if len(np.unique(exact[:_FEWEST])) < _FEWEST // 2:
        return None
    return _spread(exact)


def _spread(words: NDArray[np.uint32]) -> float:
    counts = np.bincount(words.astype(np.uint8), minlength=256)  # which keeps the low byte
    expected = len(words) / 256
    return float(((counts - expected) ** 2).sum() / expected / 255)
