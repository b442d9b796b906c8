"""`onnx-soda inspect`."""

from __future__ import annotations

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnx_soda.report.jsonfile import check_writable, to_json
from onnx_soda.report.plain import printable
from onnx_soda.report.summary_schema import ModelSummary, TensorSummary
from onnx_soda.report.text import fact_table, finding_table, shape_text
from onnx_soda.sandbox.files import inspect_file

from .arguments import (
    USUAL_MEMORY,
    USUAL_SECONDS,
    Debug,
    Format,
    FormatOption,
    LogitsOption,
    MaxMemoryOption,
    ModelArgument,
    Output,
    SandboxOption,
    TimeoutOption,
    limits_of,
)
from .exit_codes import CLEAN, COULD_NOT_SCAN
from .failures import complain, failing_cleanly
from .output import deliver, deliver_renderable

__all__ = ["inspect_command"]


def inspect_command(
    model: ModelArgument,
    logits: LogitsOption = None,
    format_: FormatOption = Format.TEXT,
    output: Output = None,
    timeout: TimeoutOption = USUAL_SECONDS,
    max_memory: MaxMemoryOption = USUAL_MEMORY,
    sandbox: SandboxOption = True,
    debug: Debug = False,
) -> None:
    """Show what is in an ONNX file and which tensors a scan would pick. Runs nothing of it.

    Exit codes: 0 it can be scanned, 2 it cannot.
    """
    with failing_cleanly(debug):
        if output is not None:
            check_writable(output, model)
        limits = limits_of(sandbox, timeout, max_memory)
        summary = inspect_file(model, logits, limits=limits)
        if format_ is Format.JSON:
            deliver(to_json(summary), output)
        else:
            deliver_renderable(_render(summary), output)
    if summary.problem is not None:
        complain(summary.problem, summary.advice or "")
        raise typer.Exit(COULD_NOT_SCAN)
    raise typer.Exit(CLEAN)


def _render(summary: ModelSummary) -> RenderableType:
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
        return Group(fact_table(rows), *_findings(summary))
    classes = "?" if summary.logits.classes is None else str(summary.logits.classes)
    tail = ", ".join(reversed(summary.logits.stripped))
    behind = f", before {tail}" if tail else ""
    rows.append(("layout", summary.layout or ""))
    rows.append(("logits", f"{summary.logits.name}: {classes} classes{behind}"))
    rows.extend(("note", note) for note in summary.notes)
    return Group(fact_table(rows), Text(), _layers(summary), *_findings(summary))


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
