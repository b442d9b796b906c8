"""Fills the tables of docs/comparison.md from what is kept; measures nothing.

    python -m benchmarks.comparison_page [--print]

`benchmarks.comparison` keeps what detectors say, `benchmarks.repair` what removers come to,
`benchmarks.controls --repair` what removers make of patch controls, and `benchmarks.prescreening`
what K-ARM's pre-screening does there. A table of the page stands between "<!-- table NAME -->" and
"<!-- end -->"; all else is written by hand. --print prints the tables in place of writing them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import PARTS, Case, cases_of
from benchmarks.common import (
    COMPARISON,
    PRESCREENING,
    REPAIR,
    REPAIRED_CONTROLS,
    all_kept,
    markdown_table,
)
from benchmarks.comparison import (
    DEFAULT,
    RIVALS,
    Told,
    alike_row,
    counts,
    default_of,
    halves,
    told_of,
)
from benchmarks.controls import REPAIRED_COLUMNS, repaired_row
from benchmarks.paper_tables import OWN_WAYS, PARAMETERS, removal_cells, removed
from benchmarks.prescreening import COLUMNS as PRESCREENED
from benchmarks.prescreening import row as prescreened_row
from onnx_soda._repair.base import REMOVERS

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "comparison.md"
_TABLE = re.compile(r"(<!-- table (?P<name>[\w-]+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
_BUNDLED = "digits-backdoored"

Row = list[object]
Facts = dict[str, Any]


@cache
def _models() -> tuple[tuple[str, Case], ...]:
    """Return the models with the paper's triggers that took, and the clean ones."""
    every = [(part, case) for part in PARTS for case in cases_of(part)]
    return tuple((part, case) for part, case in every if case.effective is not False)


# --- Detectors


def _asked() -> Iterator[tuple[str, str, list[Told], list[Told]]]:
    """Yield a method, its parameters, what it said, and what the default says of these models."""
    for name in RIVALS:
        for parameters in PARAMETERS:
            pairs = [
                (told, default_of(case, part))
                for part, case in _models()
                if (told := told_of(case, part, name, parameters)) is not None
            ]
            if pairs:
                ours = [default for _, default in pairs if default is not None]
                yield name, parameters, [told for told, _ in pairs], ours


def _flagged(told: Sequence[Told]) -> list[object]:
    return counts(*halves(told), lambda one: one.flags)


def _detectors() -> str:
    rows: list[Row] = []
    for name, parameters, told, ours in _asked():
        _, pair, _, _, _, flagged = _flagged(ours)
        passes, seconds = (median(one.facts[key] for one in told) for key in ("passes", "seconds"))
        shown = (f"{passes:,.0f}", f"{seconds:.0f}")
        rows.append([name, parameters, *_flagged(told), pair, flagged, *shown])
    columns = (
        "detector", "parameters", "backdoored", "pair named", "target named", "wrong", "clean",
        "clean flagged", "default on these: pair named", "clean flagged", "median passes",
        "median seconds",
    )  # fmt: skip
    return markdown_table(columns, rows)


def _alike() -> str:
    ours = [one for part, case in _models() if (one := default_of(case, part)) is not None]
    rows: list[Row] = [[DEFAULT, "this project's", *alike_row(ours)]]
    rows += [[name, parameters, *alike_row(told)] for name, parameters, told, _ in _asked()]
    columns = (
        "detector", "parameters", "backdoored", "pair named", "target named", "wrong", "clean",
        "clean flagged", "true pair first", "true target first",
    )  # fmt: skip
    return markdown_table(columns, rows)


def _by_data_set() -> str:
    """Return for each detector and remover what it came to on the models of each data set."""
    sets = list(dict.fromkeys(case.dataset for _, case in _models()))
    rows: list[Row] = [
        [name, *(_detected(name, one) for one in sets)] for name in (DEFAULT, *RIVALS)
    ]
    for name in REMOVERS.names:
        way = OWN_WAYS[0] if name == "soda" else f"{name}-{PARAMETERS[0]}"
        rows.append([name, *(_removed_of(way, one) for one in sets)])
    return markdown_table(("system", *sets), rows)


def _detected(name: str, dataset: str) -> str:
    told = [
        default_of(case, part) if name == DEFAULT else told_of(case, part, name, PARAMETERS[0])
        for part, case in _models()
        if case.dataset == dataset
    ]
    backdoored, clean = halves([one for one in told if one is not None])
    right = sum(one.flags and one.names_target for one in backdoored)
    flagged = sum(one.flags for one in clean)
    return f"{right} of {len(backdoored)}; {flagged} of {len(clean)}"


def _removed_of(way: str, dataset: str) -> str:
    repairs = _repairs(way, dataset)
    return f"{removed(repairs)} of {len(repairs)}" if repairs else "-"


# --- Removers


def _repairs(way: str, dataset: str | None = None) -> list[Facts]:
    """Return what is kept of a way to repair, of the models of one data set or of all."""
    chosen = {
        case.model.stem for _, case in _models() if dataset is None or case.dataset == dataset
    }
    return [one for one in all_kept(REPAIR / way) if one["model"] in chosen]


def _removers() -> str:
    rows = [
        [name, parameters, *_summary(repairs, name == "soda")]
        for name, parameters, way in _ways()
        if (repairs := [one for one in _repairs(way) if one["model"] != _BUNDLED])
    ]
    columns = (
        "method", "parameters", "tried", "written", "removed", "mean change of SR",
        "median change of accuracy", "median seconds", "soda alone removes of these",
    )  # fmt: skip
    return markdown_table(columns, rows)


def _ways() -> Iterator[tuple[str, str, str]]:
    """Yield removers, with whose parameters, and where what they came to is kept."""
    for what, way in zip(("alone", "with references"), OWN_WAYS, strict=True):
        yield "soda", what, way
    for name in REMOVERS.names:
        for parameters in PARAMETERS if name != "soda" else ():
            yield name, parameters, f"{name}-{parameters}"


def _summary(repairs: Sequence[Facts], own: bool) -> Row:
    models = {one["model"] for one in repairs}
    ours = [one for one in _repairs(OWN_WAYS[0]) if one["model"] in models]
    return [
        *removal_cells(repairs),
        f"{median(one['seconds'] for one in repairs):.0f}",
        "" if own else f"{removed(ours)} of {len(ours)}",
    ]


def _bundled() -> str:
    rows: list[Row] = []
    for name, parameters, way in _ways():
        found = [one for one in all_kept(REPAIR / way) if one["model"] == _BUNDLED]
        rows += [[name, parameters, *_bundled_cells(one)] for one in found]
    columns = ("method", "parameters", "accuracy before", "after", "SR before", "after", "back")
    return markdown_table(columns, rows)


def _bundled_cells(one: Facts) -> list[str]:
    if "accuracy" not in one:
        return [one["outcome"], *[""] * 4]
    numbers = (*one["accuracy"], *one["success_rate"], one["victim_rate"][1])
    return [*(f"{number:.3f}" for number in numbers[:2]), *(f"{it:.2f}" for it in numbers[2:])]


# --- Patch controls


def _controls() -> str:
    """Return what detectors say of models with a stamped patch."""
    kept = [one for one in all_kept(COMPARISON) if one["part"].startswith("controls")]
    names = [name for name in RIVALS if any(one["method"] == name for one in kept)]
    models = dict.fromkeys((one["part"], one["model"]) for one in kept)
    rows: list[Row] = []
    for model in models:
        told = {one["method"]: one for one in kept if (one["part"], one["model"]) == model}
        rows.append([model[1], *(_said(told.get(name)) for name in names)])
    return markdown_table(("control", *names), rows)


def _said(facts: Facts | None) -> str:
    if facts is None:
        return "-"
    told = Told(facts)
    if not told.flags:
        return str(facts["outcome"])
    return "target" if told.names_target else "another class" if not told.clean else "flagged"


def _repaired_controls() -> str:
    return markdown_table(REPAIRED_COLUMNS, map(repaired_row, all_kept(REPAIRED_CONTROLS)))


def _prescreening() -> str:
    return markdown_table(PRESCREENED, map(prescreened_row, all_kept(PRESCREENING)))


_TABLES: Mapping[str, Callable[[], str]] = {
    "detectors": _detectors,
    "alike": _alike,
    "data-sets": _by_data_set,
    "removers": _removers,
    "bundled": _bundled,
    "controls": _controls,
    "repaired-controls": _repaired_controls,
    "prescreening": _prescreening,
}


def filled(page: str) -> str:
    """Return a page with its tables made anew.

    Raises:
        KeyError: The page has a table of another name.
    """
    return _TABLE.sub(lambda found: f"{found[1]}\n{_TABLES[found['name']]()}\n\n", page)


def main() -> None:
    """Write the page, or print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--print", action="store_true")
    if parser.parse_args().print:
        print("\n\n".join(f"{name}:\n\n{make()}" for name, make in _TABLES.items()))
        return
    _PAGE.write_text(filled(_PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
