"""The paper's feasibility study (section 3.1): does causal attribution find the "guilty" neurons?

    python -m benchmarks.feasibility [--into FOLDER]

For every backdoored model of known truth (benchmarks/models and ../shared/zoo) whose backdoor took,
on its penultimate layer:

- outstanding on trigger images: neurons whose mean activation has an anomaly index over 2;
- outstanding on clean images of the victim class: the same;
- guilty: the first without the second; benign: the second without the first;
- found: neurons whose causal attribution to the target is outstanding, by clean images alone. The
  paper gives one threshold, 2. Its published toolkit takes 1 here, for all models. Both are tried;
- the same with influence (leave-one-out) in place of causal attribution, as in the paper.

How many guilty neurons are found means little without what a random guess finds: of any set of
neurons, as large a share as is named of all. That share is told beside it. One JSON file per model
goes to benchmarks/results/paper/feasibility, or the folder named; what is there is not done again.
Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from benchmarks.cases import PARTS, Case, cases_of
from benchmarks.common import PAPER, kept, machine_facts, markdown_table
from benchmarks.shared_data import read_shared, trigger_images
from onnx_soda import ScanOptions, load_dataset, load_model
from onnx_soda._detect.soda.attribution import probe_matrix
from onnx_soda._detect.soda.statistic import anomaly_index
from onnx_soda._options import DEFAULT_THRESHOLD, RuntimeOptions
from onnx_soda._suspect import Suspect

__all__ = ["feasibility_facts", "feasibility_table"]

Chosen = NDArray[np.bool_]

_TOOLKIT_THRESHOLD = 1.0
_THRESHOLDS = (DEFAULT_THRESHOLD, _TOOLKIT_THRESHOLD)
_WAYS = {"attribution": "causal attribution", "influence": "influence (leave-one-out)"}
# What the paper prints: share of guilty and of benign neurons, over 14 models.
_PUBLISHED = {"attribution": ("90.3 %", "26.7 %"), "influence": ("63.2 %", "76.4 %")}
_COLUMNS = (
    "neurons by", "threshold", "guilty found, published", "guilty found, mean of models (spread)",
    "all guilty neurons (95 %)", "benign found, published", "benign found, mean (spread)",
    "all benign neurons (95 %)", "random guess",
)  # fmt: skip

_read = lru_cache(maxsize=1)(read_shared)


def _measure(case: Case) -> dict[str, Any]:
    """Return how many neurons of a model are guilty and benign, and how many of them are found."""
    options = ScanOptions(allow_missing_classes=True, runtime=RuntimeOptions("cpu", 1))
    suspect = Suspect(load_model(case.model), load_dataset(case.data), options)
    pair = (case.victim, case.target)
    triggers = trigger_images(_read(case.data.stem), pair, load_dataset(case.data))
    infected = replace(suspect, clean=triggers, known=suspect.preprocessing)
    seen = infected.observe(np.arange(len(triggers.labels)))
    clean = suspect.observe(suspect.sample)
    victims = clean.layer[clean.labels == case.victim]
    suspect.tail.learn_shape(clean.layer)
    weights = np.abs(probe_matrix(suspect.tail)[:, case.target or 0])
    means = [_by_neuron(values).mean(axis=0) for values in (seen.layer, victims)]
    adverse, usual = (anomaly_index(mean) > DEFAULT_THRESHOLD for mean in means)
    scores = {
        "attribution": weights,
        "influence": weights * np.abs(_by_neuron(victims)).mean(axis=0),
    }
    return {
        "model": case.model.stem,
        "dataset": case.dataset,
        "trigger_images": len(triggers.labels),
        "neurons": len(weights),
        "guilty": int((adverse & ~usual).sum()),
        "benign": int((usual & ~adverse).sum()),
        "found": [
            {"by": way, "threshold": threshold, **_found(score, threshold, adverse, usual)}
            for way, score in scores.items()
            for threshold in _THRESHOLDS
        ],
    }


def _by_neuron(layer: NDArray[Any]) -> NDArray[np.float64]:
    """Return activations (images, neurons); of a feature map the mean of each channel."""
    means: NDArray[np.float64] = layer.reshape(*layer.shape[:2], -1).mean(axis=2, dtype=np.float64)
    return means


def _found(score: NDArray[np.float64], threshold: float, adverse: Chosen, usual: Chosen) -> Any:
    named = anomaly_index(score) > threshold
    return {
        "named": int(named.sum()),
        "guilty": int((named & adverse & ~usual).sum()),
        "benign": int((named & usual & ~adverse).sum()),
    }


def feasibility_facts(into: Path = PAPER) -> list[dict[str, Any]]:
    """Measure every model that has not been measured; return what was found of each."""
    return [
        kept(into / "feasibility" / f"{part}-{case.model.stem}.json", partial(_measure, case))
        for part in PARTS[1:]
        for case in cases_of(part)
        if case.effective
    ]


def feasibility_table(found: Sequence[dict[str, Any]]) -> str:
    """Return the table: what is found, beside what the paper prints and a random guess."""
    rows = []
    for way, words in _WAYS.items():
        for threshold in _THRESHOLDS:
            of_models = [(one, _one(one, way, threshold)) for one in found]
            guess = np.mean([told["named"] / one["neurons"] for one, told in of_models])
            row: list[object] = [words, f"{threshold:g}"]
            for which, published in zip(("guilty", "benign"), _PUBLISHED[way], strict=True):
                counts = [(told[which], one[which]) for one, told in of_models]
                row += [published, *_cells(counts)]
            rows.append([*row, f"{guess:.0%}"])
    return markdown_table(_COLUMNS, rows)


def _one(facts: dict[str, Any], way: str, threshold: float) -> dict[str, Any]:
    return next(one for one in facts["found"] if (one["by"], one["threshold"]) == (way, threshold))


def _cells(counts: Sequence[tuple[int, int]]) -> list[str]:
    """Return the mean share and its spread, of models that have any, and the share of all."""
    shares = [part / whole for part, whole in counts if whole]
    if not shares:
        return ["-", "-"]
    part, whole = (sum(numbers) for numbers in zip(*counts, strict=True))
    low, high = binomtest(part, whole).proportion_ci(method="exact")
    mean = f"{np.mean(shares):.0%} ({np.std(shares):.0%}, {len(shares)} of {len(counts)} models)"
    return [mean, f"{part} of {whole} ({low:.0%} to {high:.0%})"]


def main() -> None:
    """Measure what has not been measured, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=PAPER)
    found = feasibility_facts(parser.parse_args().into)
    print(f"{machine_facts()}\n\n{feasibility_table(found)}")


if __name__ == "__main__":
    main()
