"""Progress on stderr for what takes over a second; nothing where stderr is not a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from onnx_soda.report.plain import printable

__all__ = ["ProgressBar"]

_SILENT_SECONDS = 1.0


class ProgressBar:
    """A progress bar that appears once work has taken over a second.

    Args:
        quiet: Never appear.
    """

    def __init__(self, quiet: bool = False) -> None:
        # Not rich's own test, which environment variables for colour can turn.
        self._enabled = sys.stderr.isatty() and not quiet
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._begin = time.monotonic()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is; see `onnx_soda.options.Progress`."""
        if not self._enabled or time.monotonic() - self._begin < _SILENT_SECONDS:
            return
        if self._bar is None:
            self._bar = _started_bar()
        if stage not in self._tasks:
            for begun in self._bar.tasks:  # a stage may need less than it said
                self._bar.update(begun.id, completed=begun.total)
            self._tasks[stage] = self._bar.add_task(printable(stage), total=total)
        self._bar.update(self._tasks[stage], completed=done, total=total)


def _started_bar() -> Progress:
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.start()
    return bar
