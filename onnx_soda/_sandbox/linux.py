"""What Linux can confine a process by: Landlock for files, seccomp for system calls.

Landlock limits file access (ABI 1, Linux 5.13, and later):
https://docs.kernel.org/userspace-api/landlock.html, numbers from linux/landlock.h. There is no
kept-up Python package for it.

Seccomp in filter mode takes system calls away: network, other programs, other processes. A filter
is a program of classic BPF (linux/filter.h) that looks at each call's number; what is refused fails
with EPERM. https://docs.kernel.org/userspace-api/seccomp_filter.html

Both restrict the calling thread and what it starts later, so they must come before anything starts
threads. Neither can be undone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


_SET_SECCOMP, _MODE_FILTER = 22, 2
# linux/seccomp.h
_ALLOW, _FAIL, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
# linux/filter.h: load a word of the call's description, jump on equal or on greater or equal,
# on a bit that is set, return.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# Offsets in struct seccomp_data; of an argument the low half, which numbers of processes and flags
# of clone have room in (both machines below are little-endian).
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
# linux/sched.h: a thread of this process, and no process.
_CLONE_THREAD = 0x10000
# Calls of the x32 ABI carry this bit; no filter of 64-bit numbers would see them.
_X32 = 0x40000000


@dataclass(frozen=True)
class _Machine:
    """Numbers of an architecture.

    Attributes:
        audit: Its own.
        calls: Of the calls given up.
        prlimit64: Allowed for this process alone, which limits itself.
        tgkill: The same, for abort(3).
        clone: Allowed for threads alone: a process would outlive limits of time and memory.
        clone3: Said not to be there, since its flags lie in memory; libraries then take clone.
    """

    audit: int
    calls: tuple[int, ...]
    prlimit64: int
    tgkill: int
    clone: int
    clone3: int = 435


# In this order: socket, connect, execve, execveat, ptrace, process_vm_readv, process_vm_writev,
# kill, tkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_open, pidfd_send_signal, pidfd_getfd,
# process_madvise, setsid, setpgid, setpriority, ioprio_set, sched_setparam, sched_setscheduler,
# sched_setattr, kcmp, io_uring_setup, bpf, mount, unshare, setns,
# add_key, request_key, keyctl, perf_event_open, userfaultfd; fork and vfork, which ARM64 has not.
_MACHINES = {
    "x86_64": _Machine(0xC000003E, (
        41, 42, 59, 322, 101, 310, 311, 62, 200, 129, 297, 434, 424, 438, 440, 112, 109, 141, 251,
        142, 144, 314, 312, 425, 321, 165, 272, 308, 248, 249, 250, 298, 323, 57, 58,
    ), prlimit64=302, tgkill=234, clone=56),
    "aarch64": _Machine(0xC00000B7, (
        198, 203, 221, 281, 117, 270, 271, 129, 130, 138, 240, 434, 424, 438, 440, 157, 154, 140,
        30, 118, 119, 274, 272, 425, 280, 40, 97, 268, 217, 218, 219, 241, 282,
    ), prlimit64=261, tgkill=131, clone=220),
}  # fmt: skip


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (
        ("length", ctypes.c_ushort),
        ("instructions", ctypes.POINTER(_Instruction)),
    )


def give_up_system_calls() -> bool:
    """Give up the network, starting programs, and reaching into other processes.

    Returns:
        Whether it is in force; False on other systems and architectures.
    """
    machine = _MACHINES.get(platform.machine()) if sys.platform.startswith("linux") else None
    if machine is None:
        return False
    listing = _filter(machine)
    instructions = (_Instruction * len(listing))(*listing)
    program = _Program(len(listing), instructions)
    return no_new_privileges() and control(
        _SET_SECCOMP, _MODE_FILTER, ctypes.addressof(program), 0, 0
    )


def _filter(machine: _Machine) -> list[_Instruction]:
    refuse = _Instruction(_RETURN, 0, 0, _FAIL | errno.EPERM)
    listing = [
        _Instruction(_LOAD, 0, 0, _ARCHITECTURE),
        _Instruction(_IF_EQUAL, 1, 0, machine.audit),
        _Instruction(_RETURN, 0, 0, _KILL),
        _Instruction(_LOAD, 0, 0, _NUMBER),
        _Instruction(_IF_AT_LEAST, 0, 1, _X32),
        refuse,
    ]
    for number in machine.calls:
        listing += [_Instruction(_IF_EQUAL, 0, 1, number), refuse]
    absent = _Instruction(_RETURN, 0, 0, _FAIL | errno.ENOSYS)
    listing += [_Instruction(_IF_EQUAL, 0, 1, machine.clone3), absent]
    listing += _where_first(machine.prlimit64, _IF_EQUAL, 0)
    listing += _where_first(machine.tgkill, _IF_EQUAL, os.getpid())
    listing += _where_first(machine.clone, _IF_SET, _CLONE_THREAD)
    return [*listing, _Instruction(_RETURN, 0, 0, _ALLOW)]


def _where_first(number: int, test: int, value: int) -> list[_Instruction]:
    """Allow a call where its first argument passes a test, and refuse it otherwise."""
    return [
        _Instruction(_IF_EQUAL, 0, 4, number),
        _Instruction(_LOAD, 0, 0, _FIRST_ARGUMENT),
        _Instruction(test, 1, 0, value),
        _Instruction(_RETURN, 0, 0, _FAIL | errno.EPERM),
        _Instruction(_RETURN, 0, 0, _ALLOW),
    ]
