"""Concepts that turn one given class into another: what repair reconstructs infected images with.

For a pair that no scan found: nothing is concluded from what is found here, it is material to train
on, where a natural confusion does no harm. So the model alone is asked, without reference heads, on
images that both choose and score, few of them of other classes. Concepts that turn this pair and no
other are preferred; where there are none, those count that turn the victim and leave other classes
right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.sources import IntArray
from onnx_soda._detect.concepts.battery import concept_battery
from onnx_soda._detect.concepts.concept import (
    Concept,
    ConceptVariations,
    draw_concept,
    of_each_family,
)
from onnx_soda._detect.concepts.folds import group_by_fold
from onnx_soda._detect.concepts.probe import Probe, ProbeImages
from onnx_soda._detect.concepts.score import (
    FloatArray,
    damage_to_others,
    excess,
    next_best,
    spill_of_unlike,
)
from onnx_soda._detect.concepts.search import MOST_KEPT, PER_FAMILY
from onnx_soda._suspect import Suspect

# Images of the victim, and of all other classes together.
_VICTIMS, _OTHERS = 40, 90
_DRAWS = 150
# Variations of the best concept of each of the best families, in rounds; the steps get narrower.
_ROUNDS, _PARENTS, _MOVES = 4, 4, 16
# What the victim's next best class costs, and damage to others; what is over the last costs more.
_NEXT_WEIGHT, _DAMAGE_WEIGHT = 0.5, 0.75
_MUCH_DAMAGE, _MUCH_DAMAGE_WEIGHT = 0.25, 2.0
# Least score of a concept that is worth training on, and least gain where no score is as high.
_LEAST, _LEAST_GAIN = 0.05, 0.15


def concepts_for_pair(
    suspect: Suspect,
    pixels: NDArray[np.float32],
    labels: IntArray,
    likeness: FloatArray,
    pair: tuple[int, int],
    rng: np.random.Generator,
    advance: Callable[[int, int], None] | None = None,
) -> tuple[Concept, ...]:
    """Return the concepts that turn a pair best, best first; none where none does.

    Args:
        suspect: The classifier.
        pixels: Clean images, shape (images, channels, height, width), from 0 to 1; some are used.
        labels: Their classes.
        likeness: Of classes, shape (classes, classes).
        pair: Victim and target.
        rng: Draws.
        advance: Called with the number of concepts tried and the number in all.
    """
    few = _some(labels, pair[0], rng)
    fold = np.zeros(len(few), dtype=np.int64)  # one set of images chooses and scores
    images = ProbeImages(pixels[few], group_by_fold(labels[few], fold, len(likeness)), fold)
    probe = Probe(suspect, images, (), len(likeness))
    trials = _Trials(probe, likeness, pair)
    channels = pixels.shape[1]
    waiting = list(concept_battery(channels))
    waiting += [draw_concept(rng, channels) for _ in range(_DRAWS)]
    total = len(waiting) + _ROUNDS * _MOVES
    variations = ConceptVariations(channels)
    for turn in range(_ROUNDS + 1):
        for concept in waiting:
            trials.add(concept)
            if advance:
                advance(len(trials.tried), total)
        parents = of_each_family(trials.ranked(), 1)[:_PARENTS]
        waiting = [
            # Each parent is moved, and joined with another or with any concept, in turn.
            variations.vary(
                parents[number % len(parents)],
                parents,
                (number // len(parents)) % 2 == 1,
                1 / (1 + turn),
                rng,
            )
            for number in range(_MOVES)
        ]
    return tuple(of_each_family(trials.ranked(least=0), PER_FAMILY)[:MOST_KEPT])


@dataclass(frozen=True, eq=False)
class _Tried:
    """A concept, its score for the pair, and its gain.

    The gain is how much more of the victim it turns into the target than go there anyway, less the
    damage to other classes.
    """

    concept: Concept
    score: float
    gain: float


class _Trials:
    """Concepts tried on some images."""

    def __init__(self, probe: Probe, likeness: FloatArray, pair: tuple[int, int]) -> None:
        self.tried: list[_Tried] = []
        self._probe, self._likeness, self._pair = probe, likeness, pair
        self._unchanged = self._flows(None)

    def _flows(self, concept: Concept | None) -> FloatArray:
        return self._probe.flows(concept)[:, : len(self._likeness)]

    def add(self, concept: Concept) -> None:
        """Try a concept."""
        flows = self._flows(concept)[None]
        damage = float(damage_to_others(flows, self._unchanged)[0, self._pair[0]])
        turned = float(flows[0, 0][self._pair])
        score = turned - self._unspecific(flows) - _cost(damage)
        gain = turned - float(self._unchanged[0][self._pair]) - damage
        self.tried.append(_Tried(concept, score, gain))

    def _unspecific(self, flows: FloatArray) -> float:
        """Return what is not of this pair alone: see `score`, without a reference."""
        sent = excess(flows, np.zeros(0))
        others = spill_of_unlike(sent, self._likeness) + _NEXT_WEIGHT * next_best(sent)
        return float(others[0][self._pair] + self._unchanged[0][self._pair])

    def ranked(self, least: float = -math.inf) -> list[Concept]:
        """Return the concepts, best first: by their scores, or by their gains if no score will do.

        Args:
            least: What a concept must have beyond the least that is worth training on.
        """
        specific = max(one.score for one in self.tried) > _LEAST
        worth = [one.score - _LEAST if specific else one.gain - _LEAST_GAIN for one in self.tried]
        order = np.argsort(-np.array(worth), kind="stable")
        return [self.tried[place].concept for place in order if worth[place] > least]


def _cost(damage: float) -> float:
    return _DAMAGE_WEIGHT * damage + _MUCH_DAMAGE_WEIGHT * max(damage - _MUCH_DAMAGE, 0)


def _some(labels: IntArray, victim: int, rng: np.random.Generator) -> IntArray:
    present = np.unique(labels)
    each = max(_OTHERS // len(present), 1)
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[: _VICTIMS if label == victim else each]
        for label in present
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)
