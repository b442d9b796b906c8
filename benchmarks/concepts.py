"""Concept interventions on the zoo: scores of the true pair and of the best pair, per model.

    python -m benchmarks.concepts [WORD ...]

Words keep only the models whose name holds one of them. Not part of the scan's verdict yet: this is
what a threshold has to be calibrated on.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from benchmarks.common import machine_facts, markdown_table
from benchmarks.zoo import Case, fixture_cases, zoo_cases
from onnx_soda import ScanOptions, load_dataset, load_model
from onnx_soda.concepts.examine import ConceptEvidence, examine_concepts
from onnx_soda.model.anatomy import dissect
from onnx_soda.model.body import Body
from onnx_soda.observe import choose_preprocessing, sample_images

COLUMNS = (
    "model", "true pair", "SR", "true pair's score, rank", "best pair: score", "next: score",
    "best pair's concept", "target under it: model / copies", "copies' accuracy", "seconds",
)  # fmt: skip


def examined(case: Case) -> tuple[ConceptEvidence, float]:
    """Examine one model; return the evidence and the seconds it took."""
    start = time.perf_counter()
    anatomy = dissect(load_model(case.model))
    clean = load_dataset(case.data)
    options = ScanOptions()
    classes = anatomy.logits.classes or int(clean.labels.max()) + 1
    chosen = sample_images(clean, classes, options)
    how, _ = choose_preprocessing(Body(anatomy, options.runtime), clean, chosen, options)
    evidence = examine_concepts(anatomy, clean, how, classes, options.runtime)
    return evidence, time.perf_counter() - start


def row(case: Case) -> list[str]:
    """Return one row of the table."""
    evidence, seconds = examined(case)
    best, second = evidence.search.findings[:2]
    truth = rank = "-"
    if case.victim is not None and case.target is not None:
        truth = f"{case.victim} -> {case.target}"
        own = evidence.search.scores[case.victim, case.target]
        rank = f"{own:.3f}, {int(np.sum(evidence.search.scores > own)) + 1}"
    return [
        case.model.stem,
        truth,
        "-" if case.success_rate is None else f"{case.success_rate:.0%}",
        rank,
        f"{best.victim_class} -> {best.target_class}: {best.score:.3f}",
        f"{second.victim_class} -> {second.target_class}: {second.score:.3f}",
        best.concept.describe(),
        f"{best.turned:.2f} / {best.supported:.2f}",
        ", ".join(f"{accuracy:.1%}" for accuracy in evidence.copy_accuracies),
        f"{seconds:.0f}",
    ]


def main() -> None:
    """Print the table; arguments keep only models whose name holds one of them."""
    cases = [*fixture_cases(), *zoo_cases()]
    wanted = sys.argv[1:]
    kept = [case for case in cases if not wanted or any(w in case.model.stem for w in wanted)]
    print(f"# Concept interventions\n\n{machine_facts()}\n")
    # Row by row: the whole zoo takes half an hour on two cores.
    print(markdown_table(COLUMNS, []))
    for case in kept:
        print("| " + " | ".join(row(case)) + " |", flush=True)


if __name__ == "__main__":
    main()
