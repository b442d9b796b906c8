"""`onnx-soda repair`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer
from rich.console import RenderableType

from onnx_soda._api import as_onnx, repair_file
from onnx_soda._options import ConvertOptions, RepairOptions, RuntimeOptions, ScanOptions
from onnx_soda._report.json import check_writable, repair_to_json
from onnx_soda._report.repair_text import render_repair
from onnx_soda._sandbox.jobs import RepairAnswer, RepairJob

from .arguments import (
    USUAL_MEMORY,
    USUAL_SECONDS,
    ArchOption,
    Debug,
    MaxMemoryOption,
    Quiet,
    SandboxOption,
    SizeOption,
    TimeoutOption,
    limits_of,
)
from .config import repeat_command
from .formats import ReportFormat, check_packages
from .output import CLEAN, INCONCLUSIVE, ProgressBar, deliver, deliver_renderable, failing_cleanly
from .repair_options import (
    OUTLIERS,
    CleanSetOption,
    ExportChoice,
    ExportOption,
    MaxDropOption,
    ModelOutput,
    ReconstructionChoice,
    ReconstructionOption,
    RepairFormat,
    RepairFormatOption,
    ReportOption,
    ReportOutput,
    RescanOption,
    ScopeChoice,
    ScopeOption,
    SourceArgument,
    TargetOption,
    TopOption,
    TriggersOption,
    VictimOption,
)
from .scan_options import (
    BudgetChoice,
    BudgetOption,
    PreprocessOption,
    Provider,
    ProviderOption,
    SeedOption,
    Split,
    SplitOption,
    ThreadsOption,
)

_USUAL, _USUAL_SCAN = RepairOptions(), ScanOptions()


def repair_command(
    context: typer.Context,
    model: SourceArgument,
    data: CleanSetOption,
    output: ModelOutput,
    report: ReportOption = None,
    victim: VictimOption = None,
    target: TargetOption = None,
    scope: ScopeOption = ScopeChoice.AUTO,
    reconstruction: ReconstructionOption = ReconstructionChoice.BOTH,
    top: TopOption = str(_USUAL.top),
    max_accuracy_drop: MaxDropOption = 100 * _USUAL.max_accuracy_drop,
    trigger_images: TriggersOption = None,
    export: ExportOption = ExportChoice.WEIGHTS,
    rescan: RescanOption = _USUAL.rescan,
    report_output: ReportOutput = None,
    split: SplitOption = Split.AUTO,
    preprocess: PreprocessOption = None,
    budget: BudgetOption = BudgetChoice.DEFAULT,
    provider: ProviderOption = Provider.AUTO,
    threads: ThreadsOption = None,
    seed: SeedOption = _USUAL_SCAN.seed,
    arch: ArchOption = None,
    size: SizeOption = None,
    timeout: TimeoutOption = USUAL_SECONDS,
    max_memory: MaxMemoryOption = USUAL_MEMORY,
    sandbox: SandboxOption = True,
    format_: RepairFormatOption = RepairFormat.TEXT,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove a semantic backdoor, and write the repaired model.

    Without --report or a pair the model is scanned first; what is not ONNX is converted first, and
    the repaired model is ONNX. Needs pip install "onnx-soda[repair]".

    Exit codes: 0 repaired or nothing to repair, 2 could not repair or wrong usage, 3 partly
    repaired, or a backdoor in the new scan (the model is written), inconclusive scan, or no result
    keeps the accuracy (nothing is written).
    """
    job = RepairJob(
        model="",
        data=str(data.absolute()),
        output="",
        place=str(output.absolute()),
        pair=_pair(victim, target),
        report=None if report is None else str(report.absolute()),
        triggers=None if trigger_images is None else str(trigger_images.absolute()),
        split=split.value,
        options=RepairOptions(
            scope.value,
            reconstruction.value,
            None if top == OUTLIERS else float(top),
            max_accuracy_drop / 100,
            export.value,
            rescan,
            ScanOptions(
                budget=budget.value,
                preprocess=preprocess,
                seed=seed,
                runtime=RuntimeOptions(provider.value, threads),
            ),
        ),
    )
    limits = limits_of(sandbox, timeout, max_memory)
    with failing_cleanly(debug):
        check_packages(ReportFormat(format_.value))
        inputs = (model, data, report, trigger_images, Path(preprocess) if preprocess else None)
        check_writable(output, *inputs)
        if report_output is not None:
            check_writable(report_output, output, *inputs)
        with (
            ProgressBar(quiet) as progress,
            as_onnx(model, ConvertOptions(arch, size=size), limits, progress) as (path, _),
        ):
            absolute = replace(job, model=str(path.absolute()))
            answer = repair_file(absolute, limits=limits, progress=progress)
        content = _content(answer, output, format_, repeat_command(context, "output"))
        if isinstance(content, str):
            deliver(content, report_output)
        else:
            deliver_renderable(content, report_output)
    fine = answer.summary.outcome in ("repaired", "nothing to repair")
    raise typer.Exit(CLEAN if fine else INCONCLUSIVE)


def _pair(victim: int | None, target: int | None) -> tuple[int, int] | None:
    if victim is None and target is None:
        return None
    if victim is None or target is None:
        raise typer.BadParameter("--victim and --target go together")
    return victim, target


def _content(
    answer: RepairAnswer, output: Path, form: RepairFormat, command: str
) -> str | RenderableType:
    """Return the report; in text as something that a console prints."""
    if form is RepairFormat.JSON:
        return repair_to_json(answer.summary, answer.scan, answer.model)
    written = output.name if answer.written else None
    if form is RepairFormat.TEXT:
        return render_repair(answer.summary, answer.model.file, answer.class_names, written)
    from onnx_soda._report.html import repair_to_html

    return repair_to_html(
        answer.summary, answer.scan, answer.model, answer.class_names, written, command
    )
