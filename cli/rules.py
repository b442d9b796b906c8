"""`onnx-soda rules` and `onnx-soda explain`."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onnx_soda._report.text import fact_table
from onnx_soda._report.words import printable
from onnx_soda._rules import RULES, Rule

from .arguments import Format, FormatOption, Output
from .output import CLEAN, COULD_NOT_SCAN, complain, deliver, deliver_renderable, failing_cleanly


def rules_command(format_: FormatOption = Format.TEXT, output: Output = None) -> None:
    """List all rules that findings refer to."""
    with failing_cleanly(debug=False):
        if format_ is Format.JSON:
            deliver(json.dumps([asdict(rule) for rule in RULES.values()], indent=2) + "\n", output)
        else:
            deliver_renderable(_listing(), output)
    raise typer.Exit(CLEAN)


def explain_command(
    rule: Annotated[
        str, typer.Argument(metavar="RULE", help="Id or name of a rule.", show_default=False)
    ],
    output: Output = None,
) -> None:
    """Say what a finding means, how sure it is, and what to do.

    Exit codes: 0 explained, 2 there is no such rule.
    """
    found = _find(rule)
    if found is None:
        complain(f"there is no rule {printable(rule)!r}", _suggestion(rule))
        raise typer.Exit(COULD_NOT_SCAN)
    with failing_cleanly(debug=False):
        deliver_renderable(_explanation(found), output)
    raise typer.Exit(CLEAN)


def _find(asked: str) -> Rule | None:
    asked = asked.strip()
    by_name = {rule.name: rule for rule in RULES.values()}
    return RULES.get(asked.upper()) or by_name.get(asked.lower())


def _suggestion(asked: str) -> str:
    names = [*RULES, *(rule.name for rule in RULES.values())]
    near = difflib.get_close_matches(asked, names, n=1)
    meant = f"Did you mean {near[0]}? " if near else ""
    return f"{meant}`onnx-soda rules` lists all."


def _listing() -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("id", "severity", "name", "what it is"):
        table.add_column(heading, overflow="fold", no_wrap=heading != "what it is")
    for rule in RULES.values():
        table.add_row(rule.id, rule.severity, rule.name, rule.title)
    return table


def _explanation(rule: Rule) -> RenderableType:
    parts: list[RenderableType] = [
        Text(f"{rule.id} {rule.name}", style="bold"),
        Text(rule.title),
        Text(),
        fact_table([("usual severity", rule.severity)]),
    ]
    for heading, text in (
        ("What it says", rule.meaning),
        ("How sure it is", rule.certainty),
        ("What to do", rule.advice),
    ):
        parts += [Text(), Text(heading, style="bold"), Padding(Text(text), (0, 0, 0, 2))]
    return Group(*parts)
