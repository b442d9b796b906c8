"""`onnx-soda fleet`: scan many models from a manifest, look at the results, put shards together."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnx_soda._data.forms import check_clean_set
from onnx_soda._fleet.engines import Engine, EngineName, LocalEngine, RayEngine
from onnx_soda._fleet.manifest import Asked, read_manifest, shard_of
from onnx_soda._fleet.run import scan_fleet
from onnx_soda._fleet.store import FAILED, Store
from onnx_soda._options import Limits, RuntimeOptions, ScanOptions, ScanRequest
from onnx_soda._rules import Severity
from onnx_soda._words import printable

from .config import data_options
from .fleet_results import (
    PlainOption,
    ResultsArgument,
    exit_codes,
    export_command,
    merge_command,
    overview,
    read_results,
    show_command,
    status_command,
)
from .options import (
    MEBIBYTE,
    USUAL_MEMORY,
    USUAL_SECONDS,
    ArchOption,
    BaselineOption,
    BudgetOption,
    ClassMapOption,
    DataOption,
    DataRootOption,
    Debug,
    ExitZeroOption,
    FailOnOption,
    LabelsOption,
    MaxMemoryOption,
    MethodOption,
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
    stoppable,
    without_verdict,
    worst,
)
from .upkeep import accepted_entries

if TYPE_CHECKING:
    from onnx_soda._fleet.consensus import Task

# The library decides what is usual.
_USUAL = ScanOptions()
_SHARD = re.compile("([0-9]{1,6})/([0-9]{1,6})")
# Below the folder of the results: what models make of the bank.
_FLOWS = "flows"

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
ResultsOption = Annotated[
    Path, typer.Option("--output", "-o", metavar="RESULTS", help="Folder for the results.")
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N", help="Scan one of N parts, for machines that share the work."
    ),
]
AgainOption = Annotated[
    bool, typer.Option("--retry-failed", help="Try those again that could not be scanned.")
]
EngineOption = Annotated[
    EngineName, typer.Option("--engine", help="Scan on this machine, or on a cluster of Ray.")
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="auto|HOST:PORT",
        help="The Ray cluster that this machine is of; if not given, Ray is started here.",
        show_default=False,
    ),
]
GpusOption = Annotated[
    float, typer.Option("--gpus", min=0, max=1024, help="Share of a GPU for each scan, on Ray.")
]
AtOnceOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        max=65536,
        help="Models to scan at once.  [default: 1; on Ray as many as there are cores for]",
        show_default=False,
    ),
]
FailedOption = Annotated[
    bool, typer.Option("--failed", help="Leave those that no scan has reached yet.")
]
RetryTimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", min=1, help="The most seconds of each scan; as before if not given."),
]
RetryMemoryOption = Annotated[
    int | None,
    typer.Option("--max-memory", min=64, help="The most MiB of each scan; as before if not given."),
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
    engine: EngineOption = "local",
    address: AddressOption = None,
    gpus: GpusOption = 0.0,
    jobs: AtOnceOption = None,
    baseline: BaselineOption = None,
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
    part, where = _part(shard), _engine(engine, address, gpus, jobs)
    if engine == "ray" and not sandbox:
        raise typer.BadParameter("a scan on Ray has a child process", param_hint="--no-sandbox")
    ending = _Ending(baseline, fail_on, exit_zero, quiet)
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
        asked = tuple(entry.asked(common) for entry in entries)
        with Store(output) as store:
            code = _run(store, asked, where, retry_failed, ending)
    raise typer.Exit(code)


@fleet_app.command("retry")
def retry_command(
    results: ResultsArgument,
    failed: FailedOption = False,
    engine: EngineOption = "local",
    address: AddressOption = None,
    gpus: GpusOption = 0.0,
    jobs: AtOnceOption = None,
    baseline: BaselineOption = None,
    timeout: RetryTimeoutOption = None,
    max_memory: RetryMemoryOption = None,
    fail_on: FailOnOption = "high",
    exit_zero: ExitZeroOption = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Scan models of a fleet again that could not be scanned, and those that were not reached.

    They are scanned as the manifest and the command said then; the limits may be others.

    Exit codes: as of `scan`.
    """
    where = _engine(engine, address, gpus, jobs)
    ending = _Ending(baseline, fail_on, exit_zero, quiet)
    with failing_cleanly(debug), Store(results, made=True) as store:
        verdicts = (FAILED,) if failed else (FAILED, "")
        places = [row.place for row in store.rows() if row.verdict in verdicts]
        asked = tuple(_within(one, timeout, max_memory) for one in store.asked(places))
        code = _run(store, asked, where, True, ending)
    raise typer.Exit(code)


@dataclass(frozen=True)
class _Ending:
    """How a run ends, and what it tells until then."""

    baseline: Path | None
    fail_on: Severity
    exit_zero: bool
    quiet: bool


def _run(store: Store, asked: Sequence[Asked], engine: Engine, again: bool, ending: _Ending) -> int:
    """Scan models, show what came of all, and return the exit code."""
    accepted_entries(ending.baseline)  # what is wrong with it is told before the work
    with (
        stoppable(isinstance(engine, RayEngine)) as stopping,
        ProgressBar(ending.quiet) as progress,
    ):
        run = scan_fleet(asked, store, engine, again, progress, stopping, progress.within)
    results = read_results(store, ending.baseline)
    deliver(overview(results.rows, run), None)
    codes = [*exit_codes(results, ending.fail_on), *[INCONCLUSIVE] * (run.waiting > 0)]
    return worst(map(without_verdict, codes) if ending.exit_zero else codes)


def _within(asked: Asked, seconds: float | None, mebibytes: int | None) -> Asked:
    """Return the same with other limits; a scan without a child has none."""
    limits = asked.request.limits
    if limits is None:
        return asked
    limits = Limits(
        limits.memory if mebibytes is None else mebibytes * MEBIBYTE,
        limits.seconds if seconds is None else seconds,
    )
    return replace(asked, request=replace(asked.request, limits=limits))


def _engine(name: EngineName, address: str | None, gpus: float, jobs: int | None) -> Engine:
    if name == "ray":
        return RayEngine(address, jobs, gpus)
    for given, flag in ((address is not None, "--address"), (gpus > 0, "--gpus")):
        if given:
            raise typer.BadParameter("is for --engine ray", param_hint=flag)
    return LocalEngine(jobs or 1)


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
    # It reads runtimes and SciPy, which the other commands of fleets need not wait for.
    from onnx_soda._fleet.consensus import compare_fleet

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


for _name, _command in (
    ("status", status_command),
    ("show", show_command),
    ("export", export_command),
    ("merge", merge_command),
):
    fleet_app.command(_name)(_command)
