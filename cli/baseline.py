"""`onnx-soda baseline`, and what `scan --baseline` does with one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from onnx_soda.baseline import Baseline, Entry, apply_baseline, entries_of, read_baseline
from onnx_soda.batch.run import Ended
from onnx_soda.report.jsonfile import check_writable, write_text
from onnx_soda.report.plain import printable
from onnx_soda.report.schema import ScanReport

from .arguments import Debug
from .failures import failing_cleanly
from .output import deliver

__all__ = ["accepted_entries", "baseline_command", "with_accepted"]


def baseline_command(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT", help="JSON reports.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The baseline to write.")
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why the findings are accepted.")],
    expires: Annotated[
        datetime,
        typer.Option("--expires", formats=["%Y-%m-%d"], help="The last day on which they are."),
    ],
    debug: Debug = False,
) -> None:
    """Accept the findings of reports, for these very models and until a day.

    `onnx-soda scan --baseline FILE` then marks them, and they do not count for its exit code.

    Exit codes: 0 written, 2 could not read or write, or wrong usage.
    """
    if not reason.strip():
        raise typer.BadParameter("say why the findings are accepted", param_hint="--reason")
    if expires.date() < datetime.now(UTC).date():
        raise typer.BadParameter("that day is over", param_hint="--expires")
    with failing_cleanly(debug):
        check_writable(output, *reports)
        entries = [entry for path in reports for entry in entries_of(path, reason, expires.date())]
        baseline = Baseline(1, tuple(dict.fromkeys(entries)))
        write_text(output, _text(baseline))
        deliver(f"{printable(output.name)}: {len(baseline.accepted)} findings accepted\n", None)


def _text(baseline: Baseline) -> str:
    """Return a baseline as JSON, in a form that people can read and review."""
    return msgspec.json.format(msgspec.json.encode(baseline), indent=2).decode() + "\n"


def accepted_entries(path: Path | None) -> tuple[Entry, ...]:
    """Return the entries of a baseline; none without one."""
    return () if path is None else read_baseline(path).accepted


def with_accepted(ended: Sequence[Ended], entries: Sequence[Entry]) -> list[Ended]:
    """Mark accepted findings; tell on stderr which entries are over, and which match nothing."""
    reports = [one.outcome for one in ended if isinstance(one.outcome, ScanReport)]
    applied = apply_baseline(reports, entries, datetime.now(UTC).date())
    for what, group in (("is over", applied.expired), ("matches nothing", applied.unused)):
        for entry in group:
            line = f"{entry.rule_id} of {entry.sha256[:12]} ({entry.expires}: {entry.reason})"
            print(f"onnx-soda: baseline entry {what}: {printable(line)}", file=sys.stderr)
    marked = iter(applied.reports)
    return [
        replace(one, outcome=next(marked)) if isinstance(one.outcome, ScanReport) else one
        for one in ended
    ]
