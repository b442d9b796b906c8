"""Scans models of known truth with the default method and keeps what each scan said.

    python -m benchmarks.evaluate [--budget NAME] [--into NAME] [--part NAME] [--threads N] [WORD]

Parts: bundled (fixtures), shared (../shared/zoo), development and judging (halves of the zoo that
`python -m benchmarks.zoo` trains). Words keep only the models whose name holds one of them. One
JSON file per model goes to benchmarks/results/evaluation/BUDGET, or another folder there that
`--into` names. What is there is not scanned again: delete it after a change of the method. The
tables are made from these files by `python -m benchmarks.calibrate`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.cases import PARTS, Case, cases_of
from benchmarks.common import EVALUATION, UNHURRIED
from onnx_soda import CleanSet, ScanOptions, load_dataset, load_model, scan
from onnx_soda._detect.concepts.battery import BUDGETS
from onnx_soda._model.load import OnnxModel
from onnx_soda._numbers import ConceptNumbers, SodaNumbers
from onnx_soda._options import RuntimeOptions
from onnx_soda._results import named_pairs, numbers_of

__all__ = ["evaluate", "highest_pair", "named_by", "two_scans"]


def evaluate(case: Case, part: str, options: ScanOptions) -> dict[str, Any]:
    """Scan one model; return the truth about it and what the scan said."""
    start = time.perf_counter()
    report = scan(load_model(case.model), load_dataset(case.data), options)
    seconds = time.perf_counter() - start
    concepts = numbers_of(report, "concepts", ConceptNumbers)
    if concepts is None or report.dataset is None:
        raise ValueError(f"{case.model.name}: the concepts were not tried")
    return {
        "model": case.model.stem,
        "part": part,
        "dataset": case.dataset,
        "poisoning": case.poisoning,
        "victim": case.victim,
        "target": case.target,
        "success_rate": case.success_rate,
        "effective": case.effective,
        "accuracy": report.dataset.accuracy,
        "verdict": report.verdict,
        "pairs": [
            {
                "victim": pair.victim_class,
                "target": pair.target_class,
                "score": pair.score,
                "low": pair.low,
                "high": pair.high,
                "bound": pair.bound,
                "concept": pair.concept,
                "turned": pair.turned,
                "shown": pair.shown,
                "others_right": pair.others_right_under,
                "also": pair.also_turned,
            }
            for pair in concepts.pairs
        ],
        "concepts": concepts.concepts,
        "screen_images": concepts.screen_images,
        "probe_images": concepts.probe_images,
        "passes": report.coverage.passes,
        "fit_images": concepts.fit_images,
        "fewest_images": concepts.fewest_images,
        "reference_accuracy": max(concepts.reference_accuracies),
        "seconds": round(seconds, 1),
        "concept_seconds": round(report.timing["concepts"], 1),
    }


def two_scans(model: OnnxModel, clean: CleanSet, options: ScanOptions) -> dict[str, Any]:
    """Scan a model with the paper's statistic and with the default; return what each says."""
    by_statistic = scan(model, clean, replace(options, method="soda"))
    by_default = scan(model, clean, options)
    statistic = numbers_of(by_statistic, "soda", SodaNumbers)
    concepts = numbers_of(by_default, "concepts", ConceptNumbers)
    if statistic is None:
        raise ValueError(f"{model.file}: the statistic had no answer")
    best = concepts.pairs[0] if concepts and concepts.pairs else None
    return {
        "statistic": {
            "named": list(named_pairs(by_statistic)),
            "index": [round(-index, 3) for index in statistic.anomaly_index],
        },
        "default": {
            "verdict": by_default.verdict,
            "named": list(named_pairs(by_default)),
            "highest": [best.victim_class, best.target_class] if best else None,
            "interval": [round(best.low, 4), round(best.high, 4)] if best else None,
            "passes": by_default.coverage.passes,
        },
    }


def named_by(told: dict[str, Any]) -> str:
    """Return which pairs one of the `two_scans` names."""
    if told.get("verdict") == "inconclusive":
        return "inconclusive"
    return ", ".join(f"{victim} -> {target}" for victim, target in told["named"]) or "nothing"


def highest_pair(told: dict[str, Any]) -> str:
    """Return the highest pair of the default scan, with its interval."""
    if told["highest"] is None:
        return "-"
    (victim, target), (low, high) = told["highest"], told["interval"]
    return f"{victim} -> {target}: {low:+.2f} to {high:+.2f}"


def main() -> None:
    """Scan what has not been scanned."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--budget", choices=tuple(BUDGETS), default="default")
    parser.add_argument("--into")
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    folder: Path = EVALUATION / (arguments.into or arguments.budget)
    folder.mkdir(parents=True, exist_ok=True)
    options = ScanOptions(
        budget=arguments.budget,
        time_limit=UNHURRIED,
        runtime=RuntimeOptions(threads=arguments.threads),
    )
    for part in [arguments.part] if arguments.part else PARTS:
        for case in cases_of(part):
            name = case.model.stem
            path = folder / f"{part}-{name}.json"  # two zoos may use one name
            wanted = not arguments.words or any(word in name for word in arguments.words)
            # A backdoor that did not take is neither a hit nor a miss.
            if not wanted or path.is_file() or case.effective is False:
                continue
            print(f"scanning {name}", file=sys.stderr, flush=True)
            facts = evaluate(case, part, options)
            path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
