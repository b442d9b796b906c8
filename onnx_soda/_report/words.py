"""Names from files as people read them, and findings in order."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace

from onnx_soda._results import Finding
from onnx_soda._rules import RULES, SEVERITIES

# Control, format (right-to-left marks are), surrogate, private-use and unassigned characters,
# and separators of lines and paragraphs.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""Return the text with every character that does not show replaced by its escape.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _HIDDEN
        else character
        for character in text
    )


def class_label(number: int, names: Sequence[str] | None) -> str:
    """Return a class as people read it: "3 (three)", or its number."""
    if names and number < len(names) and names[number] != str(number):
        return f"{number} ({names[number]})"
    return str(number)


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings with their rules' advice, the gravest first, else in the order they came."""
    advised = [replace(finding, advice=RULES[finding.rule_id].advice) for finding in findings]
    return tuple(sorted(advised, key=lambda finding: SEVERITIES.index(finding.severity)))
