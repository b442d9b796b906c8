"""Confines this process, for good, before it opens a stranger's file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from onnx_soda.sandbox.kernel import die_with_parent
from onnx_soda.sandbox.landlock import restrict_files
from onnx_soda.sandbox.seccomp import give_up_system_calls

__all__ = ["confine_files", "confine_network", "die_with_parent"]

# What Python, the runtimes and the C library read besides the files of the program: shared
# libraries and where they are, what the machine is like, time zones.
_SYSTEM = (
    "/usr", "/lib", "/lib64", "/opt", "/nix/store", "/gnu/store",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
    "/etc/nv_tegra_release",
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems",
    "/proc/driver", "/proc/sys/vm",
    "/sys/devices", "/sys/bus", "/sys/module", "/sys/fs/cgroup",
    "/dev/urandom", "/dev/random", "/dev/zero",
)  # fmt: skip
# Parts of the package that lie outside its own folder where it is installed to be edited.
_PARTS = ("onnx_soda", "onnx_soda.converters")
_DEVICES = ("/dev/null",)
# CUDA talks to its driver through these, and writes to memory shared with it.
_CUDA_DEVICES = ("/dev/nvidia*", "/dev/nvidia-caps", "/dev/shm")  # noqa: S108 - not ours to name


def confine_files(inputs: Iterable[Path], folder: Path, libraries: Iterable[str]) -> bool:
    """Let this process read its program and its inputs, and write to one folder.

    Args:
        inputs: What the job reads.
        folder: Where it may write.
        libraries: Further folders with shared libraries.

    Returns:
        Whether it is in force.
    """
    cuda = [path for pattern in _CUDA_DEVICES for path in Path("/").glob(pattern.lstrip("/"))]
    devices = [path for path in cuda if path.name.startswith("nvidia")]
    program = [sys.prefix, sys.base_prefix, *filter(None, sys.path), *_own_code()]
    readable = [Path(name) for name in (*_SYSTEM, *program, *libraries)]
    writable = [folder, *map(Path, _DEVICES), *(cuda if devices else [])]
    return restrict_files([*readable, *inputs], writable, devices=bool(devices))


def _own_code() -> Iterator[str]:
    """Yield the folders of this package: under none of the interpreter's where it is edited."""
    for name in _PARTS:
        found = find_spec(name)
        yield from (found.submodule_search_locations or ()) if found else ()


def confine_network() -> bool:
    """Give up the network, other programs and other processes; tell whether it is in force."""
    return give_up_system_calls()
