"""What the interpreter and its surroundings tell: time, packages, interrupts."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from onnx_soda._errors import MissingExtraError


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
            f'pip install "onnx-soda[{extra}]"',
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
