"""Puts a report on stdout or into a file."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from rich.console import Console, RenderableType

from onnx_soda.errors import OutputError
from onnx_soda.report.jsonfile import write_text

__all__ = ["abandon_stdout", "deliver", "deliver_renderable"]

# Width of text reports that do not go to a terminal; digests and tensor names fit.
_FILE_WIDTH = 120


def deliver(text: str, output: Path | None) -> None:
    """Write text to a file, or to stdout where none is given.

    Raises:
        OutputError: It cannot be written.
    """
    if output is not None:
        write_text(output, text)
        return
    if sys.stdout is None:
        raise OutputError("there is no stdout to write to", "Use --output FILE.")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        abandon_stdout()
        raise OutputError(
            f"the report cannot be written to stdout: {error.strerror}",
            "Use --output FILE, or check what reads it.",
        ) from error


def abandon_stdout() -> None:
    """Keep Python from writing the rest at exit, which would fail again with another exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def deliver_renderable(content: RenderableType, output: Path | None) -> None:
    """Print something for people; without colours where it does not go to a terminal."""
    if output is None and sys.stdout is not None and sys.stdout.isatty():
        Console(highlight=False).print(content)
        return
    buffer = io.StringIO()
    # Never coloured: not where an environment variable asks for colours on terminals either.
    console = Console(file=buffer, width=_FILE_WIDTH, highlight=False, force_terminal=False)
    console.print(content)
    lines = (line.rstrip() for line in buffer.getvalue().splitlines())
    deliver("\n".join(lines) + "\n", output)
