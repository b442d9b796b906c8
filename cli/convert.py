"""`onnx-soda convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from onnx_soda.converters.protocol import Conversion, ConvertOptions
from onnx_soda.report.jsonfile import check_writable, to_json
from onnx_soda.report.text import fact_table, shape_text
from onnx_soda.sandbox.files import convert_file

from .arguments import (
    USUAL_MEMORY,
    USUAL_SECONDS,
    ArchOption,
    Debug,
    Format,
    FormatOption,
    MaxMemoryOption,
    Quiet,
    SandboxOption,
    SizeOption,
    TimeoutOption,
    limits_of,
)
from .exit_codes import CLEAN
from .failures import failing_cleanly
from .output import deliver, deliver_renderable
from .progress import ProgressBar

__all__ = ["convert_command"]


def convert_command(
    source: Annotated[
        Path,
        typer.Argument(metavar="SRC", help="The model, of another framework.", show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The ONNX file.", show_default=False),
    ],
    arch: ArchOption = None,
    size: SizeOption = None,
    opset: Annotated[
        int | None,
        typer.Option("--opset", min=13, max=26, help="ONNX operator set; the route's usual else."),
    ] = None,
    timeout: TimeoutOption = USUAL_SECONDS,
    max_memory: MaxMemoryOption = USUAL_MEMORY,
    sandbox: SandboxOption = True,
    format_: FormatOption = Format.TEXT,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Convert a model of PyTorch, Keras, TensorFlow or scikit-learn to ONNX, and compare.

    The file is looked at before its framework opens it, in a child process; what could run code is
    refused.

    Exit codes: 0 converted, 2 could not convert or wrong usage.
    """
    with failing_cleanly(debug):
        check_writable(output)
        limits = limits_of(sandbox, timeout, max_memory)
        options = ConvertOptions(arch, opset, size)
        with ProgressBar(quiet) as progress:
            made = convert_file(source, output, options, limits=limits, progress=progress)
        if format_ is Format.JSON:
            deliver(to_json(made), None)
        else:
            deliver_renderable(_render(made, output), None)
    raise typer.Exit(CLEAN)


def _render(made: Conversion, output: Path) -> RenderableType:
    first = "N" if made.free_batch else str(made.input_shape[0])
    rows = [
        ("written", output.name),
        ("source", f"{made.file}, {made.converter}"),
        ("sha256", made.sha256),
        ("opset", str(made.opset)),
        ("input", f"{shape_text((first, *made.input_shape[1:]))} {made.layout}"),
        ("compared", f"{made.difference:.1e} of the largest score apart at most"),
        ("by", ", ".join(f"{name} {number}" for name, number in made.versions.items())),
    ]
    rows.extend(("note", note) for note in made.notes)
    return fact_table(rows)
