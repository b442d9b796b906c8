"""Dealings with the system: time, packages, interrupts, files that are written whole or not.

And JSON that is read as a class, by one thread at a time.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from onnx_soda._errors import MissingExtraError, OutputError


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
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def result(self) -> dict[str, float]:
        """Return the stages and "total"."""
        return {**self.seconds, "total": time.perf_counter() - self._start}


def as_utc(seconds: float) -> str:
    """Return a time as 2026-01-31T12:00:00Z.

    Args:
        seconds: Since 1970, in UTC.
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Stopwatch:
    """Tells how long something has taken, and whether a time set for it is over."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._limit = math.inf

    @contextmanager
    def within(self, seconds: float | None) -> Iterator[None]:
        """Start anew, and set a time for a block; None for none."""
        self._begin = time.monotonic()
        self._limit = math.inf if seconds is None else seconds
        try:
            yield
        finally:
            self._limit = math.inf

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begin

    @property
    def over(self) -> bool:
        """Whether the time set is over."""
        return self.seconds > self._limit


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed, by name, in the order given."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def missing_modules(modules: Iterable[str]) -> tuple[str, ...]:
    """Return the modules that cannot be found; none is imported."""
    return tuple(name for name in modules if find_spec(name) is None)


def install_hint(extra: str) -> str:
    """Return how to install an extra; the package is not on PyPI yet."""
    return f'In a checkout of onnx-soda: pip install ".[{extra}]"'


def require_modules(what: str, modules: Iterable[str], extra: str) -> None:
    """Make sure that modules are installed.

    Args:
        what: What needs them, as in "repair needs".
        modules: Their names.
        extra: The extra of this package that brings them.

    Raises:
        MissingExtraError: Some are not.
    """
    missing = missing_modules(modules)
    if missing:
        raise MissingExtraError(
            f"{what} {', '.join(missing)}, which is not installed",
            install_hint(extra),
        )


_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


@contextmanager
def held_back() -> Iterator[None]:
    """Let an interrupt wait until the block is over: Ctrl-C, termination, a closed terminal.

    For short blocks that must be done whole: a file written beside its place and renamed, a child
    process started and noted down. On systems without signal masks nothing is held back.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    waiting = {getattr(signal, name) for name in _NAMES}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check_writable(path: Path, *inputs: Path | None) -> None:
    """Make sure that a file can be written, before the work for it begins.

    Args:
        path: The file.
        inputs: What the work reads or writes elsewhere; None stands for nothing.

    Raises:
        OutputError: Its folder is missing or not writable, the path is a folder, or one of the
            inputs.
    """
    if any(one is not None and _same(path, one) for one in inputs):
        raise OutputError(
            f"{path.name} would be overwritten, which this command reads or writes otherwise",
            "Choose another name.",
        )
    folder = path.resolve().parent
    if not folder.is_dir():
        raise OutputError(f"the folder of {path.name} does not exist", "Make it first.")
    if path.is_dir():
        raise OutputError(f"{path.name} is a folder", "Give the name of a file.")
    if not os.access(path if _is_device(path) else folder, os.W_OK):
        raise OutputError(f"the folder of {path.name} is not writable", "Choose another one.")


@contextmanager
def folder_to_fill(folder: Path, data: Path) -> Iterator[None]:
    """Make a folder if it is missing; if nothing comes to lie in it, remove it again.

    Args:
        folder: The folder.
        data: What the work reads; where this is a folder, nothing is written into it.

    Raises:
        OutputError: There can be no such folder, it is not writable, or it lies in the data.
    """
    if data.is_dir() and folder.resolve().is_relative_to(data.resolve()):
        raise OutputError(f"{folder.name} lies in the clean set", "Choose another folder.")
    missing = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder {folder.name} cannot be made: {error.strerror}", "Choose another place."
        ) from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"the folder {folder.name} is not writable", "Choose another one.")
    try:
        yield
    finally:
        if missing:
            with contextlib.suppress(OSError):  # where something lies in it
                folder.rmdir()


def _same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other) and not _is_device(one)
    return one.resolve() == other.resolve()


def _is_device(path: Path) -> bool:
    """Tell whether a path is something that is there and is no file: /dev/null, a pipe."""
    return path.exists() and not path.is_file()


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write a file whole or not at all: beside its place first, then renamed.

    Of a long text parts may be given, which are written as they come. Where the path is a symbolic
    link, the file behind it is written; what is no file, such as /dev/null or a pipe, is written to
    directly.

    Raises:
        OutputError: It cannot be written.
    """
    parts = (text,) if isinstance(text, str) else text
    try:
        if _is_device(path):
            with path.open("w", encoding="utf-8") as stream:
                stream.writelines(parts)
            return
        with held_back():
            _write_beside(path.resolve(), parts)
    except OSError as error:
        raise OutputError(
            f"{path.name} cannot be written: {error.strerror}", "Choose another place."
        ) from error


def _write_beside(path: Path, parts: Iterable[str]) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.writelines(parts)
        # mkstemp makes files for their owner only; a report is an ordinary file.
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_STYLES = {"clean": "green", "backdoor": "bold red", "inconclusive": "yellow"}


# msgspec finds out what is in a class when it first reads one, and puts the unfinished result where
# other threads find it: two that begin at once crash the process (msgspec 0.22.0).
_reading = threading.Lock()


def read_json(text: bytes | str, kind: Any) -> Any:
    """Read JSON as a class, each value checked; a path is a text in it.

    Args:
        text: The JSON.
        kind: The class, or whatever else msgspec takes as a type.

    Raises:
        msgspec.MsgspecError: It is no JSON, or something else.
        RecursionError: It is nested too deep.
        UnicodeDecodeError: It is no UTF-8.
    """
    with _reading:
        return msgspec.json.decode(text, type=kind, strict=True, dec_hook=_as_path)


def _as_path(kind: Any, value: Any) -> Any:
    """Return what JSON has no form for; of what classes here hold, that is paths alone."""
    if kind is not Path or not isinstance(value, str):
        raise NotImplementedError(kind)
    return Path(value)


def read_plain(values: Any, kind: Any) -> Any:
    """Read dicts, lists and plain values as a class; see `read_json`.

    Raises:
        msgspec.ValidationError: They are something else.
    """
    with _reading:
        return msgspec.convert(values, kind, strict=True)
