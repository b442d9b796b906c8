"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Debug", "Format", "FormatOption", "LogitsOption", "ModelArgument", "Output", "Quiet"]


class Format(StrEnum):
    """Forms of a report."""

    TEXT = "text"
    JSON = "json"


ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="The ONNX file.", show_default=False)
]
LogitsOption = Annotated[
    str | None,
    typer.Option("--logits", metavar="NAME", help="Tensor with the pre-softmax scores."),
]
FormatOption = Annotated[
    Format, typer.Option("--format", "-f", help="Form of the report.", case_sensitive=False)
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write the report here, not to stdout."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")]
