"""System calls that this process gives up: network, other programs, other processes.

Linux's seccomp in filter mode, https://docs.kernel.org/userspace-api/seccomp_filter.html; a filter
is a program of classic BPF (linux/filter.h) that looks at each call's number. What is refused
fails with EPERM. Threads started later inherit it; it cannot be undone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from dataclasses import dataclass

from onnx_soda.sandbox.kernel import control, no_new_privileges

__all__ = ["give_up_system_calls"]

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
