"""All results of a fleet in one file, for other programs and for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path

from onnx_soda._errors import OptionError, OutputError
from onnx_soda._fleet.store import Row, Store
from onnx_soda._report.formats import FORMATS, Context, Scanned
from onnx_soda._report.json import to_json
from onnx_soda._results import Outcome
from onnx_soda._system import check_writable, require_modules, write_text

_REPORTS = ("json", "sarif", "markdown", "junit")


def export(store: Store, form: str, output: Path) -> None:
    """Write all results into one file.

    Args:
        store: The results.
        form: "jsonl": a line for each model, with its report; "parquet": a row for each, without;
            or a report form that shows many models.
        output: The file.

    Raises:
        OptionError: The form is unknown.
        OutputError: The file cannot be written.
        MissingExtraError: Parquet needs pyarrow.
    """
    writers: Mapping[str, Callable[[Store, Path], None]] = {
        "jsonl": _write_lines,
        "parquet": _write_parquet,
        **{name: _report_writer(name) for name in _REPORTS},
    }
    if form not in writers:
        raise OptionError(f"the form {form!r} is none of {', '.join(writers)}")
    check_writable(output)
    writers[form](store, output)


def _outcomes(store: Store) -> Iterator[tuple[Row, Outcome]]:
    for row in store.rows():
        outcome = store.outcome(row.key)
        if outcome is not None:
            yield row, outcome


def _write_lines(store: Store, output: Path) -> None:
    lines = (
        json.dumps({**asdict(row), "outcome": json.loads(to_json(outcome))})
        for row, outcome in _outcomes(store)
    )
    write_text(output, "".join(f"{line}\n" for line in lines))


def _write_parquet(store: Store, output: Path) -> None:
    require_modules("Parquet files need", ("pyarrow",), "parquet")
    import pyarrow
    from pyarrow import parquet

    rows = store.rows()
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Row)}
    try:
        parquet.write_table(pyarrow.table(columns), output)
    except OSError as error:
        raise OutputError(
            f"{output.name} cannot be written: {error}", "Check its place."
        ) from error


def _report_writer(name: str) -> Callable[[Store, Path], None]:
    def write(store: Store, output: Path) -> None:
        scanned = [
            Scanned(outcome, row.place, row.place, row.seconds) for row, outcome in _outcomes(store)
        ]
        text = FORMATS.load(name)().render(scanned, Context(single=False))
        write_text(output, str(text))

    return write
