"""Runs a measurement in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

__all__ = ["MEBIBYTE_UNITS", "in_child", "peak_mebibytes"]

Result = TypeVar("Result")

# What getrusage counts in: KiB, on macOS bytes.
MEBIBYTE_UNITS = 2**20 if sys.platform == "darwin" else 2**10


def peak_mebibytes() -> float:
    """Return the most memory that this process has had in RAM, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEBIBYTE_UNITS


def in_child(function: Callable[..., Result], *arguments: Any) -> tuple[Result, float]:
    """Call a function of a module in a fresh process.

    Linux hands the parent's memory at the time of the fork down as the child's first peak, so the
    parent must not hold data; what both have imported is in every figure.

    Returns:
        What the function returned, and the peak memory of the process in MiB.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measured, function, arguments).result()


def _measured(function: Callable[..., Result], arguments: tuple[Any, ...]) -> tuple[Result, float]:
    result = function(*arguments)
    return result, peak_mebibytes()
