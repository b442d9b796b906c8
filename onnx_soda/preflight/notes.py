"""What is unusual about a file without being a reason to refuse it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from onnx_soda.preflight.finding import FileFinding
from onnx_soda.preflight.inventory import Inventory
from onnx_soda.preflight.tensors import declared_bytes
from onnx_soda.preflight.wire import WireSummary
from onnx_soda.rules.file_safety import (
    RULE_CONTRIB,
    RULE_DOUBLED,
    RULE_NOTES,
    RULE_STRINGS,
    RULE_TRAINING,
    RULE_UNKNOWN_FIELDS,
    RULE_UNUSED,
)

__all__ = ["note_findings"]

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
    contrib = sorted({n.op_type for n in inventory.nodes if n.domain == "com.microsoft"})
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
