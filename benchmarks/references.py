"""Ranks pairs by a second opinion, on models of known truth: `python -m benchmarks.references`.

    python -m benchmarks.references [--part NAME ...] [--threads N]

The references of a model are the other models of its data set, but for those with its own trigger;
poisoned ones are among them. Flows are kept in build/references; what is there is not computed
again. Parts as in `benchmarks.evaluate`; bundled, shared and development where not given: the
judging half is not looked at while the score is worked on. Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.cases import PARTS, Case, cases_of
from benchmarks.common import machine_facts, markdown_table
from onnx_soda import RuntimeOptions, ScanOptions, load_dataset, load_model
from onnx_soda._detect.concepts.experiment import MOST_CLASSES, why_not_tried
from onnx_soda._detect.references.bank import BANK_VERSION
from onnx_soda._detect.references.flows import Flows, bank_flows
from onnx_soda._detect.references.score import second_opinion
from onnx_soda._suspect import Suspect

_KEPT = Path(__file__).resolve().parents[1] / "build" / "references"
_COUNTS, _DRAWS = (1, 2, 4), 5


@dataclass(frozen=True, eq=False)
class Known:
    """A model of known truth with its flows."""

    case: Case
    flows: Flows

    @property
    def trigger(self) -> tuple[int, int] | None:
        """Victim and target; None for a clean model."""
        victim, target = self.case.victim, self.case.target
        return None if victim is None or target is None else (victim, target)


@dataclass(frozen=True)
class Ranked:
    """What a second opinion says of a model.

    Attributes:
        rank: Of the true pair, from 1; None for a clean model.
        score: Of the true pair, or the highest of a clean model.
        other: The highest of another pair; that of a clean model is `score`.
        pair: The pair of `other`.
    """

    rank: int | None
    score: float
    other: float
    pair: tuple[int, int]


def flows_of(case: Case, threads: int | None) -> Flows:
    """Return a model's flows, kept or computed."""
    place = _KEPT / f"{case.model.stem}-bank{BANK_VERSION}.npz"
    if place.is_file():
        kept = np.load(place)
        return Flows(kept["shares"], kept["images"])
    options = ScanOptions(runtime=RuntimeOptions(threads=threads))
    found = bank_flows(Suspect(load_model(case.model), load_dataset(case.data), options))
    place.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(place, shares=found.shares, images=found.images)
    print(f"{case.model.stem}: flows computed", file=sys.stderr, flush=True)
    return found


def references_of(model: Known, models: Sequence[Known]) -> list[Known]:
    """Return the other models of a data set that do not have the same backdoor."""
    return [
        other
        for other in models
        if other is not model
        and other.case.dataset == model.case.dataset
        and (model.trigger is None or other.trigger != model.trigger)
    ]


def rank(model: Known, references: Sequence[Known]) -> Ranked:
    """Return what some references say of a model."""
    found = second_opinion(model.flows, [other.flows for other in references])
    pairs = found.ranked()
    others = [pair for pair in pairs if pair != model.trigger]
    best = float(found.scores[others[0]])
    if model.trigger is None:
        return Ranked(None, best, best, others[0])
    score = float(found.scores[model.trigger])
    return Ranked(pairs.index(model.trigger) + 1, score, best, others[0])


def with_all(models: Sequence[Known]) -> Iterator[list[object]]:
    """Yield a row for each model, with all its references."""
    for model in models:
        references = references_of(model, models)
        if references:
            said, rate = rank(model, references), model.case.success_rate
            yield [
                model.case.model.stem,
                "-" if rate is None else f"{rate:.2f}",
                len(references),
                "-" if said.rank is None else said.rank,
                f"{said.score:.2f}",
                f"{said.other:.2f} ({said.pair[0]} -> {said.pair[1]})",
            ]


def with_few(models: Sequence[Known], count: int | None) -> list[object]:
    """Return a row for a number of references, drawn at random; None for all."""
    rng = np.random.default_rng(0)
    said: list[tuple[Known, Ranked]] = []
    for _ in range(_DRAWS if count else 1):
        for model in models:
            references = references_of(model, models)
            if len(references) < (count or 1):
                continue
            chosen = rng.permutation(len(references))[:count]
            said.append((model, rank(model, [references[place] for place in chosen])))
    highest = {
        name: max(one.score for model, one in said if _clean_of(model, name))
        for name in {model.case.dataset for model, _ in said if _clean_of(model, None)}
    }
    bad = [(model, one) for model, one in said if one.rank is not None]
    first = [(model, one) for model, one in bad if one.rank == 1]
    over = [one for model, one in first if one.score > highest.get(model.case.dataset, 0)]
    return [
        count or "all",
        len(bad),
        f"{len(first) / max(len(bad), 1):.2f}",
        f"{len(over) / max(len(bad), 1):.2f}",
    ]


def _clean_of(model: Known, dataset: str | None) -> bool:
    return model.trigger is None and dataset in (None, model.case.dataset)


def read_models(parts: Sequence[str], threads: int | None) -> list[Known]:
    """Return the backdoored and the clean models of some parts whose images can be changed."""
    found = []
    for case in (case for part in parts for case in cases_of(part)):
        if case.effective is False:
            continue
        clean = load_dataset(case.data)
        if why_not_tried(clean, min(len(np.unique(clean.labels)), MOST_CLASSES)) is None:
            found.append(Known(case, flows_of(case, threads)))
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    parts = arguments.part or [part for part in PARTS if part != "judging"]
    models = read_models(parts, arguments.threads)
    print(f"# A second opinion, bank {BANK_VERSION}, {', '.join(parts)}\n\n{machine_facts()}\n")
    columns = ("model", "SR", "references", "rank of the true pair", "score", "best other pair")
    print(f"## With all references\n\n{markdown_table(columns, with_all(models))}\n")
    counted = ("references", "backdoored", "true pair first", "and over every clean model")
    print(markdown_table(counted, (with_few(models, count) for count in (*_COUNTS, None))))


if __name__ == "__main__":
    main()
