"""Hands a job to a child process and brings back its answer; never parses a model itself."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from onnx_soda._errors import (
    CrashError,
    MemoryLimitError,
    SandboxError,
    TimeLimitError,
    explained,
)
from onnx_soda._options import Limits, Progress, no_progress
from onnx_soda._results import SandboxInfo
from onnx_soda._sandbox.jobs import Job, ScanJob
from onnx_soda._sandbox.messages import (
    MOST_BYTES,
    Answer,
    Failure,
    Interim,
    ProgressMessage,
    Ready,
    answer_of,
    error_of,
    read_message,
    request_for,
)
from onnx_soda._sandbox.process import Child, child_process, private_folder

# Of what libraries print before they crash; the end of it says why.
_KEPT_STDERR = 64 * 1024
# Of a long line, what is read at once.
_PART = 2**20
# Messages that may wait; a child that talks faster has to wait itself.
_MOST_WAITING = 1000
# Seconds that a child that has closed its end may take to be gone, and that a line may take on.
_ENDING = 5.0


class Listener:
    """Listens to a child's stdout, line by line, and keeps the end of its stderr.

    Args:
        child: The child.
    """

    def __init__(self, child: Child) -> None:
        self._lines: queue.Queue[bytes] = queue.Queue(_MOST_WAITING)
        self._printed: deque[bytes] = deque(maxlen=_KEPT_STDERR // 1024)
        # When the last part of a line came whose end has not come yet.
        self._begun: float | None = None
        assert child.stdout is not None  # noqa: S101 - both are pipes
        assert child.stderr is not None  # noqa: S101
        for target, stream in ((self._read, child.stdout), (self._keep, child.stderr)):
            threading.Thread(target=target, args=(stream,), daemon=True).start()

    def line(self, seconds: float) -> bytes | None:
        """Return the next line, b"" when the child has closed its end, None when none came yet."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return None
        self._lines.task_done()
        return line

    @property
    def printed(self) -> str:
        """The end of what was printed to stderr."""
        return b"".join(self._printed).decode(errors="replace")

    @property
    def amid_a_line(self) -> bool:
        """Whether a part of a line has come just now, and not its end."""
        begun = self._begun
        return begun is not None and time.monotonic() - begun < _ENDING

    def _read(self, stream: IO[bytes]) -> None:
        parts: list[bytes] = []
        try:
            while part := stream.readline(_PART):
                self._begun = time.monotonic()
                parts.append(part)
                if part.endswith(b"\n") or len(parts) * _PART >= MOST_BYTES:
                    self._lines.put(b"".join(parts))
                    if len(parts) > 1:
                        # Two long lines are never in memory.
                        parts.clear()
                        self._lines.join()
                    parts, self._begun = [], None
        except (OSError, ValueError):  # closed while it was read
            pass
        if parts:
            self._lines.put(b"".join(parts))
        self._lines.put(b"")

    def _keep(self, stream: IO[bytes]) -> None:
        try:
            while part := stream.read1(1024):  # type: ignore[attr-defined]
                self._printed.append(part)
        except (OSError, ValueError):
            pass


# How long a look for messages waits before it looks at clock and memory.
_TICK = 0.1
_MEMORY_ADVICE = explained(MemoryError()).advice
_DISTRUST = "No classifier that was made in good faith does this; do not trust this file."
# Words by which C++ and Python say that memory ran out when they end.
_OUT_OF_MEMORY = ("bad_alloc", "MemoryError", "Cannot allocate memory", "bad allocation")


@dataclass(frozen=True)
class Done:
    """A job that was done in a child.

    Attributes:
        answer: See `onnx_soda._sandbox.jobs`.
        sandbox: What held the child.
    """

    answer: Any
    sandbox: SandboxInfo


def run_job(
    job: Job, limits: Limits, progress: Progress = no_progress, folder: Path | None = None
) -> Done:
    """Do a job in a child process.

    Args:
        job: What to do; its paths are absolute.
        limits: What the child may take.
        progress: Called as it goes on.
        folder: Where the child may write; a temporary one where not given.

    Raises:
        SodaError: As the job raises it.
        SandboxError: The child took too long or too much, or did not get to an answer.
    """
    if folder is not None:
        return _run(job, limits, progress, folder)
    with private_folder() as made:
        return _run(job, limits, progress, made)


def _run(job: Job, limits: Limits, progress: Progress, folder: Path) -> Done:
    conversation = _Conversation(limits, progress)
    with child_process(folder, winds_up=isinstance(job, ScanJob)) as child:
        listener = Listener(child)
        _ask(child, job, limits, folder)
        answer = conversation.hold(child, listener)
        if answer is None:
            _await_end(child)
    if answer is None:
        raise _cause(child, listener.printed)
    return Done(answer_of(job, answer), conversation.sandbox())


def _ask(child: Child, job: Job, limits: Limits, folder: Path) -> None:
    assert child.stdin is not None  # noqa: S101 - it is a pipe
    places = [str(Path(place).absolute()) for place in sys.path]
    # A child that is gone already is seen when it is listened to.
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps(places).encode() + b"\n")
        child.stdin.write(request_for(job, limits, str(folder)))
        child.stdin.flush()


class _Conversation:
    """What is said between the request and the answer."""

    def __init__(self, limits: Limits, progress: Progress) -> None:
        self._limits = limits
        self._progress = progress
        self._ready: Ready | None = None
        self._interim: Interim | None = None
        self._end = time.monotonic() + limits.seconds

    def hold(self, child: Child, listener: Listener) -> Answer | None:
        """Listen until the answer; None where the child ends without one.

        A child that should have ended by itself is ended; what it had said until then counts.
        """
        watch = _memory_watch(child)
        over = False
        while True:
            line = listener.line(_TICK)
            if time.monotonic() > self._end:
                if self._interim is not None:
                    return Answer(self._interim.value)
                raise TimeLimitError(
                    f"the child process took over {self._limits.seconds:g} s and was stopped",
                    "Allow more `seconds`, if the model is as large as that.",
                )
            if not (self._ready and self._ready.memory) and watch() > self._limits.memory:
                raise _too_much_memory(self._limits)
            # What it started may keep its end open; once it is over, all it said has come, or is
            # being put together.
            if line == b"" or (line is None and over and not listener.amid_a_line):
                return None
            over = _is_over(child)
            message = None if line is None else read_message(line)
            if isinstance(message, Answer):
                return message
            self._take(message)

    def _take(self, message: Ready | ProgressMessage | Interim | Failure | None) -> None:
        if isinstance(message, Failure):
            raise error_of(message)
        if isinstance(message, ProgressMessage):
            self._progress(message.stage, message.done, message.total)
        elif isinstance(message, Interim):
            self._interim = message
        elif isinstance(message, Ready):
            self._ready = message

    def sandbox(self) -> SandboxInfo:
        """Return what held the child."""
        ready = self._ready or Ready(False, False, False, False)
        gaps = [what for held, what in (
            (ready.files, "its access to files could not be limited"),
            (ready.network, "its access to the network could not be taken away"),
            (ready.memory, "its memory was watched, not limited"),
            (ready.processor_time, "its processor time could not be limited"),
        ) if not held]  # fmt: skip
        return SandboxInfo(
            True, ready.files, ready.network, self._limits.memory, self._limits.seconds, tuple(gaps)
        )


def _memory_watch(child: Child) -> Callable[[], int]:
    """Return a function that tells how much memory a child takes; 0 where nobody knows."""

    def taken() -> int:
        try:
            return int(psutil.Process(child.pid).memory_info().rss)
        except psutil.Error:
            return 0

    return taken


def _too_much_memory(limits: Limits) -> MemoryLimitError:
    return MemoryLimitError(
        f"the child process needed over {limits.memory / 2**20:,.0f} MiB and was stopped",
        _MEMORY_ADVICE,
    )


def _await_end(child: Child) -> None:
    """Give a child that has said its last the time to end by itself, without reaping it."""
    end = time.monotonic() + _ENDING
    while time.monotonic() < end:
        if _is_over(child):
            return
        time.sleep(_TICK / 10)


def _is_over(child: Child) -> bool:
    if not hasattr(os, "waitid"):
        return child.poll() is not None
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _cause(child: Child, printed: str) -> SandboxError:
    """Return why a child ended without an answer."""
    code = child.returncode
    if any(words in printed for words in _OUT_OF_MEMORY):
        error: SandboxError = MemoryLimitError(
            "the child process ran out of memory", _MEMORY_ADVICE
        )
    elif code == -getattr(signal, "SIGXCPU", 0):
        error = TimeLimitError("the child process used up its processor time", _DISTRUST)
    elif code < 0:
        name = signal.Signals(-code).name
        error = CrashError(f"the child process was ended by {name}", _DISTRUST)
    else:
        error = CrashError(f"the child process ended with {code} and no answer", _DISTRUST)
    error.add_note(printed)
    return error
