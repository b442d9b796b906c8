"""`onnx-soda repair`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer

from onnx_soda._answers import RepairAnswer
from onnx_soda._api import repair_file
from onnx_soda._batch import ask_all
from onnx_soda._cache import Cache, usual_folder
from onnx_soda._options import (
    RepairOptions,
    RuntimeOptions,
    ScanOptions,
    ScanRequest,
)
from onnx_soda._report.formats import REPAIR_FORMATS, Context
from onnx_soda._system import check_writable

from .config import class_order, data_options, repeat_command
from .options import (
    OUTLIERS,
    USUAL_MEMORY,
    USUAL_SECONDS,
    ArchOption,
    BudgetOption,
    ClassMapOption,
    CleanSetOption,
    DataRootOption,
    Debug,
    ExportOption,
    LabelsOption,
    MaxDropOption,
    MaxMemoryOption,
    ModelOutput,
    ParametersOption,
    PreprocessOption,
    ProviderOption,
    Quiet,
    ReconstructionOption,
    ReferenceClassesOption,
    ReferenceOption,
    RemoverOption,
    RepairFormatOption,
    ReportOption,
    ReportOutput,
    RescanOption,
    SandboxOption,
    ScopeOption,
    SeedOption,
    SizeOption,
    SourceArgument,
    SplitOption,
    TargetOption,
    ThreadsOption,
    TimeOption,
    TimeoutOption,
    TopOption,
    TriggersOption,
    VictimOption,
    WholeOption,
    conversion,
    height_and_width,
    in_flags,
    limits_of,
    seconds_of,
)
from .output import (
    CLEAN,
    INCONCLUSIVE,
    ProgressBar,
    deliver,
    failing_cleanly,
    report_in_flags,
)
from .reports import dated, form_for

# The library decides what is usual.
_USUAL, _USUAL_SCAN = RepairOptions(), ScanOptions()


def repair_command(
    context: typer.Context,
    model: SourceArgument,
    data: CleanSetOption,
    output: ModelOutput,
    report: ReportOption = None,
    victim: VictimOption = None,
    target: TargetOption = None,
    whole: WholeOption = _USUAL.whole,
    method: RemoverOption = _USUAL.method,
    parameters: ParametersOption = _USUAL.parameters,
    scope: ScopeOption = "auto",
    reconstruction: ReconstructionOption = "both",
    top: TopOption = str(_USUAL.top),
    max_accuracy_drop: MaxDropOption = 100 * _USUAL.max_accuracy_drop,
    trigger_images: TriggersOption = None,
    export: ExportOption = "weights",
    rescan: RescanOption = _USUAL.rescan,
    report_output: ReportOutput = None,
    split: SplitOption = "auto",
    class_map: ClassMapOption = None,
    labels: LabelsOption = None,
    data_root: DataRootOption = None,
    preprocess: PreprocessOption = None,
    budget: BudgetOption = "default",
    reference: ReferenceOption = None,
    reference_classes: ReferenceClassesOption = None,
    provider: ProviderOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = _USUAL_SCAN.seed,
    arch: ArchOption = None,
    size: SizeOption = None,
    time: TimeOption = None,
    timeout: TimeoutOption = USUAL_SECONDS,
    max_memory: MaxMemoryOption = USUAL_MEMORY,
    sandbox: SandboxOption = True,
    format_: RepairFormatOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove a semantic backdoor, and write the repaired model.

    The model is scanned first, unless --report or a pair is given. Models in other formats are
    converted first; the repaired model is ONNX. It needs the extra [repair], which brings torch.

    Exit codes: 0 repaired, or nothing to repair; 2 could not repair, or wrong usage; 3 partly
    repaired, or a backdoor in the new scan (the model is written), or inconclusive, or no result
    keeps the accuracy (nothing is written); 4 the model is refused as unsafe.
    """
    pair = _pair(victim, target)
    if whole and (pair or report):
        raise typer.BadParameter("--whole finds itself what to repair: leave the pair and --report")
    if whole and not reference:
        raise typer.BadParameter("--whole needs --reference: other models of the same classes")
    sides = height_and_width(size) if size else None
    options = RepairOptions(
        parameters=parameters,
        scope=scope,
        reconstruction=reconstruction,
        top=None if top == OUTLIERS else float(top),
        max_accuracy_drop=max_accuracy_drop / 100,
        export=export,
        rescan=rescan,
        scan=ScanOptions(
            budget=budget,
            time_limit=seconds_of(time) if time else None,
            preprocess=preprocess,
            size=sides,
            seed=seed,
            runtime=RuntimeOptions(provider, threads),
            reference_classes=class_order(reference_classes),
            data=data_options(class_map, labels, data_root),
        ),
        method=method,
        whole=whole,
    )
    with failing_cleanly(debug):
        form = REPAIR_FORMATS.load(form_for(format_, report_output, REPAIR_FORMATS))()
        form.require()
        named = (report, trigger_images, class_map, labels)
        inputs = (model, data, *named, Path(preprocess) if preprocess else None)
        check_writable(output, *inputs)
        if report_output is not None:
            check_writable(report_output, output, *inputs)
        convert, limits = conversion(arch, sides), limits_of(sandbox, timeout, max_memory)
        asked = ScanRequest(model, data, split, options.scan, convert, limits)
        with ProgressBar(quiet) as progress:
            remembered = Cache(usual_folder())
            answer = repair_file(
                model,
                data,
                output,
                pair=pair,
                report=report,
                triggers=trigger_images,
                split=split,
                options=options,
                convert=convert,
                limits=limits,
                progress=progress,
                references=ask_all(reference or (), asked, remembered, progress),
            )
        written = output.name if answer.written else None
        told = Context(command=repeat_command(context, "output"))
        deliver(form.render_repair(_in_flags(answer), written, told), report_output)
    fine = answer.summary.outcome in ("repaired", "nothing to repair")
    raise typer.Exit(CLEAN if fine else INCONCLUSIVE)


def _pair(victim: int | None, target: int | None) -> tuple[int, int] | None:
    if victim is None and target is None:
        return None
    if victim is None or target is None:
        raise typer.BadParameter("--victim and --target go together")
    return victim, target


def _in_flags(answer: RepairAnswer) -> RepairAnswer:
    summary = answer.summary
    told = replace(
        summary, reason=in_flags(summary.reason), notes=tuple(map(in_flags, summary.notes))
    )
    scan = dated(report_in_flags(answer.scan)) if answer.scan else None
    return replace(answer, summary=dated(told), scan=scan)
