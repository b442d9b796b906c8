"""What parent and child say to each other: one JSON message per line.

The parent sends a `JobRequest`. The child sends `Ready`, any number of `ProgressMessage` and, of a
scan, `Interim`, then an answer or a `Failure`. The child may have been taken over by the file it
read, so nothing it says is believed that does not have the exact form: fields, types, size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from onnx_soda import _errors
from onnx_soda._errors import CrashError, SandboxError, SodaError, explained
from onnx_soda._options import Limits
from onnx_soda._sandbox.jobs import KINDS, Job
from onnx_soda._system import read_json
from onnx_soda._words import as_text

# Of one message: a report with its images takes some hundred kilobytes, and what a reference of 256
# classes makes of the bank 194 MiB.
MOST_BYTES = 256 * 2**20


class JobRequest(msgspec.Struct, frozen=True):
    """A job for the child: its kind, itself in plain form, limits, and a folder it may write to."""

    kind: str
    job: msgspec.Raw
    limits: Limits
    folder: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The child is confined and about to open the file; see `SandboxInfo`."""

    files: bool
    network: bool
    memory: bool
    processor_time: bool


class ProgressMessage(msgspec.Struct, frozen=True, tag="step"):
    """Progress, see `onnx_soda._options.Progress`."""

    stage: str
    done: int
    total: int


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """The job is done."""

    value: msgspec.Raw


class Interim(msgspec.Struct, frozen=True, tag="interim"):
    """What the answer is if the child is ended now."""

    value: msgspec.Raw


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """The job cannot be done: name of the error's class, its message, advice and rule."""

    kind: str
    message: str
    advice: str
    rule_id: str | None
    trace: str


Message = Ready | ProgressMessage | Interim | Answer | Failure


def encode(message: Message | JobRequest) -> bytes:
    """Return a message as a line."""
    return _json(message) + b"\n"


def answer(value: Any) -> Answer:
    """Return what a job came to as a message."""
    return Answer(msgspec.Raw(_json(value)))


def interim(value: Any) -> Interim:
    """Return what a job came to so far as a message."""
    return Interim(msgspec.Raw(_json(value)))


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: Any) -> Any:
    """NumPy's numbers are no JSON numbers to msgspec."""
    return value.item()


def request_for(job: Job, limits: Limits, folder: str) -> bytes:
    """Return the request for a job, as a line.

    Raises:
        SandboxError: A path cannot be told in it.
    """
    kind = next(name for name, (asked, _) in KINDS.items() if isinstance(job, asked))
    try:
        return encode(JobRequest(kind, msgspec.Raw(_json(job)), limits, folder))
    except UnicodeEncodeError as error:
        name = next(part for part in Path(str(error.object)).parts if part != as_text(part))
        raise SandboxError(f"the name {as_text(name)} is no valid UTF-8", "Rename it.") from error


def read_request(line: bytes) -> tuple[Job, JobRequest]:
    """Return the job of a request, and the request."""
    request: JobRequest = read_json(line, JobRequest)
    job: Job = read_json(request.job, KINDS[request.kind][0])
    return job, request


def read_message(line: bytes) -> Message:
    """Return what the child said.

    Raises:
        CrashError: It is none of the messages above.
    """
    try:
        message: Message = read_json(line, Message)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _nonsense(error) from error
    return message


def answer_of(job: Job, answer: Answer) -> Any:
    """Return the answer to a job, checked field by field.

    Raises:
        CrashError: It is not of the job's kind.
    """
    kind = next(expected for asked, expected in KINDS.values() if isinstance(job, asked))
    try:
        return read_json(answer.value, kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _nonsense(error) from error


def _nonsense(error: Exception) -> CrashError:
    return CrashError(
        f"the child process answered something that makes no sense: {error}",
        "The model may have taken it over; do not trust this file.",
    )


def failure_of(error: Exception, trace: str) -> Failure:
    """Return an error as the message that tells it."""
    told = explained(error)
    return Failure(type(told).__name__, told.message, told.advice, told.rule_id, trace)


def error_of(failure: Failure) -> SodaError:
    """Return the error that a message tells."""
    kind = getattr(_errors, failure.kind, None)
    if not isinstance(kind, type) or not issubclass(kind, SodaError):
        kind = CrashError
    error = kind(failure.message, failure.advice, rule_id=failure.rule_id)
    error.add_note(failure.trace)
    return error
