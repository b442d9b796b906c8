"""Holds signals back while something is half done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["held_back"]

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
