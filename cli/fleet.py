"""`onnx-soda fleet`: scan many models from a manifest, look at the results, put shards together."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnx_soda._data.forms import check_clean_set
from onnx_soda._errors import FleetError
from onnx_soda._fleet.consensus import Task, compare_fleet
from onnx_soda._fleet.manifest import read_manifest, shard_of
from onnx_soda._fleet.run import FleetRun, scan_fleet
from onnx_soda._fleet.store import FAILED, Row, Store
from onnx_soda._options import RuntimeOptions, ScanOptions, ScanRequest
from onnx_soda._report.formats import FORMATS, Context, Scanned
from onnx_soda._results import ScanReport
from onnx_soda._words import printable

from .config import data_options
from .options import (
    USUAL_MEMORY,
    USUAL_SECONDS,
    ArchOption,
    BudgetOption,
    ClassMapOption,
    DataOption,
    DataRootOption,
    Debug,
    ExitZeroOption,
    FailOnOption,
    JobsOption,
    LabelsOption,
    MaxMemoryOption,
    MethodOption,
    Output,
    PlainFormat,
    PreprocessOption,
    ProviderOption,
    Quiet,
    SamplesOption,
    SandboxOption,
    SeedOption,
    SizeOption,
    SplitOption,
    ThreadsOption,
    TimeOption,
    TimeoutOption,
    conversion,
    height_and_width,
    limits_of,
    seconds_of,
)
from .output import (
    CLEAN,
    FOUND,
    INCONCLUSIVE,
    ProgressBar,
    deliver,
    failing_cleanly,
    of_outcome,
    stoppable,
    without_verdict,
    worst,
)

# The library decides what is usual.
_USUAL = ScanOptions()
_SHARD = re.compile("([0-9]{1,6})/([0-9]{1,6})")
# Below the folder of the results: what models make of the bank.
_FLOWS = "flows"
_STYLES = {"backdoor": "bold red", "unsafe": "bold red", FAILED: "bold magenta", "clean": "green"}

fleet_app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Scan many models from a manifest, with results that outlive a run.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

ManifestArgument = Annotated[
    str,
    typer.Argument(
        metavar="MANIFEST",
        help="A table (.csv, .jsonl, .parquet) with columns model, data, task and options; or a "
        "folder, a pattern, or @LIST.",
    ),
]
ResultsArgument = Annotated[
    Path, typer.Argument(metavar="RESULTS", help="The folder of the results.")
]
ResultsOption = Annotated[
    Path, typer.Option("--output", "-o", metavar="RESULTS", help="Folder for the results.")
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N", help="Scan one of N parts, for machines that share the work."
    ),
]
PlainOption = Annotated[PlainFormat, typer.Option("--format", "-f", help="Form of the answer.")]
AgainOption = Annotated[
    bool, typer.Option("--retry-failed", help="Try those again that could not be scanned.")
]


@fleet_app.command("scan")
def scan_command(
    manifest: ManifestArgument,
    output: ResultsOption,
    data: DataOption = None,
    shard: ShardOption = None,
    retry_failed: AgainOption = False,
    split: SplitOption = "auto",
    class_map: ClassMapOption = None,
    labels: LabelsOption = None,
    data_root: DataRootOption = None,
    samples_per_class: SamplesOption = _USUAL.samples_per_class,
    preprocess: PreprocessOption = None,
    method: MethodOption = _USUAL.method,
    budget: BudgetOption = "default",
    provider: ProviderOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = _USUAL.seed,
    arch: ArchOption = None,
    size: SizeOption = None,
    jobs: JobsOption = 1,
    time: TimeOption = None,
    timeout: TimeoutOption = USUAL_SECONDS,
    max_memory: MaxMemoryOption = USUAL_MEMORY,
    sandbox: SandboxOption = True,
    fail_on: FailOnOption = "high",
    exit_zero: ExitZeroOption = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Scan the models of a manifest that have no result yet.

    Killed or interrupted, the same command goes on where it stopped. Each model is scanned in a
    child process of its own, with the limits of time and memory.

    Exit codes: of all models the worst, in the order 1, 4, 2, 3, 0; 3 where some were not scanned.
    """
    limits = limits_of(sandbox, timeout, max_memory)
    sides = height_and_width(size) if size else None
    reading = data_options(class_map, labels, data_root)
    part = _part(shard)
    with failing_cleanly(debug):
        options = ScanOptions(
            method=method,
            budget=budget,
            time_limit=seconds_of(time) if time else None,
            preprocess=preprocess,
            size=sides,
            samples_per_class=samples_per_class,
            seed=seed,
            runtime=RuntimeOptions(provider, threads),
            data=reading,
        )
        if data is not None:
            check_clean_set(data, reading)
        entries = read_manifest(manifest)
        entries = shard_of(entries, *part) if part else entries
        common = ScanRequest(Path(), data, split, options, conversion(arch, sides), limits)
        with Store(output) as store:
            with stoppable() as stopping, ProgressBar(quiet) as progress:
                run = scan_fleet(
                    entries, store, common, jobs, retry_failed, progress, stopping, progress.within
                )
            rows = store.rows()
            deliver(_overview(rows, run), None)
            outcomes = map(store.outcome, {row.key for row in rows if row.verdict})
            codes = [of_outcome(one, fail_on) for one in outcomes if one is not None]
    codes += [INCONCLUSIVE] * (run.waiting > 0)
    raise typer.Exit(worst(map(without_verdict, codes) if exit_zero else codes))


def _part(shard: str | None) -> tuple[int, int] | None:
    """Return the number of a part, from 1, and how many there are."""
    if shard is None:
        return None
    found = _SHARD.fullmatch(shard)
    number, of = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= of:
        raise typer.BadParameter(f"{shard!r} is none of 1/N to N/N", param_hint="--shard")
    return number, of


@fleet_app.command("consensus")
def consensus_command(
    manifest: ManifestArgument,
    output: ResultsOption,
    data: DataOption = None,
    split: SplitOption = "auto",
    class_map: ClassMapOption = None,
    labels: LabelsOption = None,
    data_root: DataRootOption = None,
    provider: ProviderOption = "auto",
    threads: ThreadsOption = None,
    timeout: TimeoutOption = USUAL_SECONDS,
    max_memory: MaxMemoryOption = USUAL_MEMORY,
    sandbox: SandboxOption = True,
    format_: PlainOption = "text",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare the models of each task with each other, and tell which is the odd one.

    What each makes of the changes is kept in the folder of the results.

    Exit codes: 0 none stands out; 1 one does; 2 wrong usage; 3 no task has enough models.
    """
    limits = limits_of(sandbox, timeout, max_memory)
    reading = data_options(class_map, labels, data_root)
    with failing_cleanly(debug):
        options = ScanOptions(runtime=RuntimeOptions(provider, threads), data=reading)
        if data is not None:
            check_clean_set(data, reading)
        common = ScanRequest(Path(), data, split, options, limits=limits)
        entries = read_manifest(manifest)
        with ProgressBar(quiet) as progress:
            tasks = compare_fleet(entries, common, output / _FLOWS, progress)
        told = json.dumps([asdict(task) for task in tasks], indent=2) + "\n"
        deliver(told if format_ == "json" else Group(*map(_beside, tasks)), None)
    odd = [one.beyond > task.threshold for task in tasks for one in task.odd]
    raise typer.Exit(FOUND if any(odd) else CLEAN if odd else INCONCLUSIVE)


def _beside(task: Task) -> RenderableType:
    """Return a row for each model of a task, the odd one first."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title_justify="left")
    table.title = Text(printable(f"{task.name or 'all models'}: {task.data}"))
    for name in ("model", "pair", "stands out by", "under this change"):
        table.add_column(name, overflow="fold")
    for one, concept in zip(task.odd, task.concepts, strict=True):
        table.add_row(
            Text(printable(one.name)),
            f"{one.pair[0]} -> {one.pair[1]}",
            Text(f"{one.beyond:+.2f}", "bold red" if one.beyond > task.threshold else ""),
            Text(concept),
        )
    lines = [f"{name} is left out: {why}." for name, why in task.left_out]
    if task.odd:
        lines.append(f"From {task.threshold:.2f} on a pair is taken for a backdoor.")
    return Group(table, *(Text(printable(line)) for line in lines), Text())


@fleet_app.command("status")
def status_command(
    results: ResultsArgument,
    format_: PlainOption = "text",
    output: Output = None,
) -> None:
    """Tell how many models were scanned, and what came of it.

    Exit codes: 0 told, 2 there are no results.
    """
    with failing_cleanly(debug=False), Store(results, made=True) as store:
        rows = store.rows()
        if format_ == "json":
            told = {"models": len(rows), "verdicts": _counts(rows), "rows": list(map(asdict, rows))}
            deliver(json.dumps(told, indent=2) + "\n", output)
        else:
            deliver(_overview(rows), output)


@fleet_app.command("show")
def show_command(
    results: ResultsArgument,
    model: Annotated[str, typer.Argument(help="Path or name of the model, as in the manifest.")],
    format_: Annotated[
        str, typer.Option("--format", "-f", metavar=f"<{'|'.join(FORMATS.names)}>")
    ] = "text",
    output: Output = None,
) -> None:
    """Show the report of one model, in any form.

    Exit codes: 0 shown, 2 there is none.
    """
    with failing_cleanly(debug=False), Store(results, made=True) as store:
        rows = [row for row in store.rows() if model in (row.place, Path(row.place).name)]
        outcome = store.outcome(rows[0].key) if rows else None
        if outcome is None:
            raise FleetError(
                f"there is no result of {model}", "`onnx-soda fleet status` lists them."
            )
        single = isinstance(outcome, ScanReport)
        scanned = [Scanned(outcome, rows[0].place, rows[0].place, rows[0].seconds)]
        form = FORMATS.load(format_)()
        form.require()
        deliver(form.render(scanned, Context(single)), output)


@fleet_app.command("export")
def export_command(
    results: ResultsArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format", "-f", metavar="<jsonl|parquet|json|sarif|markdown|junit>", help="Its form."
        ),
    ] = "jsonl",
) -> None:
    """Write all results into one file: a line or row for each model, or a report of many models.

    Exit codes: 0 written, 2 it cannot be.
    """
    from onnx_soda._fleet.export import export

    with failing_cleanly(debug=False), Store(results, made=True) as store:
        export(store, format_, output)


@fleet_app.command("merge")
def merge_command(
    results: ResultsArgument,
    shards: Annotated[list[Path], typer.Argument(help="Folders of results to take over.")],
) -> None:
    """Put the results of shards together in one folder.

    Exit codes: 0 merged, 2 a folder has no results.
    """
    with failing_cleanly(debug=False), Store(results) as store:
        for shard in shards:
            models = store.merge(shard)
            typer.echo(f"{printable(str(shard))}: {models} models")


def _counts(rows: list[Row]) -> dict[str, int]:
    return dict(Counter(row.verdict or "not scanned" for row in rows))


def _overview(rows: list[Row], run: FleetRun | None = None) -> RenderableType:
    """Return a row for each model, the worst first, and how many there are of each verdict."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("model", "verdict", "finding", "pair", "seconds"):
        table.add_column(name, overflow="fold", justify="right" if name == "seconds" else "left")
    for row in rows:
        table.add_row(
            Text(printable(row.place)),
            Text(row.verdict or "not scanned", _STYLES.get(row.verdict, "")),
            Text(printable(row.rule)),
            Text(printable(row.pair)),
            f"{row.seconds:.1f}" if row.verdict else "",
        )
    counts = ", ".join(f"{count} {verdict}" for verdict, count in _counts(rows).items())
    table.caption = Text(f"{len(rows)} models: {counts}.{_of_run(run)}")
    table.caption_justify = "left"
    return table


def _of_run(run: FleetRun | None) -> str:
    if run is None:
        return ""
    waiting = f" {run.waiting} are left." if run.waiting else ""
    return f" {run.scanned} were scanned now, {run.known} were known.{waiting}"
