"""Makes text from a model or data file safe to print: it may hold terminal commands."""

from __future__ import annotations

import unicodedata

__all__ = ["printable"]

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
