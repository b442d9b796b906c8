"""How the command line ends: exit codes, errors, progress, and reports put out."""

from __future__ import annotations

import io
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from onnx_soda._errors import OutputError, explained
from onnx_soda._options import NOTE
from onnx_soda._results import FILES, Evidence, Finding, Outcome, ScanFailure, ScanReport
from onnx_soda._rules import SEVERITIES, WEIGHTY, Severity
from onnx_soda._rules import UNSAFE as UNSAFE_RULES
from onnx_soda._sandbox.process import ask_children_to_end
from onnx_soda._system import write_text
from onnx_soda._words import printable

from .options import in_flags

CLEAN = 0
FOUND = 1
# Also wrong usage: Typer exits with 2 on its own.
COULD_NOT_SCAN = 2
INCONCLUSIVE = 3
UNSAFE = 4


def of_report(report: ScanReport, fail_on: Severity) -> int:
    """Return the exit code of a scan.

    Args:
        report: The scan.
        fail_on: Findings of this severity or a worse one are reason for 1.

    Returns:
        4 where the file is unsafe; 1 with such a finding; else 0 where the verdict is "clean", 3
        where it is not: lesser findings that speak for a backdoor are no proof, and no "clean"
        either. Accepted findings do not count: where a "backdoor" has no others, 0; a file that
        was refused was not scanned, so it is then 3.
    """
    failing = SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    counted = [finding for finding in report.findings if finding.accepted is None]
    if report.verdict == "unsafe" and any(finding.rule_id in UNSAFE_RULES for finding in counted):
        return UNSAFE
    if any(finding.severity in failing for finding in counted):
        return FOUND
    # What says nothing about the verdict leaves it as it is known.
    open_ = any(finding.severity in WEIGHTY for finding in counted)
    may_be_known = report.verdict == "backdoor" or FILES in report.evidence
    known = may_be_known and not open_ and bool(report.findings)
    return CLEAN if known or report.verdict in ("clean", "no finding") else INCONCLUSIVE


def of_outcome(outcome: Outcome, fail_on: Severity) -> int:
    """Return the exit code of one of many scans; see `of_report`."""
    return COULD_NOT_SCAN if isinstance(outcome, ScanFailure) else of_report(outcome, fail_on)


def of_worst(verdict: str, severity: Severity | Literal[""], fail_on: Severity) -> int:
    """Return the exit code of a scan of which no finding is accepted; see `of_report`.

    Args:
        verdict: Its verdict.
        severity: Of its worst finding; "" where there is none.
        fail_on: As for `of_report`.
    """
    if verdict == "unsafe":
        return UNSAFE
    if severity in SEVERITIES[: SEVERITIES.index(fail_on) + 1]:
        return FOUND
    return CLEAN if verdict in ("clean", "no finding") else INCONCLUSIVE


def without_verdict(code: int) -> int:
    """Return the exit code where no verdict is to have one, as --exit-zero says."""
    return code if code == COULD_NOT_SCAN else CLEAN


def worst(codes: Iterable[int]) -> int:
    """Return that of several: found, else unsafe, could not scan, inconclusive, clean."""
    order = (FOUND, UNSAFE, COULD_NOT_SCAN, INCONCLUSIVE, CLEAN)
    return min(codes, key=order.index, default=CLEAN)


# Width of text reports that do not go to a terminal; digests and tensor names fit.
_FILE_WIDTH = 120


def report_in_flags(report: ScanReport) -> ScanReport:
    """Return a report whose sentences name flags where the library's name options."""
    data = report.dataset
    return replace(
        report,
        reasons=tuple(map(in_flags, report.reasons)),
        findings=tuple(map(_finding_in_flags, report.findings)),
        dataset=replace(data, notes=tuple(map(in_flags, data.notes))) if data else None,
        evidence={name: _evidence_in_flags(one) for name, one in report.evidence.items()},
    )


def _finding_in_flags(finding: Finding) -> Finding:
    return replace(finding, message=in_flags(finding.message), advice=in_flags(finding.advice))


def _evidence_in_flags(evidence: Evidence) -> Evidence:
    return replace(
        evidence,
        reasons=tuple(map(in_flags, evidence.reasons)),
        findings=tuple(map(_finding_in_flags, evidence.findings)),
        unexamined=tuple(map(in_flags, evidence.unexamined)),
        notes=tuple(map(in_flags, evidence.notes)),
    )


def deliver(content: str | RenderableType, output: Path | None) -> None:
    """Put a report into a file, or on stdout where none is given.

    What is for people has no colours where it does not go to a terminal.

    Raises:
        OutputError: It cannot be written.
    """
    if isinstance(content, str):
        _deliver_text(content, output)
        return
    if output is None and sys.stdout is not None and sys.stdout.isatty():
        Console(highlight=False).print(content)
        return
    buffer = io.StringIO()
    # Never coloured: not where an environment variable asks for colours on terminals either.
    console = Console(file=buffer, width=_FILE_WIDTH, highlight=False, force_terminal=False)
    console.print(content)
    lines = (line.rstrip() for line in buffer.getvalue().splitlines())
    _deliver_text("\n".join(lines) + "\n", output)


def _deliver_text(text: str, output: Path | None) -> None:
    if output is not None:
        write_text(output, text)
        return
    if sys.stdout is None:
        raise OutputError("there is no stdout to write to", "Use --output FILE.")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        abandon_stdout()
        raise OutputError(
            f"the report cannot be written to stdout: {error.strerror}",
            "Use --output FILE, or check what reads it.",
        ) from error


def abandon_stdout() -> None:
    """Keep Python from writing the rest at exit, which would fail again with another exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


_ENDING = b"onnx-soda: ending; what is done is reported. Ctrl-C again ends it at once.\n"
# Characters of one message: it may quote a name of a megabyte from a hostile file.
_MOST_SHOWN = 1000


@contextmanager
def failing_cleanly(debug: bool) -> Iterator[None]:
    """Report errors of the block and exit with 2; Python's own way out, 1, means "found".

    Where a file is refused as unsafe, exit with 4.
    An interrupt of the block goes the way that removes what is half done.

    Args:
        debug: Print the traceback too.
    """
    try:
        with _interrupts_as(signal.default_int_handler):
            yield
    except typer.Exit:
        raise
    except Exception as error:
        if debug:
            tell_traceback(error)
        told = explained(error)
        rule = f" ({told.rule_id})" if told.rule_id else ""
        complain(in_flags(told.message) + rule, in_flags(told.advice))
        raise typer.Exit(UNSAFE if told.unsafe else COULD_NOT_SCAN) from error


def tell_traceback(error: BaseException) -> None:
    """Print a traceback to stderr; it may quote what a hostile file holds."""
    for line in "".join(traceback.format_exception(error)).splitlines():
        print(_short(line), file=sys.stderr)


def complain(message: str, advice: str) -> None:
    """Print an error to stderr: what is wrong, then what to do."""
    print(f"onnx-soda: error: {_short(message)}", file=sys.stderr)
    if advice:
        print(f"  {_short(advice)}", file=sys.stderr)


def _short(text: str) -> str:
    shown = printable(text[:_MOST_SHOWN])
    return shown if len(text) <= _MOST_SHOWN else f"{shown} ..."


_SILENT_SECONDS = 1.0
# An estimate is made when so many steps of a stage are done and took so long, and told where so
# many seconds are left.
_FIRST_STEPS, _FIRST_SECONDS, _LONG = 5, 3.0, 45.0


@contextmanager
def stoppable(elsewhere: bool = False) -> Iterator[Callable[[], bool]]:
    """Let a first Ctrl-C end the scans of the block early, with a report of what is done.

    A second one, or one while nothing is scanned, ends the program.

    Args:
        elsewhere: The scans are not children of this process, and the block looks by itself at
            whether it is to end.

    Yields:
        What tells whether there was a first one.
    """
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        if asked or not (elsewhere or ask_children_to_end()):
            raise KeyboardInterrupt
        asked = True
        with suppress(OSError):
            os.write(2, _ENDING)

    with _interrupts_as(ask):
        yield lambda: asked


@contextmanager
def _interrupts_as(handler: Callable[..., object]) -> Iterator[None]:
    """Let Ctrl-C call a handler; only the main thread can say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class ProgressBar:
    """A progress bar that appears once work has taken over a second.

    Where stderr is no terminal, a plain line twice a minute stands in its place.

    Args:
        quiet: Never appear, and tell no estimate.
        timeout: Seconds that the work may take.
    """

    def __init__(self, quiet: bool = False, timeout: float = math.inf) -> None:
        self._quiet = quiet
        self._estimates = Estimates(timeout)
        # Not rich's own test, which environment variables for colour can turn.
        self._enabled = sys.stderr.isatty() and not quiet
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._begin = time.monotonic()
        self._lines = None if quiet or self._enabled else _Lines()

    def __enter__(self) -> ProgressBar:
        if self._lines is not None:
            self._lines.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._lines is not None:
            self._lines.stop()

    def within(self, model: str, stage: str, done: int, total: int) -> None:
        """Take note of how far one of many models is; only plain lines tell it.

        Args:
            model: Its path.
            stage: See `onnx_soda._options.Progress`.
            done: Steps done.
            total: Steps in all.
        """
        # What is going to be done is told of one model alone.
        if self._lines is not None and total:
            self._lines.within(model, stage, done, total)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is; see `onnx_soda._options.Progress`."""
        if total:
            self._show(stage, done, total)
        elif not self._quiet:
            # What is going to be done, in a sentence.
            self._print(f"onnx-soda: {_short(in_flags(stage))}")

    def _show(self, stage: str, done: int, total: int) -> None:
        stage, _, note = stage.partition(NOTE)
        if self._lines is not None:
            self._lines.take(stage, note, done, total)
        estimate = None if self._quiet else self._estimates.of(stage, done, total)
        if estimate is not None:
            self._print(estimate)
        if not self._enabled or time.monotonic() - self._begin < _SILENT_SECONDS:
            return
        if self._bar is None:
            self._bar = _started_bar()
        if stage not in self._tasks:
            for begun in self._bar.tasks:  # a stage may need less than it said
                self._bar.update(begun.id, completed=begun.total)
            self._tasks[stage] = self._bar.add_task(printable(stage), total=total)
        shown = printable(f"{stage}{NOTE}{note}" if note else stage)
        self._bar.update(self._tasks[stage], completed=done, total=total, description=shown)

    def _print(self, text: str) -> None:
        if self._bar is None:
            print(printable(text), file=sys.stderr)
        else:
            self._bar.console.print(text, markup=False, highlight=False)


# As often as a plain line comes. Logs of CI systems stay short, and nobody takes the run for dead.
LINE_SECONDS = 30.0


@dataclass(frozen=True)
class _Stage:
    """How far a stage is; when it was first heard of, with how many steps done, and when last."""

    name: str
    note: str
    done: int
    total: int
    since: float
    first: int
    heard: float

    def told(self, now: float) -> str:
        """Return it in words, with the time left where that can be told."""
        share = f" ({self.done / self.total:.0%})" if self.total else ""
        text = f"{self.name}: {self.done:,} of {self.total:,}{share}"
        steps = self.done - self.first
        if steps and self.done < self.total:
            left = (now - self.since) / steps * (self.total - self.done)
            text += f", about {_minutes(left)} left"
        return f"{text}{NOTE}{self.note}" if self.note else text


class _Lines:
    """Says on stderr, from time to time, how far the work is."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._begin = time.monotonic()
        self._stage: _Stage | None = None
        # Of many models, by path.
        self._models: dict[str, _Stage] = {}

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def stop(self) -> None:
        """Tell no more."""
        self._over.set()
        self._thread.join()

    def take(self, stage: str, note: str, done: int, total: int) -> None:
        """Take note of how far the work is."""
        self._stage = _after(self._stage, stage, note, done, total)

    def within(self, model: str, stage: str, done: int, total: int) -> None:
        """Take note of how far one of many models is."""
        stage, _, note = stage.partition(NOTE)
        self._models[model] = _after(self._models.get(model), stage, note, done, total)

    def _tell(self) -> None:
        while not self._over.wait(LINE_SECONDS):
            now = time.monotonic()
            parts = [self._stage.told(now)] if self._stage else [f"{now - self._begin:.0f} s"]
            for place, stage in list(self._models.items()):
                if now - stage.heard < LINE_SECONDS:
                    parts.append(f"{Path(place).name}: {stage.told(now)}")
            with suppress(OSError, ValueError):  # nobody reads it any more
                print(printable(f"onnx-soda: at work: {'. '.join(parts)}."), file=sys.stderr)


def _after(before: _Stage | None, name: str, note: str, done: int, total: int) -> _Stage:
    """Return a stage as it is now; what is known of its begin is kept."""
    now = time.monotonic()
    if before is None or before.name != name or done < before.done:
        return _Stage(name, note, done, total, now, done, now)
    return replace(before, note=note, done=done, total=total, heard=now)


class Estimates:
    """Estimates the time that a stage takes, from its first steps; once for each stage.

    Args:
        timeout: Seconds that all of the work may take.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._begin = time.monotonic()
        self._stages: dict[str, tuple[float, int]] = {}
        self._told: set[str] = set()

    def of(self, stage: str, done: int, total: int) -> str | None:
        """Return a sentence on how long a stage takes, where that is long; None otherwise.

        Args:
            stage: Its name.
            done: Steps done.
            total: Steps in all.
        """
        now = time.monotonic()
        begin, first = self._stages.setdefault(stage, (now, done))
        steps = done - first
        if stage in self._told or steps < _FIRST_STEPS or now - begin < _FIRST_SECONDS:
            return None
        self._told.add(stage)
        left = (now - begin) / steps * (total - done)
        if left < _LONG:
            return None
        told = f"onnx-soda: {stage}: {total} in all, which takes about {_minutes(left)} more"
        if now + left - self._begin > self._timeout:
            told += f"; --timeout {self._timeout:g} ends it before"
        return f"{told}."


def _minutes(seconds: float) -> str:
    minutes = round(seconds / 60)
    return "a minute" if minutes < 2 else f"{minutes} minutes"


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
