"""File access of this process, limited by Linux's Landlock (ABI 1, Linux 5.13, and later).

https://docs.kernel.org/userspace-api/landlock.html; numbers from linux/landlock.h. There is no
kept-up Python package for it. What is restricted is the calling thread and what it starts later,
so it must come before anything starts threads. It cannot be undone.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from onnx_soda.sandbox.kernel import no_new_privileges, system_call

__all__ = ["restrict_files"]

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 1 << 1, 1 << 2, 1 << 3
_READ = _READ_FILE | _READ_DIR
# Rights by the ABI that brought them: all of the first thirteen, then refer, truncate, and
# commands to devices.
_FIRST = (1 << 13) - 1
_REFER, _TRUNCATE, _DEVICE = (2, 1 << 13), (3, 1 << 14), (5, 1 << 15)
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE[1] | _DEVICE[1]
# Signals to other processes and abstract sockets, both from ABI 6.
_SCOPES_ABI, _SCOPES = 6, 0b11


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scopes", ctypes.c_uint64),
    )


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def restrict_files(
    readable: Iterable[Path], writable: Iterable[Path], devices: bool = False
) -> bool:
    """Let this process read and write nothing but what is named, and start no program.

    Args:
        readable: Files, and folders with all in them; those that do not exist are passed over.
        writable: The same, to read and write.
        devices: Leave commands to devices alone (CUDA needs them).

    Returns:
        Whether it is in force; False where the system has no Landlock.
    """
    if not sys.platform.startswith("linux"):
        return False
    version = system_call(_CREATE_RULESET, None, 0, _ASK_VERSION)
    if version < 1:
        return False
    handled = _FIRST
    for since, right in (_REFER, _TRUNCATE, _DEVICE):
        if version >= since and not (devices and right == _DEVICE[1]):
            handled |= right
    scoped = version >= _SCOPES_ABI
    rules = _Ruleset(handled, 0, _SCOPES if scoped else 0)
    # Older kernels take the structure cut to what they know.
    size = ctypes.sizeof(rules) if scoped else ctypes.sizeof(ctypes.c_uint64)
    ruleset = system_call(_CREATE_RULESET, ctypes.byref(rules), size, 0)
    if ruleset < 0:
        return False
    try:
        for path in readable:
            _allow(ruleset, path, _READ & handled)
        for path in writable:
            _allow(ruleset, path, handled & ~_EXECUTE)
        return no_new_privileges() and system_call(_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not path.is_dir():
            rights &= _OF_FILES
        rule = _Beneath(rights, opened)
        system_call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(opened)
