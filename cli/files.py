"""`onnx-soda inspect`, `diff` and `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnx_soda._answers import Conversion, ModelDifference, ModelSummary, TensorSummary
from onnx_soda._api import convert_file, diff_files, inspect_file
from onnx_soda._numbers import decisions_table
from onnx_soda._options import ConvertOptions
from onnx_soda._report.json import to_json
from onnx_soda._report.tables import (
    change_table,
    evidence_table,
    fact_table,
    finding_table,
    shape_text,
)
from onnx_soda._system import check_writable
from onnx_soda._words import printable

from .options import (
    USUAL_MEMORY,
    USUAL_SECONDS,
    ArchOption,
    Debug,
    FormatOption,
    LogitsOption,
    MaxMemoryOption,
    ModelArgument,
    Output,
    Quiet,
    SandboxOption,
    SourceArgument,
    SquareOption,
    TimeoutOption,
    in_flags,
    limits_of,
)
from .output import (
    CLEAN,
    COULD_NOT_SCAN,
    ProgressBar,
    complain,
    deliver,
    failing_cleanly,
)
from .reports import form_for


def inspect_command(
    model: SourceArgument,
    logits: LogitsOption = None,
    arch: ArchOption = None,
    size: SquareOption = None,
    format_: FormatOption = None,
    output: Output = None,
    timeout: TimeoutOption = USUAL_SECONDS,
    max_memory: MaxMemoryOption = USUAL_MEMORY,
    sandbox: SandboxOption = True,
    debug: Debug = False,
) -> None:
    """Show what is in a model file; the model is not run.

    The tensors that a scan would pick are shown, too. Models in other formats are converted first;
    see `onnx-soda convert`.

    Exit codes: 0 it can be scanned, 2 it cannot, 4 it is refused as unsafe.
    """
    with failing_cleanly(debug):
        if output is not None:
            check_writable(output, model)
        limits = limits_of(sandbox, timeout, max_memory)
        convert = ConvertOptions(arch, size=size)
        summary = inspect_file(model, logits, convert=convert, limits=limits)
        if form_for(format_, output) == "json":
            deliver(to_json(summary), output)
        else:
            deliver(_render_summary(summary), output)
    if summary.problem is not None:
        complain(in_flags(summary.problem), in_flags(summary.advice or ""))
        raise typer.Exit(COULD_NOT_SCAN)
    raise typer.Exit(CLEAN)


def _render_summary(summary: ModelSummary) -> RenderableType:
    rows = [
        ("file", summary.file),
        ("sha256", summary.sha256),
        ("opset", f"{summary.opset}, IR version {summary.ir_version}"),
        ("producer", summary.producer or "not given"),
        ("parameters", f"{summary.parameters:,}"),
    ]
    rows.extend(("external data", name) for name in summary.external_data)
    rows.extend(("input", _tensor(tensor)) for tensor in summary.inputs)
    rows.extend(("output", _tensor(tensor)) for tensor in summary.outputs)
    if summary.logits is None:
        rows.extend(("note", note) for note in summary.notes)
        return Group(fact_table(rows), *_decisions(summary), *_findings(summary))
    classes = "?" if summary.logits.classes is None else str(summary.logits.classes)
    tail = ", ".join(reversed(summary.logits.stripped))
    behind = f", before {tail}" if tail else ""
    rows.append(("layout", summary.layout or ""))
    rows.append(("logits", f"{summary.logits.name}: {classes} classes{behind}"))
    rows.extend(("note", note) for note in summary.notes)
    told = (*_decisions(summary), *_findings(summary))
    return Group(fact_table(rows), Text(), _layers(summary), *told)


def _decisions(summary: ModelSummary) -> list[RenderableType]:
    if not summary.decisions.shown:
        return []
    of = "the image" if summary.layout else "the input"
    return [Text(), evidence_table(decisions_table(summary.decisions, of))]


def _findings(summary: ModelSummary) -> list[RenderableType]:
    if not summary.findings:
        return []
    return [Text(), finding_table(summary.findings, "Unusual about the file")]


def _tensor(tensor: TensorSummary) -> str:
    return f"{tensor.name} {shape_text(tensor.shape)} {tensor.dtype}"


def _layers(summary: ModelSummary) -> Table:
    table = Table(title="Layers for --layer", title_justify="left", title_style="bold", box=None)
    for name in ("role", "tensor", "shape", "neurons", "depth"):
        table.add_column(name, overflow="fold")
    for layer in summary.layers:
        table.add_row(
            layer.role,
            Text(printable(layer.name)),
            shape_text(layer.shape),
            "?" if layer.neurons is None else str(layer.neurons),
            str(layer.depth),
        )
    return table


def diff_command(
    model: ModelArgument,
    other: Annotated[
        Path, typer.Argument(metavar="OTHER", help="Another ONNX file.", show_default=False)
    ],
    format_: FormatOption = None,
    output: Output = None,
    timeout: TimeoutOption = USUAL_SECONDS,
    max_memory: MaxMemoryOption = USUAL_MEMORY,
    sandbox: SandboxOption = True,
    debug: Debug = False,
) -> None:
    """Show which stored weights of two models differ, and by how much.

    Exit codes: 0 compared, 2 could not compare or wrong usage, 4 a file is refused as unsafe.
    """
    with failing_cleanly(debug):
        if output is not None:
            check_writable(output, model, other)
        found = diff_files(model, other, limits=limits_of(sandbox, timeout, max_memory))
        if form_for(format_, output) == "json":
            deliver(to_json(found), output)
        else:
            deliver(_render_difference(found), output)
    raise typer.Exit(CLEAN)


def _render_difference(found: ModelDifference) -> RenderableType:
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
    size: SquareOption = None,
    opset: Annotated[
        int | None,
        typer.Option("--opset", min=13, max=26, help="ONNX operator set; the route's usual else."),
    ] = None,
    timeout: TimeoutOption = USUAL_SECONDS,
    max_memory: MaxMemoryOption = USUAL_MEMORY,
    sandbox: SandboxOption = True,
    format_: FormatOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Convert a model of PyTorch, Keras, TensorFlow or scikit-learn to ONNX.

    The result is compared with the original on random images.

    The file is checked before its framework opens it, in a child process. A file that could run
    code is refused.

    Exit codes: 0 converted, 2 could not convert or wrong usage, 4 the source is refused as unsafe.
    """
    with failing_cleanly(debug):
        check_writable(output)
        limits = limits_of(sandbox, timeout, max_memory)
        options = ConvertOptions(arch, opset, size)
        with ProgressBar(quiet) as progress:
            made = convert_file(source, output, options, limits=limits, progress=progress)
        if format_ == "json":
            deliver(to_json(made), None)
        else:
            deliver(_render_conversion(made, output), None)
    raise typer.Exit(CLEAN)


def _render_conversion(made: Conversion, output: Path) -> RenderableType:
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
