"""Limits on memory, processor time and file size of this process, by setrlimit(2)."""

from __future__ import annotations

import mmap
from pathlib import Path

from onnx_soda.model.runtime_options import usable_cores
from onnx_soda.sandbox.limits import Limits

__all__ = ["limit_memory", "limit_time_and_files"]

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
