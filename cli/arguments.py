"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from onnx_soda._options import DEFAULT_SECONDS, Limits, usual_memory

_MEBIBYTE = 2**20
USUAL_SECONDS = DEFAULT_SECONDS
USUAL_MEMORY = usual_memory() // _MEBIBYTE
# A year, and more memory than machines have.
_MOST_SECONDS, _MOST_MEBIBYTES = 366 * 24 * 3600, 2**24


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
TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", min=1, max=_MOST_SECONDS, help="Seconds that the work may take."),
]
MaxMemoryOption = Annotated[
    int,
    typer.Option(
        "--max-memory",
        min=64,
        max=_MOST_MEBIBYTES,
        help="MiB that the work may take; 8 GiB or 3/4 of the machine.",
        show_default=False,
    ),
]
SandboxOption = Annotated[
    bool,
    typer.Option(
        "--sandbox/--no-sandbox", help="Open the model in a child process that is held in."
    ),
]
ArchOption = Annotated[
    str | None,
    typer.Option(
        "--arch", metavar="LIBRARY:NAME", help="Network of bare weights: torchvision:resnet18."
    ),
]
SizeOption = Annotated[
    int | None,
    typer.Option("--size", min=1, max=4096, help="Pixels of images where the source is silent."),
]


def limits_of(sandbox: bool, timeout: float, max_memory: int) -> Limits | None:
    """Return the limits of the child process; None where none is wanted."""
    return Limits(max_memory * _MEBIBYTE, timeout) if sandbox else None
