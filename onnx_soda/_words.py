"""Names from a model or data file as people read them; they may hold terminal commands."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

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


def pair_label(
    victim: int | None, target: int, names: Sequence[str] | None, arrow: str = " -> "
) -> str:
    """Return a pair of classes as people read it: "8 -> 3"; "any class -> 3" without a victim."""
    source = "any class" if victim is None else class_label(victim, names)
    return arrow.join((source, class_label(target, names)))
