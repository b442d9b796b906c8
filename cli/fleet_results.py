"""The results of a fleet: `onnx-soda fleet status`, `show`, `export` and `merge`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnx_soda._batch import Ended
from onnx_soda._errors import FleetError
from onnx_soda._fleet.export import FORMS, NOT_SCANNED, Results, counts_of, export, form_of
from onnx_soda._fleet.run import FleetRun
from onnx_soda._fleet.store import FAILED, Row, Store
from onnx_soda._report.formats import FORMATS, Context, Scanned
from onnx_soda._results import ScanReport
from onnx_soda._rules import Severity
from onnx_soda._words import printable

from .options import BaselineOption, Output, PlainFormat
from .output import COULD_NOT_SCAN, deliver, failing_cleanly, of_report, of_worst
from .upkeep import accepted_entries, with_accepted

_STYLES = {"backdoor": "bold red", "unsafe": "bold red", FAILED: "bold magenta", "clean": "green"}
# Models in a table for people; the others are counted.
_MOST_SHOWN = 100

ResultsArgument = Annotated[
    Path, typer.Argument(metavar="RESULTS", help="The folder of the results.")
]
PlainOption = Annotated[PlainFormat, typer.Option("--format", "-f", help="Form of the answer.")]


def read_results(store: Store, baseline: Path | None) -> Results:
    """Return all results, with what a baseline accepts marked; few reports are read for it."""
    rows, entries = store.rows(), accepted_entries(baseline)
    if not entries:
        return Results(store, tuple(rows))
    meant = {entry.sha256 for entry in entries if entry.sha256}
    covered = {row.key: store.outcome(row.key) for row in rows if row.sha256 in meant}
    found = {key: one for key, one in covered.items() if isinstance(one, ScanReport)}
    ended = with_accepted([Ended(Path(), one, 0, False) for one in found.values()], entries)
    marked = dict(zip(found, _reports(ended), strict=True))
    judged = (row.judged(marked[row.key]) if row.key in marked else row for row in rows)
    return Results(store, tuple(judged), marked)


def _reports(ended: Sequence[Ended]) -> Iterator[ScanReport]:
    """Yield the reports of scans that came to one."""
    for one in ended:
        if isinstance(one.outcome, ScanReport):
            yield one.outcome


def exit_codes(results: Results, fail_on: Severity) -> Iterator[int]:
    """Yield the exit code of each model that was scanned, or could not be."""
    for row in results.rows:
        if row.verdict == FAILED:
            yield COULD_NOT_SCAN
        elif row.key in results.marked:
            yield of_report(results.marked[row.key], fail_on)
        elif row.verdict:
            yield of_worst(row.verdict, row.severity, fail_on)


def status_command(
    results: ResultsArgument,
    baseline: BaselineOption = None,
    format_: PlainOption = "text",
    output: Output = None,
) -> None:
    """Tell how many models were scanned, and what came of it.

    Exit codes: 0 told, 2 there are no results.
    """
    with failing_cleanly(debug=False), Store(results, made=True) as store:
        rows = read_results(store, baseline).rows
        if format_ == "json":
            told = {
                "models": len(rows),
                "verdicts": counts_of(rows),
                "rows": list(map(asdict, rows)),
            }
            deliver(json.dumps(told, indent=2) + "\n", output)
        else:
            deliver(overview(rows), output)


def show_command(
    results: ResultsArgument,
    model: Annotated[str, typer.Argument(help="Path or name of the model, as in the manifest.")],
    baseline: BaselineOption = None,
    format_: Annotated[
        str, typer.Option("--format", "-f", metavar=f"<{'|'.join(FORMATS.names)}>")
    ] = "text",
    output: Output = None,
) -> None:
    """Show the report of one model, in any form.

    Exit codes: 0 shown, 2 there is none.
    """
    with failing_cleanly(debug=False), Store(results, made=True) as store:
        found = read_results(store, baseline).of(model)
        if found is None:
            raise FleetError(
                f"there is no result of {model}", "`onnx-soda fleet status` lists them."
            )
        row, outcome = found
        single = isinstance(outcome, ScanReport)
        scanned = [Scanned(outcome, row.place, row.place, row.seconds)]
        form = FORMATS.load(format_)()
        form.require()
        deliver(form.render(scanned, Context(single)), output)


def export_command(
    results: ResultsArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    baseline: BaselineOption = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar=f"<{'|'.join(FORMS)}>",
            help="Its form; if not given, the ending of the file tells.  [default: jsonl]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write all results into one file: a line or row for each model, a page, or a report of all.

    Exit codes: 0 written, 2 it cannot be.
    """
    with failing_cleanly(debug=False), Store(results, made=True) as store:
        export(read_results(store, baseline), format_ or form_of(output), output)


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


def overview(rows: Sequence[Row], run: FleetRun | None = None) -> RenderableType:
    """Return a row for each model, the worst first, and how many there are of each verdict."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("model", "verdict", "finding", "pair", "seconds"):
        table.add_column(name, overflow="fold", justify="right" if name == "seconds" else "left")
    for row in rows[:_MOST_SHOWN]:
        table.add_row(
            Text(printable(row.place)),
            Text(row.verdict or NOT_SCANNED, _STYLES.get(row.verdict, "")),
            Text(printable(row.rule)),
            Text(printable(row.pair)),
            f"{row.seconds:.1f}" if row.verdict else "",
        )
    counts = ", ".join(f"{count} {verdict}" for verdict, count in counts_of(rows).items())
    more = len(rows) - _MOST_SHOWN
    told = [f"{more:,} more are not shown: `onnx-soda fleet export` has all."] if more > 0 else []
    told.append(f"{len(rows):,} model{'s' * (len(rows) != 1)}: {counts}.{_of_run(run)}")
    return Group(table, *map(Text, told))


def _of_run(run: FleetRun | None) -> str:
    if run is None:
        return ""
    waiting = f" {run.waiting} are left." if run.waiting else ""
    return f" Scanned now: {run.scanned}; known before: {run.known}.{waiting}"
