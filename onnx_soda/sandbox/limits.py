"""How much a child process may take."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

__all__ = ["DEFAULT_SECONDS", "Limits", "usual_memory"]

# A scan of a network of 200 million weights needs about 5 GiB: its weights lie in memory as read,
# as graph, and in each session.
_USUAL_MEMORY = 8 * 2**30
# Not more than this share of what the machine has.
_MOST_OF_MACHINE = 0.75
# Ten times the longest scan measured (docs/performance.md).
DEFAULT_SECONDS = 3600.0


def usual_memory() -> int:
    """Return the bytes a child may use where the user does not say."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not a POSIX system
        return _USUAL_MEMORY
    return min(_USUAL_MEMORY, int(machine * _MOST_OF_MACHINE))


@dataclass(frozen=True)
class Limits:
    """What a child process may take.

    Attributes:
        memory: Bytes of memory beyond what the program itself needs.
        seconds: Wall-clock time; also, times the number of cores, processor time.
    """

    memory: int = field(default_factory=usual_memory)
    seconds: float = DEFAULT_SECONDS
