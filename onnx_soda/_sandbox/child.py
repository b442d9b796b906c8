"""The child process: confines itself, opens the file, does the job, answers.

Started by `onnx_soda._sandbox.parent`. The order matters: files and system calls are restricted
while there is one thread, since threads started earlier would stay free; memory is limited when
all libraries are loaded.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import BinaryIO

from onnx_soda._options import Limits, Progress
from onnx_soda._sandbox.confine import (
    confine_files,
    confine_network,
    limit_memory,
    limit_time_and_files,
)
from onnx_soda._sandbox.jobs import ConvertJob, Job, RepairJob, inputs
from onnx_soda._sandbox.linux import die_with_parent
from onnx_soda._sandbox.messages import (
    JobRequest,
    Message,
    ProgressMessage,
    Ready,
    answer,
    encode,
    failure_of,
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
    _let_signals_through()
    channel = _take_stdout()
    job, request = read_request(sys.stdin.buffer.readline())
    os.chdir(request.folder)
    logging.getLogger("onnx_ir").addHandler(logging.NullHandler())
    try:
        files, network, processor_time = _confine(job, request)
        task = load_task(job)
        _say(channel, Ready(files, network, _limit_memory(request.limits), processor_time))
        last_word: Message = answer(task(job, _teller(channel)))
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
    writes = isinstance(job, RepairJob | ConvertJob)
    largest = request.limits.memory if writes else _SMALL_FILE
    return files, network, limit_time_and_files(request.limits, largest)


def _limit_memory(limits: Limits) -> bool:
    """Limit memory, all libraries being loaded; tell whether it is limited."""
    from onnx_soda._model.runtime import cuda_device_count

    # CUDA reserves far more address space than there is memory; the parent watches instead.
    return cuda_device_count() == 0 and limit_memory(limits)


def _teller(channel: BinaryIO) -> Progress:
    """Return a function that tells the parent how far the job is, not too often."""
    last = 0.0

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _SECONDS_BETWEEN_STEPS or done == total:
            last = now
            _say(channel, ProgressMessage(stage, done, total))

    return tell


def _say(channel: BinaryIO, message: Message) -> None:
    channel.write(encode(message))
    channel.flush()


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(type(error).__name__)
