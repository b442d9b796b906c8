"""`onnx-soda rules`, `explain`, `baseline`, `cache` and `doctor`."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import onnx_soda
from onnx_soda._baseline import Baseline, Entry, apply_baseline, entries_of, merged, read_baseline
from onnx_soda._batch import Ended
from onnx_soda._cache import Cache, usual_folder
from onnx_soda._detect.base import all_rules
from onnx_soda._report.json import to_json
from onnx_soda._report.tables import fact_table
from onnx_soda._results import ScanReport
from onnx_soda._rules import Rule, technique_labels
from onnx_soda._system import check_writable, install_hint, write_text
from onnx_soda._words import printable

from .options import CacheDirOption, Debug, FormatOption, Output
from .output import CLEAN, COULD_NOT_SCAN, complain, deliver, failing_cleanly
from .reports import form_for


def baseline_command(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT", help="JSON reports.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The baseline to write, or to add to."),
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why the findings are accepted.")],
    expires: Annotated[
        datetime,
        typer.Option("--expires", formats=["%Y-%m-%d"], help="The last day on which they are."),
    ],
    debug: Debug = False,
) -> None:
    """Accept the findings of reports, until a day.

    They are accepted for these very models alone. A baseline that is there already keeps its
    entries; a finding that is accepted anew gets the new reason and day.

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
        kept = read_baseline(output).accepted if output.is_file() else ()
        baseline = Baseline(1, merged(kept, entries))
        write_text(output, _text(baseline))
        before = f", {len(kept)} of them before" if kept else ""
        told = f"{len(baseline.accepted)} findings accepted{before}"
        deliver(f"{printable(output.name)}: {told}\n", None)


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


def cache_command(
    clear: Annotated[bool, typer.Option("--clear", help="Forget all of it.")] = False,
    cache_dir: CacheDirOption = None,
    debug: Debug = False,
) -> None:
    """Show what is remembered: scans, and reference models."""
    with failing_cleanly(debug):
        cache = Cache(cache_dir or usual_folder())
        if clear:
            cache.clear()
        held = cache.size()
        told = f"{held.scans} scans, {held.references} references, {held.size / 2**10:,.0f} KiB"
        deliver(f"{printable(held.folder)}: {told}\n", None)


if TYPE_CHECKING:
    from onnx_soda._doctor import Diagnosis, PartState, SelfTest


def doctor_command(format_: FormatOption = None, output: Output = None) -> None:
    """Show what this installation can do.

    Told are versions, providers, converters and the sandbox. A small scan is run.

    Exit codes: 0 the small scan passed, 2 it did not.
    """
    # It imports ONNX Runtime, for which other commands need not wait.
    from onnx_soda._doctor import diagnose

    with failing_cleanly(debug=False):
        if output is not None:
            check_writable(output)
        found = diagnose()
        if form_for(format_, output) == "json":
            deliver(to_json(found), output)
        else:
            deliver(fact_table(list(_rows(found))), output)
    raise typer.Exit(CLEAN if found.self_test.passed else COULD_NOT_SCAN)


def _rows(found: Diagnosis) -> Iterator[tuple[str, str]]:
    yield "python", f"{found.python} on {found.system}"
    yield "packages", ", ".join(f"{name} {number}" for name, number in found.versions.items())
    yield "providers", f"{', '.join(found.providers)}; CUDA devices: {found.cuda_devices}"
    yield "ceilings", f"opset {found.newest_opset}, IR version {found.newest_ir_version}"
    yield from _parts("extra", found.extras)
    yield from _parts("converter", found.converters)
    yield from _test(found.self_test)


def _parts(kind: str, parts: Sequence[PartState]) -> Iterator[tuple[str, str]]:
    for part in parts:
        if part.missing:
            needs = f"needs {', '.join(part.missing)}. {install_hint(part.extra)}"
            yield kind, f"{part.name}: {needs}"
        else:
            yield kind, f"{part.name}: usable"


def _test(test: SelfTest) -> Iterator[tuple[str, str]]:
    if test.sandbox is None:
        yield "self-test", f"FAILED: {test.problem}"
        return
    held = test.sandbox
    layers = [
        ("files (Landlock)", held.files),
        ("network and programs (seccomp)", held.network),
    ]
    yield "sandbox", "; ".join(f"{name}: {'held' if on else 'NOT held'}" for name, on in layers)
    for gap in held.gaps:
        yield "gap", gap
    yield "self-test", f"passed in {test.seconds:.1f} s"


def rules_command(format_: FormatOption = None, output: Output = None) -> None:
    """List all rules that findings refer to."""
    with failing_cleanly(debug=False):
        rules = all_rules().values()
        if form_for(format_, output) == "json":
            deliver(json.dumps([asdict(rule) for rule in rules], indent=2) + "\n", output)
        else:
            deliver(_listing(rules), output)
    raise typer.Exit(CLEAN)


def explain_command(
    asked: Annotated[
        str,
        typer.Argument(
            metavar="RULE|PAGE",
            help="Id or name of a rule; or a page of the documentation, as `detection`.",
            show_default=False,
        ),
    ],
    output: Output = None,
) -> None:
    """Say what a finding means, how sure it is, and what to do; or show a page.

    Exit codes: 0 explained, 2 there is no such rule or page.
    """
    with failing_cleanly(debug=False):
        rules, pages = all_rules(), _pages()
        rule, page = _find(asked, rules), pages.get(Path(asked.strip()).stem.lower())
        if rule is not None:
            deliver(_explanation(rule), output)
        elif page is not None:
            deliver(page.read_text(encoding="utf-8"), output)
        else:
            complain(
                f"there is no rule and no page {printable(asked)!r}",
                _suggestion(asked, rules, list(pages)),
            )
            raise typer.Exit(COULD_NOT_SCAN)
    raise typer.Exit(CLEAN)


def _pages() -> dict[str, Path]:
    """Return the pages of the documentation by name: in the package, or beside it in a checkout."""
    package = Path(onnx_soda.__file__).parent
    inside = package / "_docs"
    folder = inside if inside.is_dir() else package.parent / "docs"
    return {page.stem: page for page in sorted(folder.glob("*.md"))}


def _find(asked: str, rules: Mapping[str, Rule]) -> Rule | None:
    asked = asked.strip()
    by_name = {rule.name: rule for rule in rules.values()}
    return rules.get(asked.upper()) or by_name.get(asked.lower())


def _suggestion(asked: str, rules: Mapping[str, Rule], pages: list[str]) -> str:
    names = [*rules, *(rule.name for rule in rules.values()), *pages]
    near = difflib.get_close_matches(asked, names, n=1)
    meant = f"Did you mean {near[0]}? " if near else ""
    return f"{meant}`onnx-soda rules` lists all rules; the pages are {', '.join(pages)}."


def _listing(rules: Iterable[Rule]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("id", "severity", "name", "what it is"):
        table.add_column(heading, overflow="fold", no_wrap=heading != "what it is")
    for rule in rules:
        table.add_row(rule.id, rule.severity, rule.name, rule.title)
    return table


def _explanation(rule: Rule) -> RenderableType:
    parts: list[RenderableType] = [
        Text(f"{rule.id} {rule.name}", style="bold"),
        Text(rule.title),
        Text(),
        fact_table(
            [
                ("usual severity", rule.severity),
                *(("MITRE ATLAS", label) for label in technique_labels(rule)),
            ]
        ),
    ]
    for heading, text in (
        ("What it says", rule.meaning),
        ("How sure it is", rule.certainty),
        ("What to do", rule.advice),
    ):
        parts += [Text(), Text(heading, style="bold"), Padding(Text(text), (0, 0, 0, 2))]
    return Group(*parts)
