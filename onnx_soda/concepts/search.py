"""Searches for the concept and the pair that the clean data does not support.

A fixed battery and random concepts first, then variations of those that do best for the most
promising pairs. Concepts
are chosen on one half of the images and scored on the other, so that a score is no luck of the
choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda.concepts.battery import concept_battery
from onnx_soda.concepts.concept import Concept, Donor, draw_concept, move_concept
from onnx_soda.concepts.probe import Probe
from onnx_soda.concepts.score import FloatArray, background, discount, pair_scores, usual_robustness
from onnx_soda.options import BudgetName

__all__ = ["BUDGETS", "Budget", "ConceptFinding", "SearchResult", "half_membership", "search"]

# Concepts that a pair's score is the mean over: one alone may be luck.
_BEST_CONCEPTS = 5
_CHOOSING, _SCORING = 0, 1


@dataclass(frozen=True)
class Budget:
    """How many concepts are tried, besides the battery.

    Attributes:
        draws: Concepts drawn at random.
        rounds: Rounds of refinement.
        pairs: Pairs refined per round.
        moves: Variations per pair and round.
    """

    draws: int = 100
    rounds: int = 3
    pairs: int = 6
    moves: int = 8

    def probes(self, channels: int) -> int:
        """Return the number of concepts tried in all."""
        battery = len(concept_battery(channels))
        return battery + self.draws + self.rounds * self.pairs * self.moves


BUDGETS: Mapping[BudgetName, Budget] = {
    "quick": Budget(draws=0, rounds=1),
    "default": Budget(),
    "thorough": Budget(draws=600, rounds=8, moves=12),
}


@dataclass(frozen=True)
class ConceptFinding:
    """A pair, with the concept that shows it best.

    Attributes:
        victim_class: Source class.
        target_class: Class it is turned into.
        score: Mean score of the pair's best concepts, on images that did not choose them, less
            the background.
        background: Score of the best pair with another victim and target; see `background`.
        concepts: Its best concepts, the best one first.
    """

    victim_class: int
    target_class: int
    score: float
    background: float
    concepts: tuple[Concept, ...]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found.

    Attributes:
        scores: Score of every pair, background included, shape (classes, classes): victim, target.
        findings: The pairs with the highest scores, highest first.
        robustness: How robust classes usually are, on the scoring half; see `usual_robustness`.
        tried: Number of concepts tried.
    """

    scores: FloatArray
    findings: tuple[ConceptFinding, ...]
    robustness: FloatArray
    tried: int


def half_membership(labels: NDArray[np.integer], classes: int) -> NDArray[np.float32]:
    """Split the images of each class into two halves, for `ProbeImages`.

    Returns:
        Shape (images, 2 classes): first the choosing halves of all classes, then the scoring ones.
    """
    membership = np.zeros((len(labels), 2 * classes), dtype=np.float32)
    for label in range(classes):
        own = np.flatnonzero(labels == label)
        for half in (0, 1):
            part = own[half::2]
            membership[part, half * classes + label] = 1 / max(len(part), 1)
    return membership


def search(
    probe: Probe,
    likeness: FloatArray,
    rng: np.random.Generator,
    budget: Budget | None = None,
    advance: Callable[[int, int], None] | None = None,
    donors: Sequence[Donor] = (),
) -> SearchResult:
    """Search for concepts under which one class turns into another without support.

    Args:
        probe: The classifier, with images grouped by `half_membership`.
        likeness: How alike classes are, from `class_likeness`.
        rng: Source of randomness; the same state gives the same result.
        budget: How many concepts to try.
        advance: Called with the number of concepts tried and the number in all.
        donors: Clean images whose style may be carried over.
    """
    budget = budget or Budget()
    channels = probe.shape[0]
    trials = _Trials(probe, likeness, budget.probes(channels), advance)
    for concept in concept_battery(channels):
        trials.add(concept)
    for _ in range(budget.draws):
        trials.add(draw_concept(rng, channels, donors))
    for _ in range(budget.rounds):
        for concept in trials.promising(budget.pairs, budget.moves):
            trials.add(move_concept(concept, rng))
    return trials.result(budget.pairs)


class _Trials:
    """Concepts tried, with their flows on both halves."""

    def __init__(
        self,
        probe: Probe,
        likeness: FloatArray,
        total: int,
        advance: Callable[[int, int], None] | None,
    ) -> None:
        self._probe = probe
        self._likeness = likeness
        self._total = total
        self._advance = advance
        self._unchanged = np.split(probe.flows(None), 2, axis=1)
        self._concepts: list[Concept] = []
        self._flows: list[NDArray[np.float32]] = []

    def add(self, concept: Concept) -> None:
        """Try a concept."""
        halves = np.split(self._probe.flows(concept).astype(np.float32), 2, axis=1)
        self._concepts.append(concept)
        self._flows.append(np.stack(halves))
        if self._advance:
            self._advance(len(self._concepts), self._total)

    def _scores(self, half: int) -> tuple[FloatArray, FloatArray]:
        flows = np.stack([both[half] for both in self._flows])
        robustness = usual_robustness(flows)
        scores = pair_scores(flows, self._unchanged[half], self._likeness, robustness)
        return scores, robustness

    def _best(self) -> tuple[NDArray[np.intp], FloatArray]:
        """Return each pair's best concepts by the choosing half, and their mean score there."""
        scores, _ = self._scores(_CHOOSING)
        best = np.argpartition(-scores, range(_BEST_CONCEPTS), axis=0)[:_BEST_CONCEPTS]
        return best, np.take_along_axis(scores, best, axis=0).mean(axis=0)

    def promising(self, pairs: int, moves: int) -> list[Concept]:
        """Return the concepts to vary next: the best ones of the best pairs, in turn."""
        best, chosen = self._best()
        concepts: list[Concept] = []
        for victim, target in _top_pairs(discount(chosen, self._likeness), pairs):
            leaders = best[:, victim, target]
            concepts.extend(self._concepts[leaders[i % len(leaders)]] for i in range(moves))
        return concepts

    def result(self, pairs: int) -> SearchResult:
        """Score the pairs on the half that chose nothing."""
        best, _ = self._best()
        scores, robustness = self._scores(_SCORING)
        final = discount(np.take_along_axis(scores, best, axis=0).mean(axis=0), self._likeness)
        findings = []
        for victim, target in _top_pairs(final, pairs):
            concepts = tuple(self._concepts[leader] for leader in best[:, victim, target])
            usual = background(final, victim, target)
            score = float(final[victim, target]) - usual
            findings.append(ConceptFinding(victim, target, score, usual, concepts))
        return SearchResult(final, tuple(findings), robustness, len(self._concepts))


def _top_pairs(scores: FloatArray, count: int) -> list[tuple[int, int]]:
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    victims, targets = np.unravel_index(order, scores.shape)
    return list(zip(victims.tolist(), targets.tolist(), strict=True))
