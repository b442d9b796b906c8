"""All detectors on models of known truth: what each flags, with one threshold per method.

    python -m benchmarks.comparison [--part NAME ...] [--detectors NAME ...] [--parameters P]
                                    [--threads N] [--print] [WORD ...]

Parts as in `benchmarks.evaluate`; shared and judging where none is named. Every model is scanned
with `--method NAME`, by the same clean images. One JSON file per model and method goes to
benchmarks/results/comparison; what is there is not done again: delete it after a change. With
--print nothing is scanned. Prints Markdown.

Two tables. In the first each method flags by its own threshold. In the second all are judged alike:
a model is flagged where its highest score is over the highest one of the clean models of the
*other* data sets (leave one data set out), and then its first pair is named. "concepts" is this
project's default without references; its scans are those that `benchmarks.evaluate` kept.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import CONTROL_PARTS, HALF_POISONED_PART, PARTS, Case, cases_of
from benchmarks.common import (
    COMPARISON,
    EVALUATION,
    UNHURRIED,
    kept,
    machine_facts,
    markdown_table,
)
from onnx_soda import ScanOptions, SodaError, load_dataset, load_model, scan
from onnx_soda._detect.base import DETECTORS
from onnx_soda._detect.concepts.judge import load_calibration
from onnx_soda._options import RuntimeOptions

DEFAULT = "concepts"
# Those that need something else than one model and its clean images, or decide nothing of it.
_APART = ("graph-logic", "second-opinion", DEFAULT, "soda", "patches")
_PARTS = ("shared", "judging")
RIVALS = tuple(name for name in DETECTORS.names if name not in _APART)
_COLUMNS = (
    "detector", "parameters", "backdoored", "pair named", "target named", "wrong pair",
    "clean", "clean flagged", "no result", "median passes", "median seconds",
)  # fmt: skip
_ALIKE = (
    "detector", "parameters", "backdoored", "pair named", "target named", "wrong pair", "clean",
    "clean flagged", "true pair first", "true target first",
)  # fmt: skip


@dataclass(frozen=True)
class Told:
    """What one method said of one model.

    Attributes:
        facts: As kept: truth, outcome, named pairs with scores, passes, seconds.
    """

    facts: dict[str, Any]

    @property
    def clean(self) -> bool:
        """Tell whether the model was not poisoned."""
        return self.facts["victim"] is None

    @property
    def first(self) -> tuple[int | None, int] | None:
        """Return the pair with the highest score; None where nothing has one."""
        named = self.facts["named"]
        return (named[0]["victim"], named[0]["target"]) if named else None

    @property
    def score(self) -> float:
        """Return the highest score; far below all others where there is none."""
        return float(self.facts["named"][0]["score"]) if self.facts["named"] else -1e9

    @property
    def flags(self) -> bool:
        """Tell whether the method flags something by its own threshold."""
        return bool(self.facts["outcome"] == "flagged")

    @property
    def names_target(self) -> bool:
        """Tell whether the first target is the true one."""
        return self.first is not None and self.first[1] == self.facts["target"]

    @property
    def names_pair(self) -> bool:
        """Tell whether the first pair is the true one."""
        return self.first == (self.facts["victim"], self.facts["target"])


def ask(case: Case, part: str, method: str, options: ScanOptions) -> dict[str, Any]:
    """Scan one model with one method; return the truth and what it said."""
    start = time.perf_counter()
    truth = {
        "model": case.model.stem,
        "part": part,
        "dataset": case.dataset,
        "victim": case.victim,
        "target": case.target,
        "method": method,
        "parameters": options.parameters,
    }
    try:
        report = scan(load_model(case.model), load_dataset(case.data), options)
    except SodaError as error:
        seconds = round(time.perf_counter() - start, 1)
        failed = {"outcome": f"failed: {error.message}", "named": [], "passes": 0}
        return {**truth, **failed, "seconds": seconds}
    numbers = report.evidence[method].numbers
    return {
        **truth,
        "outcome": numbers["outcome"],
        "named": [
            {"victim": one["victim_class"], "target": one["target_class"], "score": one["score"]}
            for one in numbers["named"]
        ],
        "threshold": numbers["threshold"],
        "passes": numbers["passes"],
        "seconds": round(report.timing[method], 1),
    }


def default_of(case: Case, part: str) -> Told | None:
    """Return what the kept scan of the default method said, in the same form."""
    path = EVALUATION / "default" / f"{part}-{case.model.stem}.json"
    if not path.is_file():
        return None
    scanned = json.loads(path.read_text(encoding="utf-8"))
    pairs = sorted(scanned["pairs"], key=lambda pair: -pair["bound"])
    threshold = load_calibration().threshold
    facts = {
        **{name: scanned[name] for name in ("model", "part", "dataset", "victim", "target")},
        "method": DEFAULT,
        "parameters": "this project's",
        "outcome": "flagged" if pairs and pairs[0]["bound"] > threshold else "nothing flagged",
        "named": [
            {"victim": one["victim"], "target": one["target"], "score": one["bound"]}
            for one in pairs
        ],
        "passes": scanned["passes"],
        "seconds": scanned["concept_seconds"],
    }
    return Told(facts)


def told_of(case: Case, part: str, method: str, parameters: str) -> Told | None:
    """Return what is kept of a method and a model; None where it was not asked."""
    path = kept_at(case, part, method, parameters)
    return Told(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def kept_at(case: Case, part: str, method: str, parameters: str) -> Path:
    """Return where what a method says of a model is kept."""
    return COMPARISON / f"{part}-{case.model.stem}-{method}-{parameters}.json"


def _rows(
    methods: dict[str, list[Told]], row: Callable[[Sequence[Told]], list[object]]
) -> Iterable[list[object]]:
    for name, told in methods.items():
        yield [name, told[0].facts["parameters"], *row(told)]


def own_row(told: Sequence[Told]) -> list[object]:
    """Return a row of the first table."""
    poisoned, clean = halves(told)
    return [
        *counts(poisoned, clean, lambda one: one.flags),
        sum(one.facts["outcome"] not in ("flagged", "nothing flagged") for one in told),
        f"{median(one.facts['passes'] for one in told):,.0f}",
        f"{median(one.facts['seconds'] for one in told):.0f}",
    ]


def counts(
    poisoned: Sequence[Told], clean: Sequence[Told], flags: Callable[[Told], bool]
) -> list[object]:
    """Return how many are flagged, and of the backdoored ones how many rightly."""
    flagged = list(filter(flags, poisoned))
    return [
        len(poisoned),
        sum(one.names_pair for one in flagged),
        sum(one.names_target for one in flagged),
        sum(not one.names_target for one in flagged),
        len(clean),
        sum(map(flags, clean)),
    ]


def alike_row(told: Sequence[Told]) -> list[object]:
    """Return a row of the second table."""
    poisoned, clean = halves(told)
    return [
        *counts(poisoned, clean, partial(_over, clean)),
        sum(one.names_pair for one in poisoned),
        sum(one.names_target for one in poisoned),
    ]


def _over(clean: Sequence[Told], one: Told) -> bool:
    """Tell whether a score is over those of the clean models of the other data sets."""
    others = [it.score for it in clean if it.facts["dataset"] != one.facts["dataset"]]
    return bool(others) and one.score > max(others)


def halves(told: Sequence[Told]) -> tuple[list[Told], list[Told]]:
    """Return the backdoored models and the clean ones."""
    return [one for one in told if not one.clean], [one for one in told if one.clean]


def _collect(arguments: argparse.Namespace) -> dict[str, list[Told]]:
    found: dict[str, list[Told]] = {}
    runtime = RuntimeOptions(threads=arguments.threads)
    for part in arguments.part:
        for case in cases_of(part):
            wanted = not arguments.words or any(it in case.model.stem for it in arguments.words)
            if not wanted or case.effective is False:
                continue
            if (default := default_of(case, part)) is not None:
                found.setdefault(DEFAULT, []).append(default)
            for method in arguments.detectors:
                if not arguments.print:
                    options = ScanOptions(
                        method,
                        time_limit=UNHURRIED,
                        runtime=runtime,
                        parameters=arguments.parameters,
                    )
                    path = kept_at(case, part, method, arguments.parameters)
                    kept(path, partial(ask, case, part, method, options))
                if (told := told_of(case, part, method, arguments.parameters)) is not None:
                    found.setdefault(method, []).append(told)
    return found


def main() -> None:
    """Ask what has not been asked, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parts = (*PARTS, *CONTROL_PARTS, HALF_POISONED_PART)
    parser.add_argument("--part", nargs="+", choices=parts, default=_PARTS)
    parser.add_argument("--detectors", nargs="+", choices=RIVALS, default=RIVALS)
    parser.add_argument("--parameters", choices=("paper", "published"), default="paper")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--print", action="store_true")
    arguments = parser.parse_args()
    found = _collect(arguments)
    print(f"{machine_facts()}\n")
    print(f"By the threshold of each:\n\n{markdown_table(_COLUMNS, _rows(found, own_row))}\n")
    print(f"By one rule for all:\n\n{markdown_table(_ALIKE, _rows(found, alike_row))}")


if __name__ == "__main__":
    main()
