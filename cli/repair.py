"""`onnx-soda repair`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from onnx_soda import ScanOptions, load_dataset, load_model
from onnx_soda.data.datasets import CleanSet
from onnx_soda.errors import RepairError
from onnx_soda.model.anatomy import dissect
from onnx_soda.model.load import OnnxModel
from onnx_soda.model.runtime_options import RuntimeOptions
from onnx_soda.repair.files import check_target, write_model
from onnx_soda.repair.options import RepairOptions
from onnx_soda.repair.repair import RepairReport, repair
from onnx_soda.report.jsonfile import check_writable
from onnx_soda.report.repair_document import pair_in_report, repair_to_json
from onnx_soda.report.repair_text import render_repair
from onnx_soda.scanner import describe_model

from .arguments import Debug, Format, FormatOption, ModelArgument, Quiet
from .exit_codes import CLEAN, INCONCLUSIVE
from .failures import failing_cleanly
from .output import deliver, deliver_renderable
from .progress import ProgressBar
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

__all__ = ["repair_command"]

_USUAL, _USUAL_SCAN = RepairOptions(), ScanOptions()
# By name: the outliers by median absolute deviation, in place of a share of the neurons.
_OUTLIERS = "mad"


class ScopeChoice(StrEnum):
    """Which weights are trained."""

    HEAD = "head"
    PATH = "path"


class ReconstructionChoice(StrEnum):
    """How infected images are made."""

    CONCEPTS = "concepts"
    ASCENT = "ascent"
    BOTH = "both"


class ExportChoice(StrEnum):
    """How the repaired model is made."""

    WEIGHTS = "weights"
    TORCH = "torch"


def _top(value: str) -> str:
    if value != _OUTLIERS:
        try:
            share = float(value)
        except ValueError as error:
            raise typer.BadParameter(f"{value!r} is neither a share nor 'mad'") from error
        if not 0 < share <= 1:
            raise typer.BadParameter(f"a share is over 0 and at most 1, not {value}")
    return value


def repair_command(
    model: ModelArgument,
    data: Annotated[
        Path,
        typer.Option("--data", "-d", metavar="PATH", help="Clean labelled images, as for scan."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The repaired model.")
    ],
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="JSON report of a scan of this model."),
    ] = None,
    victim: Annotated[
        int | None, typer.Option("--victim", min=0, help="Source class, whatever a scan says.")
    ] = None,
    target: Annotated[
        int | None, typer.Option("--target", min=0, help="Class that it is turned into.")
    ] = None,
    scope: Annotated[
        ScopeChoice,
        typer.Option("--scope", help="Train what the neurons feed, or also what feeds them."),
    ] = ScopeChoice.HEAD,
    reconstruction: Annotated[
        ReconstructionChoice,
        typer.Option("--reconstruction", help="Make infected images by concepts or by ascent."),
    ] = ReconstructionChoice.BOTH,
    top: Annotated[
        str,
        typer.Option(
            "--top",
            metavar="SHARE|mad",
            callback=_top,
            help="Share of the neurons to train, or 'mad' for the outliers.",
        ),
    ] = str(_USUAL.top),
    max_accuracy_drop: Annotated[
        float,
        typer.Option(
            "--max-accuracy-drop", min=0, max=100, help="Points of clean accuracy to lose at most."
        ),
    ] = 100 * _USUAL.max_accuracy_drop,
    trigger_images: Annotated[
        Path | None,
        typer.Option(
            "--trigger-images", metavar="PATH", help="Real trigger images, to measure with only."
        ),
    ] = None,
    export: Annotated[
        ExportChoice,
        typer.Option("--export", help="Put weights into the file's graph, or export it anew."),
    ] = ExportChoice.WEIGHTS,
    rescan: Annotated[bool, typer.Option(help="Scan the repaired model.")] = _USUAL.rescan,
    report_output: Annotated[
        Path | None,
        typer.Option(
            "--report-output", metavar="FILE", help="Write the report of the repair here."
        ),
    ] = None,
    split: SplitOption = Split.AUTO,
    preprocess: PreprocessOption = None,
    budget: BudgetOption = BudgetChoice.DEFAULT,
    provider: ProviderOption = Provider.AUTO,
    threads: ThreadsOption = None,
    seed: SeedOption = _USUAL_SCAN.seed,
    format_: FormatOption = Format.TEXT,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove a semantic backdoor, and write the repaired model.

    Without --report or a pair the model is scanned first. Needs pip install "onnx-soda[repair]".

    Exit codes: 0 repaired or nothing to repair, 2 could not repair or wrong usage, 3 partly
    repaired (the model is written), inconclusive scan, or no result keeps the accuracy (nothing is
    written).
    """
    if (victim is None) != (target is None):
        raise typer.BadParameter("--victim and --target go together")
    options = RepairOptions(
        scope.value,
        reconstruction.value,
        None if top == _OUTLIERS else float(top),
        max_accuracy_drop / 100,
        export.value,
        rescan,
        ScanOptions(
            budget=budget.value,
            preprocess=preprocess,
            seed=seed,
            runtime=RuntimeOptions(provider.value, threads),
        ),
    )
    with failing_cleanly(debug):
        for path in (output, report_output):
            if path is not None:
                check_writable(path)
        loaded = load_model(model)
        check_target(loaded, output)
        pair = _pair(loaded, report, victim, target)
        clean = load_dataset(data, split.value)
        triggers = load_dataset(trigger_images, Split.ALL) if trigger_images else None
        with ProgressBar(quiet) as progress:
            done = repair(
                loaded, clean, pair=pair, options=options, triggers=triggers, progress=progress
            )
        if done.model is not None:
            write_model(done.model, loaded, output)
        _tell(done, loaded, clean, output, report_output, format_)
    fine = done.summary.outcome in ("repaired", "nothing to repair")
    raise typer.Exit(CLEAN if fine else INCONCLUSIVE)


def _pair(
    model: OnnxModel, report: Path | None, victim: int | None, target: int | None
) -> tuple[int, int] | None:
    """Return the pair given by hand or by a report; None where a scan has to find it."""
    if victim is not None and target is not None:
        return victim, target
    if report is None:
        return None
    pair = pair_in_report(report, model.sha256)
    if pair is None:
        raise RepairError(
            f"{report.name} names no pair of classes", "Name them by --victim and --target."
        )
    return pair


def _tell(
    done: RepairReport,
    model: OnnxModel,
    clean: CleanSet,
    output: Path,
    report_output: Path | None,
    format_: Format,
) -> None:
    if format_ is Format.JSON:
        described = describe_model(dissect(model))
        deliver(repair_to_json(done.summary, done.scan, described), report_output)
        return
    written = output.name if done.model is not None else None
    content = render_repair(done.summary, model.file, clean.class_names, written)
    deliver_renderable(content, report_output)
