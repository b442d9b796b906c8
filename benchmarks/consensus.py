"""Measures the consensus of a fleet on models of known truth.

    python -m benchmarks.consensus [--part NAME ...] [--threads N]

The groups are the data sets; the models those of `benchmarks.references`, whose flows it takes or
computes. Every model is compared with others of its group: with all that do not have its trigger,
and with as many as make one of ten, of four, and of two that has it. Side by side: the usual second
opinion, in which all others count, and the consensus, in which the quarter that turns most is left
out. A model is flagged where its first pair stands out by more than that of any clean model of the
other data sets, in the same setting. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.cases import PARTS, POPULATION_PART
from benchmarks.common import machine_facts, markdown_table
from benchmarks.references import Known, read_models, references_of
from onnx_soda._detect.references.flows import Flows
from onnx_soda._detect.references.opinion import second_opinion
from onnx_soda._fleet.consensus import FEWEST, consensus

# Of how many neighbours one has the same trigger; None for none of all.
_SETTINGS = (None, 10, 4, 2)
_COLUMNS = (
    "neighbours with the same trigger", "compared by", "backdoored", "pair named",
    "true pair first", "clean", "clean flagged",
)  # fmt: skip


@dataclass(frozen=True)
class Heard:
    """What stands out in a model.

    Attributes:
        model: The model.
        pair: Its first pair.
        beyond: How far it stands out.
    """

    model: Known
    pair: tuple[int, int]
    beyond: float

    @property
    def clean(self) -> bool:
        """Whether the model is clean."""
        return self.model.trigger is None


def _by_all(model: Known, others: Sequence[Flows]) -> Heard:
    found = second_opinion(model.flows, others)
    pair = found.ranked()[0]
    return Heard(model, pair, found.beyond(pair))


def _by_consensus(model: Known, others: Sequence[Flows]) -> Heard:
    flows = {"": model.flows, **{str(place): one for place, one in enumerate(others)}}
    (own,) = (one for one in consensus(flows) if not one.name)
    return Heard(model, own.pair, own.beyond)


_WAYS: dict[str, Callable[[Known, Sequence[Flows]], Heard]] = {
    "all": _by_all,
    "consensus": _by_consensus,
}


def _neighbours(models: Sequence[Known], of: int | None) -> Iterator[tuple[Known, list[Flows]]]:
    """Yield each model with those that it is compared with."""
    rng = np.random.default_rng(0)
    for model in models:
        honest = references_of(model, models)
        chosen = list(honest)
        if of is not None and model.trigger is not None:
            guilty = [
                one
                for one in models
                if one is not model
                and one.dataset == model.dataset
                and one.trigger == model.trigger
            ]
            if not guilty or len(honest) < of - 1:
                continue
            some = [honest[place] for place in rng.permutation(len(honest))[: of - 1]]
            chosen = [guilty[rng.integers(len(guilty))], *some]
        elif of is not None:
            chosen = [honest[place] for place in rng.permutation(len(honest))[:of]]
        if len(chosen) >= FEWEST - 1:
            yield model, [one.flows for one in chosen]


def _row(of: int | None, way: str, heard: Sequence[Heard]) -> list[object]:
    clean = [one for one in heard if one.clean]

    def limit(one: Heard) -> float:
        others = (it.beyond for it in clean if it.model.dataset != one.model.dataset)
        return max(others, default=0.0)

    poisoned = [one for one in heard if not one.clean]
    right = [one for one in poisoned if one.pair == one.model.trigger]
    return [
        "none" if of is None else f"one of {of}",
        way,
        len(poisoned),
        sum(one.beyond > limit(one) for one in right),
        len(right),
        len(clean),
        sum(one.beyond > limit(one) for one in clean),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = (*PARTS, POPULATION_PART)
    parser.add_argument("--part", nargs="+", choices=names, default=PARTS[1:])
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    models = read_models(arguments.part, arguments.threads)
    rows = []
    for of in _SETTINGS:
        groups = list(_neighbours(models, of))
        for name, way in _WAYS.items():
            rows.append(_row(of, name, [way(model, others) for model, others in groups]))
    print(f"{machine_facts()}\n\n{markdown_table(_COLUMNS, rows)}")


if __name__ == "__main__":
    main()
