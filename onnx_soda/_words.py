"""Names of files, and from model and data files, as people read them.

They may hold terminal commands.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

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


MAY_READ = "Give the user that runs onnx-soda the right to read it, and to enter its folders."
"""Advice where the system refuses to open a file."""


def shown_name(path: Path) -> str:
    """Return the last part of ``path``, which is all that errors and reports show of it."""
    name = path.name if path.name not in {"", ".."} else path.resolve().name
    return as_text(name or str(path))


def as_text(name: str) -> str:
    r"""Return the name of a file with escapes for what is no UTF-8 in it.

    Python has lone surrogates there, which neither JSON nor files in UTF-8 can hold.

    >>> as_text("caf\udce9")
    'caf\\udce9'
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


# The scheme of a URL has two letters or more; a single one is a drive of Windows. pathlib makes one
# slash of two, and a relative path may have been made absolute by then.
_URL = re.compile(r"(?:^|/)([a-z][a-z0-9+.-]+):/+(?:[^/@]*@)?([^?#]+)", re.IGNORECASE)


def as_url(path: str | Path) -> str | None:
    """Return the URL that was given in place of a path; None where it is none.

    Args:
        path: What was given; it does not exist.

    Returns:
        Without user and query, which may hold secrets.
    """
    found = _URL.search(str(path))
    return found and f"{found[1]}://{found[2]}"


def not_fetched(url: str) -> tuple[str, str]:
    """Return what to say, and to advise, where a URL was given in place of a path."""
    return (
        f"{url} is not fetched: this command opens no network",
        f"Download it first, for example with `onnx-soda fetch {url} -o FOLDER`.",
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
