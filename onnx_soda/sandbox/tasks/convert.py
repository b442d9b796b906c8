"""A conversion of another framework's file to ONNX."""

from __future__ import annotations

from pathlib import Path

from onnx_soda.converters.choose import choose, require
from onnx_soda.options import Progress
from onnx_soda.sandbox.jobs import ConvertAnswer, ConvertJob

__all__ = ["load_framework", "run"]


def load_framework(job: ConvertJob) -> None:
    """Look at the source, and import its framework if it may be opened.

    Before the process's memory is limited, since frameworks take gigabytes of addresses; what the
    look at the file takes is watched by the parent.

    Raises:
        ConvertError: The source is refused or not supported.
        MissingExtraError: Its framework is not installed.
    """
    source = Path(job.model)
    converter = choose(source)
    converter.precheck(source)
    require(converter)
    converter.load()


def run(job: ConvertJob, progress: Progress) -> ConvertAnswer:
    """See `onnx_soda.converters.protocol.Converter`."""
    source = Path(job.model)
    progress("conversion", 0, 1)
    conversion = choose(source).convert(source, Path(job.output), job.options)
    progress("conversion", 1, 1)
    return ConvertAnswer(conversion)
