"""The few calls to the Linux kernel that Python has no function for."""

from __future__ import annotations

import ctypes
import signal
from typing import Any

__all__ = ["control", "die_with_parent", "no_new_privileges", "system_call"]

# linux/prctl.h
_SET_PARENT_DEATH_SIGNAL = 1
_SET_NO_NEW_PRIVILEGES = 38


def system_call(number: int, *arguments: Any) -> int:
    """Make a system call; -1 where it failed."""
    return int(_library().syscall(ctypes.c_long(number), *map(_wide, arguments)))


def control(operation: int, *arguments: Any) -> bool:
    """Call prctl(2); tell whether it did what was asked."""
    return bool(_library().prctl(ctypes.c_int(operation), *map(_wide, arguments)) == 0)


def no_new_privileges() -> bool:
    """Give up, for good, what starting a program with special rights would give."""
    return control(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def die_with_parent() -> bool:
    """Have this process killed when its parent ends."""
    return control(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _wide(value: Any) -> Any:
    """Numbers are passed in whole registers, which C's int does not fill."""
    return ctypes.c_ulong(value) if isinstance(value, int) else value
