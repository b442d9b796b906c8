"""Measures how long the stages of a scan or a repair take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Clock"]


class Clock:
    """Seconds per stage.

    Attributes:
        seconds: By name, in the order in which the stages first ended.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def result(self) -> dict[str, float]:
        """Return the stages and "total"."""
        return {**self.seconds, "total": time.perf_counter() - self._start}
