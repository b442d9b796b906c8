"""Confines this process, for good, before it opens a stranger's file."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from onnx_soda._options import Limits, usable_cores
from onnx_soda._sandbox.linux import give_up_system_calls, restrict_files

# Small models are computed on in a second; what is left for Python to end itself.
_SPARE_SECONDS = 5


def limit_time_and_files(limits: Limits, largest_file: int) -> bool:
    """Limit processor time, the size of files written, and core dumps.

    Args:
        limits: What the process may take.
        largest_file: Bytes.

    Returns:
        Whether it is in force; False on systems without setrlimit.
    """
    seconds = int(limits.seconds * usable_cores()) + _SPARE_SECONDS
    return (
        _lower("RLIMIT_CPU", seconds)
        and _lower("RLIMIT_FSIZE", largest_file)
        and _lower("RLIMIT_CORE", 0)
    )


def limit_memory(limits: Limits) -> bool:
    """Limit the address space to what is taken now and the memory allowed.

    Called when all libraries are loaded: their files are mapped into the address space, which for
    torch with CUDA alone are gigabytes that take no memory.

    Returns:
        Whether it is in force; False where the system does not tell what is taken.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return False
    return _lower("RLIMIT_AS", pages * mmap.PAGESIZE + limits.memory)


def _lower(name: str, value: int) -> bool:
    """Lower a limit for good; one that is lower already stays."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    kind = getattr(resource, name)
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))
    return True


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
_PARTS = ("onnx_soda", "onnx_soda._converters")
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
