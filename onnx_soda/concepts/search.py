"""Searches for the concept and the pair that the clean data does not support.

A fixed battery and random concepts first, then variations of those that do best for the most
promising pairs. Each fold of the images chooses concepts, and the other fold scores them, so that
a score is no luck of the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda.concepts.battery import concept_battery
from onnx_soda.concepts.concept import Concept, Donor, draw_concept, move_concept
from onnx_soda.concepts.estimate import Judge
from onnx_soda.concepts.folds import FOLDS
from onnx_soda.concepts.probe import Probe
from onnx_soda.concepts.score import FloatArray, background
from onnx_soda.concepts.vary import join_or_move
from onnx_soda.options import BudgetName

__all__ = ["BUDGETS", "Budget", "ConceptFinding", "SearchResult", "search"]

# Concepts that a pair's score is the mean over: one alone may be luck.
_BEST_CONCEPTS = 3
# Standard errors that a concept's score is lowered by where concepts and pairs are chosen. Less
# than in the final score: a weak sign is worth a closer look.
_CAUTION = 0.5
# Concepts of a pair that its best ones are joined with, half of the time; else any is drawn.
_PARTNERS = 12
# Marks concepts that no fold has chosen: the battery and random draws.
_UNCHOSEN = -1
# Pairs that are looked at on more images.
_FINDINGS = 5


@dataclass(frozen=True)
class Budget:
    """How many concepts are tried, besides the battery.

    Attributes:
        draws: Concepts drawn at random.
        rounds: Pairs refined in each round and variations tried of each, by each fold. Many pairs
            first, then more of fewer (successive halving, Jamieson and Talwalkar 2016).
    """

    draws: int
    rounds: tuple[tuple[int, int], ...]

    def probes(self, channels: int) -> int:
        """Return the number of concepts tried in all."""
        refined = sum(pairs * moves for pairs, moves in self.rounds)
        return len(concept_battery(channels)) + self.draws + FOLDS * refined


BUDGETS: Mapping[BudgetName, Budget] = {
    "quick": Budget(0, ((4, 6), (2, 12))),
    "default": Budget(100, ((16, 2), (8, 4), (4, 6), (3, 8))),
    "thorough": Budget(600, ((32, 3), (16, 6), (8, 10), (4, 16), (3, 16))),
}


@dataclass(frozen=True)
class ConceptFinding:
    """A pair, with the concepts that show it best.

    Attributes:
        victim_class: Source class.
        target_class: Class it is turned into.
        background: Score of the best pair with another victim and target; see `background`.
        concepts: For each fold the concepts that it chose, the best one first.
    """

    victim_class: int
    target_class: int
    background: float
    concepts: tuple[tuple[Concept, ...], ...]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found.

    Attributes:
        scores: Score of every pair less its standard error, background included, shape (classes,
            classes): victim, target.
        findings: The pairs with the highest scores, highest first.
        judge: What scores are made from, for images that were not searched on.
        tried: Number of concepts tried.
    """

    scores: FloatArray
    findings: tuple[ConceptFinding, ...]
    judge: Judge
    tried: int


def search(
    probe: Probe,
    judge: Judge,
    rng: np.random.Generator,
    budget: Budget | None = None,
    advance: Callable[[int, int], None] | None = None,
    donors: Sequence[Donor] = (),
) -> SearchResult:
    """Search for concepts under which one class turns into another without support.

    Args:
        probe: The classifier, with images grouped by `group_by_fold`.
        judge: Scores what the probe says.
        rng: Source of randomness; the same state gives the same result.
        budget: How many concepts to try.
        advance: Called with the number of concepts tried and the number in all.
        donors: Clean images whose style may be carried over.
    """
    budget = budget or BUDGETS["default"]
    channels = probe.shape[0]
    trials = _Trials(probe, judge, budget.probes(channels), advance)
    for concept in concept_battery(channels):
        trials.add(concept)
    for _ in range(budget.draws):
        trials.add(draw_concept(rng, channels, donors))
    trials.close_screening()
    for turn, (pairs, moves) in enumerate(budget.rounds):
        # Wide steps first, narrow ones to finish.
        width, joining = 1 / (1 + turn), turn < len(budget.rounds) - 1
        for fold in range(FOLDS):
            for number, (concept, kin) in enumerate(trials.promising(fold, pairs, moves)):
                if joining and number % 2:
                    trials.add(join_or_move(concept, kin, rng, channels, donors, width), fold)
                else:
                    trials.add(move_concept(concept, rng, width), fold)
    return trials.result(_FINDINGS)


class _Trials:
    """Concepts tried, with their flows on both folds and the fold that chose to try them."""

    def __init__(
        self,
        probe: Probe,
        judge: Judge,
        total: int,
        advance: Callable[[int, int], None] | None,
    ) -> None:
        self._probe = probe
        self._judge = judge
        self._total = total
        self._advance = advance
        self._concepts: list[Concept] = []
        self._origins: list[int] = []
        self._scores: list[NDArray[np.float32]] = []
        self._errors: list[NDArray[np.float32]] = []
        self._waiting: list[FloatArray] = []

    def add(self, concept: Concept, chosen_by: int = _UNCHOSEN) -> None:
        """Try a concept."""
        self._concepts.append(concept)
        self._origins.append(chosen_by)
        self._waiting.append(self._judge.by_fold(self._probe.flows(concept)))
        if self._advance:
            self._advance(len(self._concepts), self._total)

    def close_screening(self) -> None:
        """Take what is usual from the concepts tried so far, which nothing has chosen."""
        flows = np.stack(self._waiting)
        self._judge = self._judge.with_usual(flows)

    def _settle(self) -> None:
        """Score what was tried since the last time."""
        if self._waiting:
            scores, errors = self._judge.score(np.stack(self._waiting))
            self._scores.extend(scores.astype(np.float32))
            self._errors.extend(errors.astype(np.float32))
            self._waiting.clear()

    def _cautious(self, fold: int) -> tuple[NDArray[np.intp], FloatArray]:
        """Return the concepts that a fold may choose from, and what it thinks of each."""
        self._settle()
        own = np.flatnonzero([origin in (_UNCHOSEN, fold) for origin in self._origins])
        scores = [self._scores[i][fold] - _CAUTION * self._errors[i][fold] for i in own]
        return own, np.stack(scores)

    def _leaders(self, fold: int) -> tuple[NDArray[np.intp], FloatArray]:
        """Return each pair's best concepts by one fold, and their mean score, a little lowered."""
        own, cautious = self._cautious(fold)
        best = np.argpartition(-cautious, range(_BEST_CONCEPTS), axis=0)[:_BEST_CONCEPTS]
        return own[best], np.take_along_axis(cautious, best, axis=0).mean(axis=0)

    def promising(
        self, fold: int, pairs: int, moves: int
    ) -> list[tuple[Concept, tuple[Concept, ...]]]:
        """Return the concepts to vary next: the best ones of the best pairs, in turn.

        Beside each the concepts that are best for its pair.
        """
        own, cautious = self._cautious(fold)
        chosen = self._leaders(fold)[1]
        concepts: list[tuple[Concept, tuple[Concept, ...]]] = []
        for victim, target in _top_pairs(self._judge.discount(chosen), pairs):
            order = own[np.argsort(-cautious[:, victim, target], kind="stable")[:_PARTNERS]]
            kin = tuple(self._concepts[i] for i in order)
            concepts.extend((kin[i % _BEST_CONCEPTS], kin) for i in range(moves))
        return concepts

    def result(self, pairs: int) -> SearchResult:
        """Score each fold's choices on the other fold, and take the mean."""
        leaders = [self._leaders(fold)[0] for fold in range(FOLDS)]
        scores, errors = np.stack(self._scores), np.stack(self._errors)
        means, deviations = [], []
        for fold, best in enumerate(leaders):
            other = 1 - fold
            means.append(np.take_along_axis(scores[:, other], best, axis=0).mean(axis=0))
            deviations.append(np.take_along_axis(errors[:, other], best, axis=0).mean(axis=0))
        final = self._judge.combine(np.stack(means), np.stack(deviations)).cautious
        findings = tuple(
            ConceptFinding(
                victim,
                target,
                background(final, victim, target),
                tuple(
                    tuple(self._concepts[i] for i in best[:, victim, target]) for best in leaders
                ),
            )
            for victim, target in _top_pairs(final, pairs)
        )
        return SearchResult(final, findings, self._judge, len(self._concepts))


def _top_pairs(scores: FloatArray, count: int) -> list[tuple[int, int]]:
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    victims, targets = np.unravel_index(order, scores.shape)
    return list(zip(victims.tolist(), targets.tolist(), strict=True))
