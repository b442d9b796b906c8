"""Compares two states of the search, by what `python -m benchmarks.evaluate` kept of each.

    python -m benchmarks.race BEFORE AFTER

BEFORE and AFTER are folders in benchmarks/results/evaluation; models that are in both are compared.
The kept scans of "sweep" are from before the search raced (commit 9845304), those of "default" from
after. Prints Markdown.
"""

from __future__ import annotations

import argparse

from benchmarks.calibrate import Scanned, read_scans
from benchmarks.common import machine_facts, markdown_table
from onnx_soda._detect.concepts.judge import load_calibration

_COLUMNS = (
    "model", "true pair", "first before", "bound", "first after", "bound", "passes after",
)  # fmt: skip


def _name(model: Scanned) -> str:
    return f"{model.facts['part']}: {model.facts['model']}"


def _pair(pair: dict[str, object] | None) -> str:
    return (
        "-" if pair is None or pair["victim"] is None else f"{pair['victim']} -> {pair['target']}"
    )


def _row(before: Scanned, after: Scanned) -> list[object]:
    return [
        _name(before),
        _pair(before.facts),
        _pair(before.first),
        f"{before.score:+.3f}",
        _pair(after.first),
        f"{after.score:+.3f}",
        after.facts["passes"],
    ]


def _totals(models: list[Scanned], threshold: float) -> list[object]:
    clean = [model for model in models if model.clean]
    bad = [model for model in models if not model.clean]
    over = [model for model in bad if model.score > threshold]
    return [
        len(bad),
        sum(model.names_pair for model in over),
        sum(not model.names_pair for model in over),
        len(clean),
        sum(model.score > threshold for model in clean),
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before")
    parser.add_argument("after")
    arguments = parser.parse_args()
    before = {_name(model): model for model in read_scans(arguments.before)}
    after = {_name(model): model for model in read_scans(arguments.after)}
    both = sorted(before.keys() & after.keys())
    threshold = load_calibration().threshold
    print(f"# {arguments.before} and {arguments.after}\n\n{machine_facts()}\n")
    columns = ("", "backdoored", "true pair reported", "wrong pair reported", "clean", "flagged")
    states = ((arguments.before, before), (arguments.after, after))
    totals = [[name, *_totals([kept[one] for one in both], threshold)] for name, kept in states]
    print(
        f"With the threshold of the package, {threshold:g}:\n\n{markdown_table(columns, totals)}\n"
    )
    print(markdown_table(_COLUMNS, [_row(before[one], after[one]) for one in both]))


if __name__ == "__main__":
    main()
