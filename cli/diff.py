"""`onnx-soda diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from onnx_soda.report.jsonfile import check_writable, to_json
from onnx_soda.report.plain import printable
from onnx_soda.report.repair_schema import ModelDifference
from onnx_soda.report.repair_text import change_table
from onnx_soda.sandbox.files import diff_files

from .arguments import (
    USUAL_MEMORY,
    USUAL_SECONDS,
    Debug,
    Format,
    FormatOption,
    MaxMemoryOption,
    ModelArgument,
    Output,
    SandboxOption,
    TimeoutOption,
    limits_of,
)
from .exit_codes import CLEAN
from .failures import failing_cleanly
from .output import deliver, deliver_renderable

__all__ = ["diff_command"]


def diff_command(
    model: ModelArgument,
    other: Annotated[
        Path, typer.Argument(metavar="OTHER", help="Another ONNX file.", show_default=False)
    ],
    format_: FormatOption = Format.TEXT,
    output: Output = None,
    timeout: TimeoutOption = USUAL_SECONDS,
    max_memory: MaxMemoryOption = USUAL_MEMORY,
    sandbox: SandboxOption = True,
    debug: Debug = False,
) -> None:
    """Show which stored weights of two models differ, and by how much.

    Exit codes: 0 compared, 2 could not compare or wrong usage.
    """
    with failing_cleanly(debug):
        if output is not None:
            check_writable(output, model, other)
        found = diff_files(model, other, limits=limits_of(sandbox, timeout, max_memory))
        if format_ is Format.JSON:
            deliver(to_json(found), output)
        else:
            deliver_renderable(_render(found), output)
    raise typer.Exit(CLEAN)


def _render(found: ModelDifference) -> RenderableType:
    lines: list[RenderableType] = [change_table(found.changes), Text()]
    lines.append(Text(f"{found.same_tensors} tensors are equal."))
    for what, names in (
        ("Other shape or type", found.reshaped),
        ("Only in the first", found.only_first),
        ("Only in the second", found.only_second),
    ):
        if names:
            lines.append(Text(printable(f"{what}: {', '.join(names)}")))
    same = "The graphs are the same." if found.same_graph else "The graphs differ."
    return Group(*lines, Text(same))
