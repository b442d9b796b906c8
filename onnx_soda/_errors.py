"""Everything that onnx-soda raises on purpose.

::

    SodaError
    ├── ModelError                 the model file
    │   ├── ModelFileError         not readable as an ONNX model
    │   ├── ExternalDataError      weights beside the model: missing, cut short, outside its folder
    │   ├── UnsupportedModelError  newer than the runtime, unknown operators, or over a limit
    │   ├── NotAClassifierError    has no logits over two classes or more, or no image input
    │   └── TensorNotFoundError    a tensor name given by the caller is not in the graph
    ├── DataError                  the clean set
    │   ├── DatasetFileError       not readable, or refused as unsafe
    │   ├── LabelError             labels do not fit the images or the model's classes
    │   ├── ImageError             an image is unreadable, has NaN, or the wrong channel count
    │   └── PreprocessingError     the preprocessing file or preset is wrong
    ├── RuntimeFailure             ONNX Runtime
    │   ├── ProviderError          the provider asked for does not load on this machine
    │   └── InferenceError         the model loads but does not run
    │       └── OutOfMemoryError   it would with a smaller batch
    ├── ConvertError               a file of another framework cannot be converted
    │   ├── UnsafeSourceError      opening it could run code, or it is built to mislead
    │   └── UnsupportedSourceError no converter reads it
    ├── MissingExtraError          a package of one of the extras is not installed
    ├── RepairError                repair
    │   ├── ConversionError        an operator has no counterpart in torch
    │   ├── ParityError            the torch module computes something else than ONNX Runtime
    │   └── WriteBackError         a changed weight cannot be put into the file
    ├── SandboxError               the child process that parses and runs the model
    │   ├── TimeLimitError         it took longer than allowed
    │   ├── MemoryLimitError       it needed more memory than allowed
    │   └── CrashError             it ended without an answer, or with one that makes no sense
    ├── OptionError                an option has a value that is not known
    ├── BaselineError              a file of accepted findings, or the report it is made from
    ├── FleetError                 a manifest of many models, or the results of their scans
    └── OutputError                a report cannot be written

Each error says what is wrong and with which file, and carries ``advice``: what to do about it.
Any of them may tell that a file is dangerous: then it has ``rule_id``, and ``unsafe`` is true.
"""

from __future__ import annotations

import os
from pathlib import Path

from onnx_soda._rules import UNSAFE


class SodaError(Exception):
    """Base of all errors that onnx-soda raises on purpose.

    Args:
        message: What is wrong, and with which file or tensor. One sentence.
        advice: What the reader can do about it. One sentence, may be empty.
        rule_id: The rule by which a file was refused, as "SODA303"; None where none applies.
    """

    def __init__(self, message: str, advice: str = "", *, rule_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.rule_id = rule_id

    @property
    def unsafe(self) -> bool:
        """Whether a file was refused because something in it is dangerous.

        It is not where the file is missing, damaged or no classifier. Reports then have the
        verdict "unsafe".
        """
        return self.rule_id in UNSAFE


class ModelError(SodaError):
    """Something is wrong with the model file."""


class ModelFileError(ModelError):
    """The file cannot be read as an ONNX model."""


class ExternalDataError(ModelError):
    """Weights stored beside the model are missing, cut short or outside its folder."""


class UnsupportedModelError(ModelError):
    """The model is newer than the runtime, uses unknown operators, or is over a limit."""


class NotAClassifierError(ModelError):
    """The graph has no image input, or no logits over two classes or more."""


class TensorNotFoundError(ModelError):
    """A tensor named by the caller is not in the graph, or cannot serve there."""


class DataError(SodaError):
    """Something is wrong with the clean set."""


class DatasetFileError(DataError):
    """The clean set cannot be read, or is refused as unsafe."""


class LabelError(DataError):
    """Labels do not fit the images or the classes of the model."""


class ImageError(DataError):
    """An image is unreadable, has values that are not numbers, or the wrong channel count."""


class PreprocessingError(DataError):
    """The preprocessing preset is unknown or its file is wrong."""


class RuntimeFailure(SodaError):  # noqa: N818 - the base of ProviderError and InferenceError
    """ONNX Runtime could not do what was asked."""


class ProviderError(RuntimeFailure):
    """The execution provider asked for does not load on this machine."""


class InferenceError(RuntimeFailure):
    """The model loads but does not run."""


class OutOfMemoryError(InferenceError):
    """Memory ran out while the model ran."""


class ConvertError(SodaError):
    """A file of another framework cannot be converted to ONNX."""


class UnsafeSourceError(ConvertError):
    """Opening the file with its framework could run code, or the file is built to mislead."""


class UnsupportedSourceError(ConvertError):
    """No converter reads this format, or this form of it."""


class MissingExtraError(SodaError):
    """A package of one of the extras is not installed."""


class RepairError(SodaError):
    """Repair could not do what was asked."""


class ConversionError(RepairError):
    """The graph has an operator, or a form of one, that cannot be converted to torch."""


class ParityError(RepairError):
    """The torch module does not compute what ONNX Runtime computes."""


class WriteBackError(RepairError):
    """A changed weight cannot be put into the ONNX file."""


class SandboxError(SodaError):
    """The child process that parses and runs the model did not get to an answer."""


class TimeLimitError(SandboxError):
    """The child took longer than allowed."""


class MemoryLimitError(SandboxError):
    """The child needed more memory than allowed."""


class CrashError(SandboxError):
    """The child ended without an answer, or with one that makes no sense."""


class OptionError(SodaError):
    """An option has a value that is not known."""


class BaselineError(SodaError):
    """A baseline, or a report to make one from, cannot be read."""


class FleetError(SodaError):
    """A manifest of many models, or the results of their scans, cannot be read."""


class OutputError(SodaError):
    """A report cannot be written where it was asked for."""


def explained(error: Exception) -> SodaError:
    """Return an error as one of ours: what was not raised on purpose is told as such.

    What the system refuses is no fault of the program.
    """
    if isinstance(error, SodaError):
        return error
    if isinstance(error, MemoryError):
        return MemoryLimitError(
            "memory ran out",
            "Use a smaller `batch_size` or fewer images, or allow more `memory`.",
        )
    if isinstance(error, OSError) and error.strerror:
        return SodaError(
            f"the system refused {_place(error)}: {error.strerror}",
            "Look at its rights, at the space left, and whether its folder is there. Where these "
            "are in order, please report it with the traceback (`debug`).",
        )
    return CrashError(
        f"unexpected {type(error).__name__}: {error}",
        "This is a fault of onnx-soda; please report it with the traceback (`debug`).",
    )


def _place(error: OSError) -> str:
    """Return the name of what an error is about, without its folders."""
    if not isinstance(error.filename, str | bytes):
        return "something"
    path = Path(os.fsdecode(error.filename))
    return path.name or str(path)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of another library says, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
