"""Searches for the concept and the pair that the clean data does not support.

Random concepts first, then variations of those that do best for the most promising pairs. Concepts
are chosen on one half of the images and scored on the other, so that a score is no luck of the
choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda.concepts.concept import Concept, draw_concept, move_concept
from onnx_soda.concepts.probe import Probe
from onnx_soda.concepts.score import FloatArray, pair_scores

__all__ = ["Budget", "ConceptFinding", "SearchResult", "half_membership", "search"]

# Concepts that a pair's score is the mean over: one alone may be luck.
_BEST_CONCEPTS = 5


@dataclass(frozen=True)
class Budget:
    """How many concepts are tried.

    Attributes:
        draws: Concepts drawn at random.
        rounds: Rounds of refinement.
        pairs: Pairs refined per round.
        moves: Variations per pair and round.
    """

    draws: int = 150
    rounds: int = 3
    pairs: int = 6
    moves: int = 8

    @property
    def probes(self) -> int:
        """Concepts tried in all."""
        return self.draws + self.rounds * self.pairs * self.moves


@dataclass(frozen=True)
class ConceptFinding:
    """A pair, with the concept that shows it best.

    Attributes:
        victim_class: Source class.
        target_class: Class it is turned into.
        score: Mean score of the pair's best concepts, on images that did not choose them.
        concept: The best concept.
        turned: Mean probability of the target under it, in the original head.
        supported: The same in the reference head that gives most.
    """

    victim_class: int
    target_class: int
    score: float
    concept: Concept
    turned: float
    supported: float


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found.

    Attributes:
        scores: Score of every pair, shape (classes, classes): victim, target.
        findings: The pairs with the highest scores, highest first.
    """

    scores: FloatArray
    findings: tuple[ConceptFinding, ...]


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
    rng: np.random.Generator,
    budget: Budget | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """Search for concepts under which one class turns into another without support.

    Args:
        probe: The classifier, with images grouped by `half_membership`.
        rng: Source of randomness; the same state gives the same result.
        budget: How many concepts to try.
        advance: Called with the number of concepts tried and the number in all.
    """
    budget = budget or Budget()
    trials = _Trials(probe, budget.probes, advance)
    for _ in range(budget.draws):
        trials.add(draw_concept(rng, probe.shape[0]))
    for _ in range(budget.rounds):
        for concept in trials.promising(budget.pairs, budget.moves):
            trials.add(move_concept(concept, rng))
    return trials.result(budget.pairs)


class _Trials:
    """Concepts tried, with their flows and scores on both halves."""

    def __init__(
        self, probe: Probe, total: int, advance: Callable[[int, int], None] | None
    ) -> None:
        self._probe = probe
        self._total = total
        self._advance = advance
        self._concepts: list[Concept] = []
        self._flows: list[FloatArray] = []
        self._scores: list[FloatArray] = []

    def add(self, concept: Concept) -> None:
        """Try a concept."""
        flows = self._probe.flows(concept)
        halves = np.split(flows, 2, axis=1)
        self._concepts.append(concept)
        self._flows.append(halves[1])
        self._scores.append(np.stack([pair_scores(half) for half in halves]))
        if self._advance:
            self._advance(len(self._concepts), self._total)

    def _best(self) -> tuple[FloatArray, NDArray[np.intp], FloatArray]:
        """Return the scores, each pair's best concepts by the choosing half, their mean there."""
        scores = np.stack(self._scores)
        best = np.argsort(-scores[:, 0], axis=0, kind="stable")[:_BEST_CONCEPTS]
        return scores, best, np.take_along_axis(scores[:, 0], best, axis=0).mean(axis=0)

    def promising(self, pairs: int, moves: int) -> list[Concept]:
        """Return the concepts to vary next: the best ones of the best pairs, in turn."""
        _, best, chosen = self._best()
        concepts: list[Concept] = []
        for victim, target in _top_pairs(chosen, pairs):
            leaders = best[:, victim, target]
            concepts.extend(self._concepts[leaders[i % len(leaders)]] for i in range(moves))
        return concepts

    def result(self, pairs: int) -> SearchResult:
        """Score the pairs on the half that chose nothing."""
        scores, best, _ = self._best()
        final = np.take_along_axis(scores[:, 1], best, axis=0).mean(axis=0)
        findings = []
        for victim, target in _top_pairs(final, pairs):
            leader = int(best[0, victim, target])
            flows = self._flows[leader][:, victim, target]
            findings.append(
                ConceptFinding(
                    victim,
                    target,
                    float(final[victim, target]),
                    self._concepts[leader],
                    float(flows[0]),
                    float(flows[1:].max()),
                )
            )
        return SearchResult(final, tuple(findings))


def _top_pairs(scores: FloatArray, count: int) -> list[tuple[int, int]]:
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    victims, targets = np.unravel_index(order, scores.shape)
    return list(zip(victims.tolist(), targets.tolist(), strict=True))
