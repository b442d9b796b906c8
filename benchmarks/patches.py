"""Measures the search for patches: what a patch scores with and without a planted one.

    python -m benchmarks.patches [--part NAME ...] [--threads N] [--print] [--write] [WORD ...]

Parts: those of `benchmarks.evaluate`, "population", and "controls-1" and "controls-2", which
`python -m benchmarks.controls` trains. One JSON file per model goes to benchmarks/results/patches;
what is there is not done again. Prints Markdown. Models with a semantic backdoor have no patch, and
count like clean ones; of the controls those count that work (success rate from 0.6 on) and turn all
classes. Those for one pair and clean ones are listed apart.

--write makes the packaged threshold: halfway between the highest score without a patch and the
lowest with one, of the parts bundled, shared, development, population and controls-1. The threshold
that a model is judged by in the table is made in the same way from the other data sets.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import CONTROL_PARTS, EFFECTIVE, PARTS, POPULATION_PART, Case, cases_of
from benchmarks.common import PATCHES, UNHURRIED, machine_facts, markdown_table
from onnx_soda import ScanOptions, SodaError, load_dataset, load_model, scan
from onnx_soda._detect.patches import judge
from onnx_soda._options import RuntimeOptions

_CALIBRATING = ("bundled", "shared", "development", POPULATION_PART, "controls-1")
_ALL_PARTS = (*PARTS, POPULATION_PART, *CONTROL_PARTS)
_COLUMNS = ("part", "without a patch", "flagged", "highest score", "with a patch", "target named",
            "lowest score", "wrong target", "median passes")  # fmt: skip

Facts = dict[str, Any]


def _cases(part: str) -> Iterator[tuple[Case, bool]]:
    """Yield models, and whether a patch was planted for all classes."""
    yield from ((case, case.poisoning == "all") for case in cases_of(part))


def _ask(case: Case, part: str, planted: bool, threads: int | None) -> Facts:
    truth: Facts = {
        "model": case.model.stem,
        "part": part,
        "dataset": case.dataset,
        "poisoning": case.poisoning,
        "planted": planted,
        "target": case.target,
        "success_rate": case.success_rate,
    }
    runtime = RuntimeOptions("cpu", threads=threads)
    options = ScanOptions("patches", time_limit=UNHURRIED, runtime=runtime)
    try:
        report = scan(load_model(case.model), load_dataset(case.data), options)
    except SodaError as error:
        return {**truth, "failed": error.message}
    numbers = report.evidence["patches"].numbers
    if not numbers:
        return {**truth, "failed": report.reasons[0]}
    seconds = round(report.timing["patches"], 1)
    return {**truth, **numbers, "seconds": seconds}


def _score(facts: Facts) -> float:
    return float(facts["patches"][0]["score"])


def _named(facts: Facts) -> bool:
    return bool(facts["patches"][0]["target_class"] == facts["target"])


def _counts(facts: Facts) -> bool:
    """Tell whether a model counts: without a patch, or with one that works."""
    if "failed" in facts or facts["poisoning"] == "pair":
        return False
    return not facts["planted"] or facts["success_rate"] >= EFFECTIVE


def _threshold(facts: Sequence[Facts]) -> float:
    """Return the score halfway between models without a patch and those with one."""
    without = max(_score(one) for one in facts if not one["planted"])
    planted = min(_score(one) for one in facts if one["planted"])
    return round((without + planted) / 2, 2)


def _row(part: str, facts: Sequence[Facts], calibrating: Sequence[Facts]) -> list[object]:
    def over(one: Facts) -> bool:
        others = [it for it in calibrating if it["dataset"] != one["dataset"]]
        return _score(one) > _threshold(others)

    without = [one for one in facts if not one["planted"]]
    planted = [one for one in facts if one["planted"]]
    flagged = list(filter(over, planted))
    passes = sorted(one["passes"] for one in facts)
    return [
        part,
        len(without),
        sum(map(over, without)),
        f"{max(map(_score, without), default=0):+.2f}",
        len(planted),
        sum(map(_named, flagged)),
        f"{min(map(_score, planted)):+.2f}" if planted else "",
        sum(not _named(one) for one in flagged),
        f"{passes[len(passes) // 2]:,}",
    ]


def _collect(arguments: argparse.Namespace) -> list[Facts]:
    found = []
    for part in arguments.part:
        for case, planted in _cases(part):
            if arguments.words and not any(word in case.model.stem for word in arguments.words):
                continue
            path: Path = PATCHES / f"{part}-{case.model.stem}.json"
            if not path.is_file() and not arguments.print:
                print(f"searching in {case.model.stem}", file=sys.stderr, flush=True)
                facts = _ask(case, part, planted, arguments.threads)
                path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            if path.is_file():
                found.append(json.loads(path.read_text(encoding="utf-8")))
    return found


def _write(threshold: float, facts: Sequence[Facts]) -> None:
    path = Path(judge.__file__).with_name("calibration.json")
    content = {
        "threshold": threshold,
        "command": "python -m benchmarks.patches --write",
        "models": {
            "without a patch": sum(not one["planted"] for one in facts),
            "with a patch": sum(one["planted"] for one in facts),
        },
        "data_sets": sorted({one["dataset"] for one in facts}),
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Measure what has not been measured, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--part", nargs="+", choices=_ALL_PARTS, default=_ALL_PARTS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--print", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    PATCHES.mkdir(parents=True, exist_ok=True)
    everything = _collect(arguments)
    facts = list(filter(_counts, everything))
    calibrating = [one for one in facts if one["part"] in _CALIBRATING]
    threshold = _threshold(calibrating)
    print(f"{machine_facts()}\n\nThreshold of all: {threshold:.2f}\n")
    parts = [(part, [one for one in facts if one["part"] == part]) for part in arguments.part]
    rows = [_row(part, own, calibrating) for part, own in parts if own]
    print(markdown_table(_COLUMNS, rows))
    pairs = [one for one in everything if one["poisoning"] == "pair" and "failed" not in one]
    shown = ("model", "success rate", "first target", "true target", "score")
    print("\n" + markdown_table(shown, map(_pair_row, pairs)))
    for one in everything:
        if "failed" in one:
            print(f"\n{one['model']}: {one['failed']}")
    if arguments.write:
        _write(threshold, calibrating)


def _pair_row(facts: Facts) -> list[object]:
    first = facts["patches"][0]
    shown = (facts["success_rate"], first["target_class"], facts["target"])
    return [facts["model"], *shown, f"{first['score']:+.2f}"]


if __name__ == "__main__":
    main()
