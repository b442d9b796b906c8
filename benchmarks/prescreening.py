"""Why K-ARM finds no trained control: its pre-screening, and what it would find without it.

    python -m benchmarks.prescreening [--threads N]

K-ARM asks for a stamp on all images only where one class is among the likeliest of 95 % of the
clean images, as the target is in models of TrojAI. This looks at the controls for all classes that
`python -m benchmarks.controls` trained: in how many clean images the target is, and what size the
stamp has when the target is made the candidate, or each of a few other classes. What was measured
is kept in benchmarks/results/prescreening. Prints Markdown.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from scipy.special import softmax

from benchmarks.cases import CONTROL_PARTS, HALF_POISONED_PART, Case, cases_of
from benchmarks.common import PRESCREENING, kept, markdown_table
from onnx_soda import ScanOptions, load_dataset, load_model
from onnx_soda._detect.baselines.gradients import SlopedSuspect
from onnx_soda._detect.baselines.k_arm import OF_ALL, Candidates, invert, likeliest, prescreen
from onnx_soda._options import RuntimeOptions, no_progress
from onnx_soda._suspect import Suspect

_OTHERS = 3
COLUMNS = (
    "control", "target in so many images", "asked", "candidates left", "pixels for the target",
    "bound", "smallest of three other classes",
)  # fmt: skip


def _measured(case: Case, threads: int) -> dict[str, Any]:
    runtime = RuntimeOptions("cpu", threads)
    suspect = Suspect(load_model(case.model), load_dataset(case.data), ScanOptions(runtime=runtime))
    sloped, target = SlopedSuspect(suspect, "K-ARM needs"), int(case.target or 0)
    probabilities = softmax(suspect.observe(suspect.sample).logits.astype(float), axis=1)
    found = prescreen(probabilities)
    others = [label for label in range(probabilities.shape[1]) if label != target][:_OTHERS]
    given = {label: _stamp(suspect, sloped, label) for label in (target, *others)}
    return {
        "control": case.model.stem,
        "share": round(float(likeliest(probabilities)[:, target].mean()), 4),
        "universal": found.universal,
        "targets_of_pairs": sorted(found.pairs),
        "size": given[target][0],
        "bound": given[target][1],
        "others": [given[label][0] for label in others],
    }


def _stamp(suspect: Suspect, sloped: SlopedSuspect, label: int) -> tuple[float | None, float]:
    """Return the pixels of a stamp for one class, None where none worked, and the bound."""
    details = invert(suspect, sloped, Candidates(label), no_progress).details
    return details["sizes"].get(str(label)), details["bounds"]["all classes"]


def row(facts: dict[str, Any]) -> list[object]:
    """Return a row of `COLUMNS` for what was kept of a control."""
    others = [size for size in facts["others"] if size is not None]
    left = len(facts["targets_of_pairs"]) + (facts["universal"] is not None)
    size = "none" if facts["size"] is None else f"{facts['size']:.1f}"
    least = f"{min(others):.1f}" if others else "none"
    shares = (f"{facts['share']:.0%}", f"{OF_ALL:.0%}")
    return [facts["control"], *shares, left, size, f"{facts['bound']:.1f}", least]


def main() -> None:
    """Measure what was not measured, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    facts = [
        kept(PRESCREENING / f"{case.model.stem}.json", partial(_measured, case, arguments.threads))
        for part in (*CONTROL_PARTS, HALF_POISONED_PART)
        for case in cases_of(part)
        if case.poisoning in ("all", "half")
    ]
    print(markdown_table(COLUMNS, map(row, facts)))


if __name__ == "__main__":
    main()
