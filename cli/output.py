"""Puts a report on stdout or into a file."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console, RenderableType

from onnx_soda.report.jsonfile import write_text

__all__ = ["deliver", "deliver_renderable"]

# Width of text reports that do not go to a terminal; digests and tensor names fit.
_FILE_WIDTH = 120


def deliver(text: str, output: Path | None) -> None:
    """Write machine-readable text to a file, or to stdout where none is given."""
    if output is not None:
        write_text(output, text)
    else:
        sys.stdout.write(text)


def deliver_renderable(content: RenderableType, output: Path | None) -> None:
    """Print something for people; without colours where it does not go to a terminal."""
    if output is None and sys.stdout.isatty():
        Console(highlight=False).print(content)
        return
    buffer = io.StringIO()
    Console(file=buffer, width=_FILE_WIDTH, highlight=False).print(content)
    lines = (line.rstrip() for line in buffer.getvalue().splitlines())
    deliver("\n".join(lines) + "\n", output)
