"""Names from a model or data file as people read them; they may hold terminal commands."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# Control, format (right-to-left marks are), surrogate, private-use and unassigned characters,
# and separators of lines and paragraphs.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Times under two minutes are told in seconds.
_SECONDS_OF_MINUTES = 120


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


def pair_label(victim: int, target: int, names: Sequence[str] | None) -> str:
    """Return a pair of classes as people read it: "8 -> 3"."""
    return " -> ".join(class_label(label, names) for label in (victim, target))


def duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> [duration(one) for one in (2.4, 90, 600, 7830)]
    ['2 s', '90 s', '10 min', '2 h 10 min']
    """
    if seconds < _SECONDS_OF_MINUTES:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
