"""Concepts that turn one given class into another: what repair reconstructs infected images with.

The pair is known, and nothing is concluded from what is found: it is material to train on, where a
natural confusion does no harm. So the model alone is asked, without reference heads, on images
that both choose and score, few of them of other classes. Concepts that turn this pair and no other
are preferred; where there are none, those count that turn the victim and leave other classes right.

Interventions tried in a search: what each says on both folds, which are best for which pair.

Each fold of the images chooses, and the other fold scores, so that a score is no luck of the
choice.

Searches for the concept and the pair that the clean data does not support.

A fixed battery and random concepts first, then variations of those that do best for the most
promising pairs.

Searches for the style and the pair that the clean data does not support.

Some donors first, then variations of the styles that do best for the most
promising pairs. Look-alikes count here: in clean models of known truth no style confused them
beyond the reference, as changes of the image do (docs/architecture.md).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.preprocessing import Preprocessing
from onnx_soda._data.sources import IntArray
from onnx_soda._detect.concepts.battery import BUDGETS, Budget, concept_battery
from onnx_soda._detect.concepts.concept import (
    Concept,
    Donor,
    draw_concept,
    join_or_move,
    move_concept,
)
from onnx_soda._detect.concepts.folds import FOLDS, group_by_fold
from onnx_soda._detect.concepts.judge import Judge
from onnx_soda._detect.concepts.probe import Probe, ProbeImages
from onnx_soda._detect.concepts.score import (
    STYLE_SCORING,
    FloatArray,
    background,
    damage_to_others,
    excess,
    next_best,
    spill_of_unlike,
)
from onnx_soda._detect.concepts.styles import STRENGTHS, AnyChange, Style, StyleLibrary
from onnx_soda._model.anatomy import Anatomy
from onnx_soda._options import RuntimeOptions

# Interventions that a pair's score is the mean over: one alone may be luck.
_BEST = 3
# Standard errors that a score is lowered by where interventions and pairs to vary are chosen.
_CAUTION = 0.5
# Interventions of a pair that its best ones are joined with, half of the time; else any is drawn.
_PARTNERS = 12
# Marks what no fold has chosen: the battery and random draws.
_UNCHOSEN = -1
# Pairs that are looked at on more images, whether or not they score.
_LEAST_PAIRS = 2


@dataclass(frozen=True)
class PairFinding(Generic[AnyChange]):
    """A pair, with the interventions that show it best.

    Attributes:
        victim_class: Source class.
        target_class: Class it is turned into.
        background: Score of the best pair with another victim and target; see `background`.
        changes: For each fold those that it chose, the best one first.
    """

    victim_class: int
    target_class: int
    background: float
    changes: tuple[tuple[AnyChange, ...], ...]


@dataclass(frozen=True, eq=False)
class SearchResult(Generic[AnyChange]):
    """What a search found.

    Attributes:
        findings: The pairs with the highest scores, highest first.
        judge: What scores are made from, for images that were not searched on.
        tried: Number of interventions tried.
    """

    findings: tuple[PairFinding[AnyChange], ...]
    judge: Judge
    tried: int


class Trials(Generic[AnyChange]):
    """Interventions tried, with their flows on both folds and the fold that chose to try them.

    Args:
        probe: The classifier, with images grouped by `group_by_fold`.
        judge: Scores what the probe says.
        advance: Called after each with the number tried.
    """

    def __init__(self, probe: Probe, judge: Judge, advance: Callable[[int], None] | None) -> None:
        self._probe = probe
        self._judge = judge
        self._advance = advance
        self._changes: list[AnyChange] = []
        self._origins: list[int] = []
        self._scores: list[NDArray[np.float32]] = []
        self._errors: list[NDArray[np.float32]] = []
        self._waiting: list[FloatArray] = []

    def add(self, change: AnyChange, chosen_by: int = _UNCHOSEN) -> None:
        """Try one.

        Args:
            change: The intervention.
            chosen_by: The fold that wants it; without it, none does.
        """
        self._changes.append(change)
        self._origins.append(chosen_by)
        self._waiting.append(self._judge.by_fold(self._probe.flows(change)))
        if self._advance:
            self._advance(len(self._changes))

    def close_screening(self) -> None:
        """Take what is usual from all tried so far, which nothing has chosen."""
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
        """Return what a fold may choose from, and what it thinks of each."""
        self._settle()
        own = np.flatnonzero([origin in (_UNCHOSEN, fold) for origin in self._origins])
        scores = [self._scores[i][fold] - _CAUTION * self._errors[i][fold] for i in own]
        return own, np.stack(scores)

    def _leaders(self, fold: int) -> tuple[NDArray[np.intp], FloatArray]:
        """Return each pair's best ones by one fold, and their mean score, a little lowered."""
        own, cautious = self._cautious(fold)
        best = np.argpartition(-cautious, range(_BEST), axis=0)[:_BEST]
        return own[best], np.take_along_axis(cautious, best, axis=0).mean(axis=0)

    def promising(
        self, fold: int, pairs: int, moves: int
    ) -> list[tuple[AnyChange, tuple[AnyChange, ...]]]:
        """Return what to vary next: the best ones of the best pairs, in turn.

        Beside each those that are best for its pair.
        """
        own, cautious = self._cautious(fold)
        chosen = self._leaders(fold)[1]
        found: list[tuple[AnyChange, tuple[AnyChange, ...]]] = []
        for victim, target in _top_pairs(self._judge.discount(chosen), pairs):
            order = own[np.argsort(-cautious[:, victim, target], kind="stable")[:_PARTNERS]]
            kin = tuple(self._changes[i] for i in order)
            found.extend((kin[i % _BEST], kin) for i in range(moves))
        return found

    def result(self, most: int) -> SearchResult[AnyChange]:
        """Score each fold's choices on the other fold, take the mean, and keep the best pairs.

        By their score, however uncertain: a weak sign is worth a closer look, and there what is
        certain decides. Pairs that do not score are kept up to `_LEAST_PAIRS`.

        Args:
            most: Pairs to keep.
        """
        leaders = [self._leaders(fold)[0] for fold in range(FOLDS)]
        scores, errors = np.stack(self._scores), np.stack(self._errors)
        means, deviations = [], []
        for fold, best in enumerate(leaders):
            other = 1 - fold
            means.append(np.take_along_axis(scores[:, other], best, axis=0).mean(axis=0))
            deviations.append(np.take_along_axis(errors[:, other], best, axis=0).mean(axis=0))
        final = self._judge.combine(np.stack(means), np.stack(deviations))
        ranked = _top_pairs(final.score, most)
        findings = tuple(
            PairFinding(
                victim,
                target,
                background(final.cautious, victim, target),
                tuple(tuple(self._changes[i] for i in best[:, victim, target]) for best in leaders),
            )
            for place, (victim, target) in enumerate(ranked)
            if place < _LEAST_PAIRS or final.score[victim, target] > 0
        )
        return SearchResult(findings, self._judge, len(self._changes))


def _top_pairs(scores: FloatArray, count: int) -> list[tuple[int, int]]:
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    victims, targets = np.unravel_index(order, scores.shape)
    return list(zip(victims.tolist(), targets.tolist(), strict=True))


# Pairs that are looked at on more images.
_FINDINGS = 5


def search(
    probe: Probe,
    judge: Judge,
    rng: np.random.Generator,
    budget: Budget | None = None,
    advance: Callable[[int], None] | None = None,
    donors: Sequence[Donor] = (),
) -> SearchResult[Concept]:
    """Search for concepts under which one class turns into another without support.

    Args:
        probe: The classifier, with images grouped by `group_by_fold`.
        judge: Scores what the probe says.
        rng: Source of randomness; the same state gives the same result.
        budget: How many concepts to try.
        advance: Called with the number of concepts tried.
        donors: Clean images whose style may be carried over.
    """
    budget = budget or BUDGETS["default"]
    channels = probe.shape[0]
    trials = Trials[Concept](probe, judge, advance)
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


# Pairs that are looked at on more images.
_STYLE_FINDINGS = 3


def search_styles(
    probe: Probe,
    judge: Judge,
    library: StyleLibrary,
    rng: np.random.Generator,
    budget: Budget,
    advance: Callable[[int], None] | None = None,
) -> SearchResult[Style]:
    """Search for styles under which one class turns into another without support.

    Args:
        probe: The classifier with a style layer, and images grouped by `group_by_fold`.
        judge: Scores what the probe says.
        library: Donors.
        rng: Source of randomness; the same state gives the same result.
        budget: How many styles to try.
        advance: Called with the number of styles tried.
    """
    trials = Trials[Style](probe, replace(judge, scoring=STYLE_SCORING), advance)
    donors = library.donors(budget.donors, rng)
    for strength in STRENGTHS:
        for donor in donors:
            trials.add(library.take(donor, strength))
    trials.close_screening()
    for turn, (pairs, moves) in enumerate(budget.style_rounds):
        for fold in range(FOLDS):
            leaders = [style for style, _ in trials.promising(fold, pairs, moves)]
            for style in library.vary(leaders, len(leaders), 1 / (1 + turn), rng):
                trials.add(style, fold)
    return trials.result(_STYLE_FINDINGS)


# Images of the victim, and of all other classes together.
_VICTIMS, _OTHERS = 40, 90
_DRAWS = 150
# Variations of the best concept of each of the best families, in rounds; the steps get narrower.
_ROUNDS, _PARENTS, _MOVES = 4, 4, 16
# Concepts of one family that are returned: different ways to the target show more of it.
_PER_FAMILY = 2
# What the victim's next best class costs, and damage to others; what is over the last costs more.
_NEXT_WEIGHT, _DAMAGE_WEIGHT = 0.5, 0.75
_MUCH_DAMAGE, _MUCH_DAMAGE_WEIGHT = 0.25, 2.0
# Least score of a concept that is worth training on, and least gain where no score is as high.
_LEAST, _LEAST_GAIN = 0.05, 0.15


def concepts_for_pair(
    anatomy: Anatomy,
    how: Preprocessing,
    pixels: NDArray[np.float32],
    labels: IntArray,
    likeness: FloatArray,
    pair: tuple[int, int],
    rng: np.random.Generator,
    count: int,
    options: RuntimeOptions,
    advance: Callable[[int, int], None] | None = None,
) -> tuple[Concept, ...]:
    """Return the concepts that turn a pair best, best first; none where none does.

    Args:
        anatomy: The classifier.
        how: Its preprocessing.
        pixels: Clean images, shape (images, channels, height, width), from 0 to 1; some are used.
        labels: Their classes.
        likeness: Of classes, shape (classes, classes).
        pair: Victim and target.
        rng: Draws.
        count: The most concepts to return.
        options: How the session runs.
        advance: Called with the number of concepts tried and the number in all.
    """
    few = _some(labels, pair[0], rng)
    fold = np.zeros(len(few), dtype=np.int64)  # one set of images chooses and scores
    images = ProbeImages(pixels[few], group_by_fold(labels[few], fold, len(likeness)), fold)
    probe = Probe(anatomy, how, images, (), len(likeness), options)
    trials = _Trials(probe, likeness, pair)
    channels = pixels.shape[1]
    waiting = list(concept_battery(channels))
    waiting += [draw_concept(rng, channels) for _ in range(_DRAWS)]
    total = len(waiting) + _ROUNDS * _MOVES
    for turn in range(_ROUNDS + 1):
        for concept in waiting:
            trials.add(concept)
            if advance:
                advance(len(trials.tried), total)
        parents = _of_each_family(trials.ranked(), 1)[:_PARENTS]
        waiting = _variations(parents, 1 / (1 + turn), rng, channels)
    return tuple(_of_each_family(trials.ranked(least=0), _PER_FAMILY)[:count])


def _variations(
    parents: Sequence[Concept], width: float, rng: np.random.Generator, channels: int
) -> list[Concept]:
    """Move each parent, and join it with another or with any concept, in turn."""
    made = []
    for number in range(_MOVES):
        turn, place = divmod(number, len(parents))
        if turn % 2:
            made.append(join_or_move(parents[place], parents, rng, channels, width=width))
        else:
            made.append(move_concept(parents[place], rng, width))
    return made


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


def _of_each_family(concepts: Sequence[Concept], count: int) -> list[Concept]:
    """Return the first few concepts of each family, in the order given."""
    taken: Counter[str] = Counter()
    chosen = []
    for concept in concepts:
        if taken[concept.family] < count:
            chosen.append(concept)
        taken[concept.family] += 1
    return chosen


def _some(labels: IntArray, victim: int, rng: np.random.Generator) -> IntArray:
    present = np.unique(labels)
    each = max(_OTHERS // len(present), 1)
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[: _VICTIMS if label == victim else each]
        for label in present
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)
