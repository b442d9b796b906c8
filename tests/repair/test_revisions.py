"""Which revisions of operators are converted, by the schemas of the installed onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx import defs
from onnx2torch.node_converters import get_converter

from onnx_soda._bridge import operators
from onnx_soda._bridge.operators.registry import OWN_DOMAIN, OWN_OPERATORS, SAME_MEANING
from onnx_soda._preflight.definitions import newest_opset

assert operators.__all__  # imported for what it registers

HISTORY: dict[str, list[Any]] = {}
for _schema in defs.get_all_schemas_with_history():
    if _schema.domain == "" and not _schema.deprecated:
        HISTORY.setdefault(_schema.name, []).append(_schema)
OLDEST_OPSET = 11


def _form(schema: Any) -> tuple[Any, ...]:
    """Return what a converter reads: all but the element types and the wording."""
    inputs = [(one.name, str(one.option)) for one in schema.inputs]
    outputs = [(one.name, str(one.option)) for one in schema.outputs]
    attributes = {
        name: (str(one.type), one.required, str(one.default_value))
        for name, one in schema.attributes.items()
    }
    return inputs, outputs, attributes


@pytest.mark.parametrize("operator", SAME_MEANING)
def test_revisions_said_to_mean_the_same_have_the_same_form(operator: str) -> None:
    known, others = SAME_MEANING[operator]
    schemas = {schema.since_version: schema for schema in HISTORY[operator]}
    for revision in others:
        assert _form(schemas[revision]) == _form(schemas[known])


def _converts(operator: str, revision: int) -> bool:
    if OWN_OPERATORS.get(operator, revision + 1) <= revision:
        return bool(get_converter(operator, 1, OWN_DOMAIN))
    try:
        return bool(get_converter(operator, revision))
    except NotImplementedError:
        return False


# Revisions that no file of an opset from OLDEST_OPSET to the newest of ONNX Runtime refers to.
def _in_use(operator: str) -> list[int]:
    revisions = sorted(schema.since_version for schema in HISTORY[operator])
    first = max((r for r in revisions if r <= OLDEST_OPSET), default=0)
    return [r for r in revisions if first <= r <= newest_opset()]


def test_an_operator_converted_at_one_opset_is_converted_at_all() -> None:
    """From opset 11 to the newest that ONNX Runtime takes, nothing lapses with a new revision."""
    missing = {}
    for operator in HISTORY:
        revisions = _in_use(operator)
        lacking = [r for r in revisions if not _converts(operator, r)]
        if len(lacking) < len(revisions) and lacking:
            missing[operator] = lacking
    assert missing == {}


def test_the_document_lists_the_operators_that_are_converted() -> None:
    text = (Path(__file__).parents[2] / "docs" / "bridge.md").read_text(encoding="utf-8")
    listed = text.partition("## What is converted\n\n")[2].partition("\n\n")[0]
    converted = [name for name in sorted(HISTORY) if all(_converts(name, r) for r in _in_use(name))]
    assert listed.rstrip(".").replace("\n", " ").split(", ") == [
        name for name in converted if _in_use(name)
    ]
