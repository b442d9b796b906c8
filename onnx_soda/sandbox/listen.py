"""Reads what a child says, in threads of their own, so that nobody waits longer than allowed."""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import IO

from onnx_soda.sandbox.messages import MOST_BYTES
from onnx_soda.sandbox.process import Child

__all__ = ["Listener"]

# Of what libraries print before they crash; the end of it says why.
_KEPT_STDERR = 64 * 1024
# Messages that may wait; a child that talks faster has to wait itself.
_MOST_WAITING = 1000


class Listener:
    """Listens to a child's stdout, line by line, and keeps the end of its stderr.

    Args:
        child: The child.
    """

    def __init__(self, child: Child) -> None:
        self._lines: queue.Queue[bytes] = queue.Queue(_MOST_WAITING)
        self._printed: deque[bytes] = deque(maxlen=_KEPT_STDERR // 1024)
        assert child.stdout is not None  # noqa: S101 - both are pipes
        assert child.stderr is not None  # noqa: S101
        for target, stream in ((self._read, child.stdout), (self._keep, child.stderr)):
            threading.Thread(target=target, args=(stream,), daemon=True).start()

    def line(self, seconds: float) -> bytes | None:
        """Return the next line, b"" when the child has closed its end, None when none came yet."""
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            return None

    @property
    def printed(self) -> str:
        """The end of what was printed to stderr."""
        return b"".join(self._printed).decode(errors="replace")

    def _read(self, stream: IO[bytes]) -> None:
        try:
            while line := stream.readline(MOST_BYTES):
                self._lines.put(line)
        except (OSError, ValueError):  # closed while it was read
            pass
        self._lines.put(b"")

    def _keep(self, stream: IO[bytes]) -> None:
        try:
            while part := stream.read1(1024):  # type: ignore[attr-defined]
                self._printed.append(part)
        except (OSError, ValueError):
            pass
