"""The child process: confines itself, opens the file, does the job, answers.

Started by `onnx_soda._sandbox.parent`. The order matters: files and system calls are restricted
while there is one thread, since threads started earlier would stay free; memory is limited when
all libraries are loaded.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from onnx_soda._options import Limits, Progress, usable_cores
from onnx_soda._results import Halted, ScanReport, StopCause
from onnx_soda._sandbox.jobs import (
    CheckJob,
    ConvertJob,
    Job,
    RepairJob,
    ScanJob,
    TwinsJob,
    inputs,
)
from onnx_soda._sandbox.linux import die_with_parent, give_up_system_calls, restrict_files
from onnx_soda._sandbox.messages import (
    JobRequest,
    Message,
    ProgressMessage,
    Ready,
    answer,
    encode,
    failure_of,
    interim,
    read_request,
)
from onnx_soda._sandbox.tasks import load_task

# A job that writes no model writes nothing; libraries may leave something small.
_SMALL_FILE = 2**20
# Progress is shown to people.
_SECONDS_BETWEEN_STEPS = 0.05


def main() -> None:
    """Read a request from stdin, do it, and write what it comes to to stdout."""
    if sys.platform.startswith("linux"):
        die_with_parent()
    halting = _Halting()
    _let_signals_through()
    channel = _take_stdout()
    job, request = read_request(sys.stdin.buffer.readline())
    os.chdir(request.folder)
    logging.getLogger("onnx_ir").addHandler(logging.NullHandler())
    try:
        files, network, processor_time = _confine(job, request)
        tell = _teller(channel, halting.cause if isinstance(job, ScanJob) else _never)
        halting.at(request.limits.seconds)
        task = load_task(job, _reporter(channel, halting.cause))
        memory = _limit_memory(job, request.limits)
        _say(channel, Ready(files, network, memory, processor_time))
        last_word: Message = answer(task(job, tell))
    except BaseException as error:  # noqa: BLE001 - all of them are told to the parent
        last_word = failure_of(_as_exception(error), traceback.format_exc())
    _say(channel, last_word)
    # Libraries' own endings may hang or crash after all is said.
    os._exit(0)


def _let_signals_through() -> None:
    """The parent holds signals back while it starts a child, which inherits that."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _take_stdout() -> BinaryIO:
    """Keep stdout for messages alone; what libraries print goes to stderr."""
    sys.stdout.flush()
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return channel


def _confine(job: Job, request: JobRequest) -> tuple[bool, bool, bool]:
    """Give up files, network and processor time; tell what of it is in force."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    files = confine_files(inputs(job), Path(request.folder), filter(None, libraries))
    network = confine_network()
    writes = isinstance(job, RepairJob | ConvertJob | TwinsJob)
    largest = request.limits.memory if writes else _SMALL_FILE
    return files, network, limit_time_and_files(request.limits, largest)


def _limit_memory(job: Job, limits: Limits) -> bool:
    """Limit memory, all libraries being loaded; tell whether it is limited."""
    if isinstance(job, CheckJob):  # which loads no runtime, and so no CUDA
        return limit_memory(limits)
    from onnx_soda._model.runtime import cuda_device_count

    # CUDA reserves far more address space than there is memory; the parent watches instead.
    return cuda_device_count() == 0 and limit_memory(limits)


# Seconds kept of the time allowed, for a last look at what was found and for the report: a fifth,
# within bounds, and never more than half. A look takes as long as some dozens of changes tried.
_LAST_SHARE, _LEAST_LAST, _MOST_LAST = 0.2, 8.0, 180.0


class _Halting:
    """Knows whether the job is to end early: its time is nearly over, or the user asked for it."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._end = math.inf
        self._asked = False
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def at(self, seconds: float) -> None:
        """Set the time that the parent allows in all."""
        kept = min(max(_LAST_SHARE * seconds, _LEAST_LAST), _MOST_LAST, seconds / 2)
        self._end = self._begin + seconds - kept

    def cause(self) -> StopCause | None:
        """Return why to end; None where there is no reason."""
        if self._asked:
            return "interrupt"
        return "time limit" if time.monotonic() > self._end else None


def _never() -> None:
    """No reason to end: the job is of a kind that is done whole or not at all."""


def _teller(channel: BinaryIO, halting: Callable[[], StopCause | None]) -> Progress:
    """Return a function that tells the parent how far the job is, not too often.

    Args:
        channel: To the parent.
        halting: Tells why the job is to end early; None where it is not.
    """
    last = 0.0

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        why = halting()
        if why is not None:
            raise Halted(why)
        if now - last > _SECONDS_BETWEEN_STEPS or done == total:
            last = now
            _say(channel, ProgressMessage(stage, done, total))

    return tell


def _reporter(
    channel: BinaryIO, halting: Callable[[], StopCause | None]
) -> Callable[[ScanReport], None]:
    """Return a function that tells the parent what a scan comes to if it is ended there."""

    def report(so_far: ScanReport) -> None:
        why = halting()
        if why is not None:
            raise Halted(why)
        _say(channel, interim(so_far))

    return report


def _say(channel: BinaryIO, message: Message) -> None:
    channel.write(encode(message))
    channel.flush()


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(type(error).__name__)


# Small models are computed on in a second; what is left for Python to end itself.
_SPARE_SECONDS = 5


def limit_time_and_files(limits: Limits, largest_file: int) -> bool:
    """Limit processor time, the size of files written, and core dumps.

    Args:
        limits: What the process may take.
        largest_file: Bytes.

    Returns:
        Whether it is in force; False on systems without setrlimit.
    """
    seconds = int(limits.seconds * usable_cores()) + _SPARE_SECONDS
    return (
        _lower("RLIMIT_CPU", seconds)
        and _lower("RLIMIT_FSIZE", largest_file)
        and _lower("RLIMIT_CORE", 0)
    )


def limit_memory(limits: Limits) -> bool:
    """Limit the address space to what is taken now and the memory allowed.

    Called when all libraries are loaded: their files are mapped into the address space, which for
    torch with CUDA alone are gigabytes that take no memory.

    Returns:
        Whether it is in force; False where the system does not tell what is taken.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return False
    return _lower("RLIMIT_AS", pages * mmap.PAGESIZE + limits.memory)


def _lower(name: str, value: int) -> bool:
    """Lower a limit for good; one that is lower already stays."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    kind = getattr(resource, name)
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))
    return True


# What Python, the runtimes and the C library read besides the files of the program: shared
# libraries and where they are, what the machine is like, time zones.
_SYSTEM = (
    "/usr", "/lib", "/lib64", "/opt", "/nix/store", "/gnu/store",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
    "/etc/nv_tegra_release",
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems",
    "/proc/driver", "/proc/sys/vm",
    "/sys/devices", "/sys/bus", "/sys/module", "/sys/fs/cgroup",
    "/dev/urandom", "/dev/random", "/dev/zero",
)  # fmt: skip
# Parts of the package that lie outside its own folder where it is installed to be edited.
_PARTS = ("onnx_soda", "onnx_soda._converters")
_DEVICES = ("/dev/null",)
# CUDA talks to its driver through these, and writes to memory shared with it.
_CUDA_DEVICES = ("/dev/nvidia*", "/dev/nvidia-caps", "/dev/shm")  # noqa: S108 - not ours to name


def confine_files(inputs: Iterable[Path], folder: Path, libraries: Iterable[str]) -> bool:
    """Let this process read its program and its inputs, and write to one folder.

    Args:
        inputs: What the job reads.
        folder: Where it may write.
        libraries: Further folders with shared libraries.

    Returns:
        Whether it is in force.
    """
    cuda = [path for pattern in _CUDA_DEVICES for path in Path("/").glob(pattern.lstrip("/"))]
    devices = [path for path in cuda if path.name.startswith("nvidia")]
    program = [sys.prefix, sys.base_prefix, *filter(None, sys.path), *_own_code()]
    readable = [Path(name) for name in (*_SYSTEM, *program, *libraries)]
    writable = [folder, *map(Path, _DEVICES), *(cuda if devices else [])]
    return restrict_files([*readable, *inputs], writable, devices=bool(devices))


def _own_code() -> Iterator[str]:
    """Yield the folders of this package: under none of the interpreter's where it is edited."""
    for name in _PARTS:
        found = find_spec(name)
        yield from (found.submodule_search_locations or ()) if found else ()


def confine_network() -> bool:
    """Give up the network, other programs and other processes; tell whether it is in force."""
    return give_up_system_calls()
