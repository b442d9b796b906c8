"""Starts the child process and ends it, with all that belongs to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx_soda._system import held_back

Child = subprocess.Popen[bytes]

# Children at work, and the thread of this process that waits for each.
_running: dict[Child, int] = {}
# Those of them that report what is done when they are asked to end.
_winding_up: set[Child] = set()

# The child imports from where its parent does. -I keeps it from reading PYTHON* variables and
# the folder that it is started in.
_BOOT = """
import json, sys
sys.path[:] = json.loads(sys.stdin.buffer.readline())
from onnx_soda._sandbox.child import main
main()
"""
# All that a child keeps of the environment: which devices there are, where their libraries lie,
# how many threads to start. Windows starts no process without SYSTEMROOT.
_KEPT = (
    "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "SYSTEMROOT",
)  # fmt: skip


@contextmanager
def private_folder(beside: Path | None = None) -> Iterator[Path]:
    """Make a folder that only this user can enter, and remove it with all in it.

    Args:
        beside: File whose folder it is made in; the system's temporary folder where not given.
    """
    with held_back():
        parent = None if beside is None else beside.resolve().parent
        prefix = "onnx-soda-" if beside is None else f".{beside.name}."
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            with _let_through():
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def child_process(folder: Path, winds_up: bool = False) -> Iterator[Child]:
    """Start a child that waits for its request, and make sure that it has ended.

    Args:
        folder: Where it works; also its home and its place for temporary files.
        winds_up: It reports what is done when it is asked to end.
    """
    with held_back():
        child = subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-I", "-B", "-c", _BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(folder),
            cwd=folder,
            start_new_session=True,
        )
        _running[child] = threading.get_ident()
        if winds_up:
            _winding_up.add(child)
        try:
            with _let_through():
                yield child
        finally:
            del _running[child]
            _winding_up.discard(child)
            _end(child)


def ask_children_to_end() -> bool:
    """Ask all children to report what is done, and to end.

    Returns:
        Whether all of them will; False where there is none, or one that cannot.
    """
    children = list(_running)
    if not children or not _winding_up.issuperset(children) or os.name != "posix":
        return False
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGINT)
    return True


def end_children(threads: Collection[int]) -> None:
    """Kill the children that some threads of this process wait for, which then see them end.

    Args:
        threads: Their identifiers (`threading.get_ident`).
    """
    for child, thread in list(_running.items()):
        if thread in threads:
            _kill(child)


@contextmanager
def _let_through() -> Iterator[None]:
    """Inside of `held_back`: let signals through again, and hold them back behind the block."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    held = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    own = dict.fromkeys(("HOME", "TMPDIR", "TEMP", "TMP"), str(folder))
    return {**kept, **own, "LANG": "C.UTF-8"}


def _kill(child: Child) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()


def _end(child: Child) -> None:
    """Kill a child and whatever it started, and take notice of its end."""
    _kill(child)
    child.wait()
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
