"""All results of a fleet in one file, for other programs and for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from onnx_soda._errors import OptionError, OutputError
from onnx_soda._fleet.store import Row, Store
from onnx_soda._report.formats import FORMATS, Context, Scanned, form_of_ending
from onnx_soda._results import Outcome, ScanReport
from onnx_soda._system import check_writable, require_modules, write_text

_REPORTS = ("json", "sarif", "markdown", "junit")
NOT_SCANNED = "not scanned"
"""Stands in for the verdict of a model that no scan has reached."""
FORMS = ("jsonl", "parquet", "html", *_REPORTS)
"""Forms of all results."""


def form_of(file: Path) -> str:
    """Return the form that the ending of a file tells; JSON lines where it tells none."""
    name = form_of_ending(file)
    return name if name in FORMS else "jsonl"


@dataclass(frozen=True)
class Results:
    """All results of a fleet, with what is accepted marked.

    Attributes:
        store: Where they are kept.
        rows: A row for each model, the worst first.
        marked: By key the reports that have accepted findings.
    """

    store: Store
    rows: tuple[Row, ...]
    marked: Mapping[str, ScanReport] = field(default_factory=dict)

    def of(self, model: str) -> tuple[Row, Outcome] | None:
        """Return what a model came to, told by its place or name; None where there is nothing."""
        rows = [row for row in self.rows if model in (row.place, Path(row.place).name)]
        return next(replace(self, rows=tuple(rows[:1])).outcomes(), None)

    def outcomes(self) -> Iterator[tuple[Row, Outcome]]:
        """Yield what each model came to, one at a time: all of them may not fit into memory."""
        for row in self.rows:
            outcome = self.marked.get(row.key) or self.store.outcome(row.key)
            if outcome is not None:
                yield row, outcome


def export(results: Results, form: str, output: Path) -> None:
    """Write all results into one file.

    Args:
        results: The results.
        form: "jsonl": a line for each model, with its report; "parquet": a row for each, without;
            "html": a page of them; or a report form that shows many models.
        output: The file.

    Raises:
        OptionError: The form is unknown.
        OutputError: The file cannot be written.
        MissingExtraError: Parquet needs pyarrow, HTML jinja2 and matplotlib.
    """
    writers: Mapping[str, Callable[[Results, Path], None]] = {
        "jsonl": _write_lines,
        "parquet": _write_parquet,
        "html": _write_page,
        **{name: _report_writer(name) for name in _REPORTS},
    }
    if form not in writers:
        raise OptionError(f"the form {form!r} is none of {', '.join(writers)}")
    check_writable(output)
    writers[form](results, output)


def _write_lines(results: Results, output: Path) -> None:
    write_text(output, _lines(results))


def _lines(results: Results) -> Iterator[str]:
    """Yield a line for each model; the JSON of most reports is taken as it was kept."""
    for row in results.rows:
        marked, kept = results.marked.get(row.key), results.store.outcome_as_json(row.key)
        if kept is None:
            continue
        text = kept[1] if marked is None else json.dumps(asdict(marked))
        yield f'{json.dumps(asdict(row))[:-1]}, "outcome": {text}}}\n'


def _write_parquet(results: Results, output: Path) -> None:
    require_modules("Parquet files need", ("pyarrow",), "parquet")
    import pyarrow
    from pyarrow import parquet

    rows = results.rows
    columns = {one.name: [getattr(row, one.name) for row in rows] for one in fields(Row)}
    try:
        parquet.write_table(pyarrow.table(columns), output)
    except OSError as error:
        raise OutputError(
            f"{output.name} cannot be written: {error}", "Check its place."
        ) from error


def counts_of(rows: Iterable[Row]) -> Counter[str]:
    """Return how many models there are of each verdict, in the order of the rows."""
    return Counter(row.verdict or NOT_SCANNED for row in rows)


def _write_page(results: Results, output: Path) -> None:
    FORMATS.load("html").require()
    from onnx_soda._report.page import fleet_to_html

    tasks: dict[str, list[Row]] = {}
    for row in results.rows:
        tasks.setdefault(row.task, []).append(row)
    by_task = {task: counts_of(rows) for task, rows in sorted(tasks.items())}
    folder = str(results.store.file.parent)
    write_text(output, fleet_to_html(results.rows, counts_of(results.rows), by_task, folder))


def _report_writer(name: str) -> Callable[[Results, Path], None]:
    def write(results: Results, output: Path) -> None:
        scanned = [
            Scanned(outcome, row.place, row.place, row.seconds)
            for row, outcome in results.outcomes()
        ]
        text = FORMATS.load(name)().render(scanned, Context(single=False))
        write_text(output, str(text))

    return write
