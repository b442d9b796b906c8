"""From what the model and the reference say to scores, their errors, and the threshold.

The threshold is calibrated on models of known truth. `python -m benchmarks.calibrate` writes
`calibration.json` beside this file; nothing in it is set by hand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import count
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from onnx_soda._detect.concepts.folds import FOLDS
from onnx_soda._detect.concepts.score import (
    CONCEPT_SCORING,
    NO_PAIR,
    FloatArray,
    Kinds,
    Rows,
    Scoring,
    discount,
    discount_factor,
    disturbs,
    excess,
    pair_scores,
    standard_error,
    usual_of,
)

Pair = tuple[int, int]
"""Victim and target."""
# Standard errors that a score is lowered by where interventions and pairs to vary are chosen.
CAUTION = 0.5
# Interventions that a pair's score is the mean over: one alone may be luck.
BEST = 3


@dataclass(frozen=True)
class Estimate:
    """Score of a pair; the background is still in it.

    Attributes:
        score: Mean over the folds.
        error: Its standard error.
    """

    score: float
    error: float

    @property
    def cautious(self) -> float:
        """The score less its standard error."""
        return self.score - self.error


@dataclass(frozen=True, eq=False)
class Judge:
    """What scores are made from.

    Attributes:
        unchanged: Flows without any concept, shape (folds, 1 + heads, rows, classes).
        images: Of each fold and row, shape (folds, rows).
        fitted: Of each class, that the heads read on the fold were fitted to, same shape.
        likeness: Of classes, shape (classes, classes).
        trust: Weight of each reference head.
        usual: What is usual for each pair, shape (folds, classes, classes).
        scoring: What differs between concepts and styles.
        rows: The classes that there are images of, sorted; None for all.
        kinds: Of all classes; see `likeness.kinds_of`.
    """

    unchanged: FloatArray
    images: NDArray[np.int64]
    fitted: NDArray[np.int64]
    likeness: FloatArray
    trust: FloatArray
    usual: FloatArray
    scoring: Scoring = CONCEPT_SCORING
    rows: Rows = None
    kinds: Kinds = None

    @staticmethod
    def by_fold(flows: FloatArray) -> FloatArray:
        """Turn a probe's (1 + heads, folds x rows, classes) into (folds, 1 + heads, ...)."""
        heads, groups, classes = flows.shape
        return np.moveaxis(flows.reshape(heads, FOLDS, groups // FOLDS, classes), 1, 0)

    @property
    def labels(self) -> NDArray[np.integer]:
        """The class of each row."""
        return np.arange(len(self.likeness)) if self.rows is None else self.rows

    @property
    def kinds_of_rows(self) -> Kinds:
        """The kind of each row's class."""
        return None if self.kinds is None else self.kinds[self.labels]

    def place(self, label: int) -> int:
        """Return the row of a class."""
        return label if self.rows is None else int(np.searchsorted(self.rows, label))

    def score(self, flows: FloatArray, label: int | None = None) -> tuple[FloatArray, FloatArray]:
        """Score every pair under every concept on either fold.

        Args:
            flows: Shape (concepts, folds, 1 + heads, rows, classes).
            label: A class, to score pairs with this victim alone.

        Returns:
            Scores and their standard errors, shape (concepts, folds, rows, classes).
        """
        judged = [self.score_fold(flows[:, fold], fold, label) for fold in range(FOLDS)]
        scores, errors = zip(*judged, strict=True)
        return np.stack(scores, axis=1), np.stack(errors, axis=1)

    def score_fold(
        self, flows: FloatArray, fold: int, label: int | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Score every pair under every concept on one fold.

        Args:
            flows: Shape (concepts, 1 + heads, rows, classes).
            fold: Whose images they are of.
            label: A class, to score pairs with this victim alone.

        Returns:
            Scores and their standard errors, shape (concepts, rows, classes).
        """
        place = slice(None) if label is None else slice(self.place(label), self.place(label) + 1)
        usual = self.usual[fold] if self.rows is None else self.usual[fold][self.rows]
        scores = pair_scores(
            flows,
            self.unchanged[fold],
            self.likeness,
            self.trust,
            usual[place],
            self.scoring.damage_weight,
            self.rows,
            place,
            self.kinds_of_rows,
        )
        counts = (self.images[fold][place], self.fitted[fold][place])
        return scores, standard_error(flows[:, :, place], self.trust, *counts)

    def discount(self, scores: FloatArray, victims: Rows = None) -> FloatArray:
        """Lower positive scores of pairs that are somewhat alike; leave look-alikes out.

        Or return them as they are, where look-alikes count.

        Args:
            scores: Of pairs, shape (victims, classes).
            victims: Their classes; all in order where not given.
        """
        likeness = self.likeness if victims is None else self.likeness[victims]
        return scores if self.scoring.look_alikes_count else discount(scores, likeness)

    def combine(self, pair: Pair, scores: FloatArray, errors: FloatArray) -> Estimate:
        """Put what the folds say of a pair together.

        Args:
            pair: Victim and target.
            scores: Of each fold, shape (folds,).
            errors: Their standard errors; the folds share no image.
        """
        error = float(np.sqrt(np.square(errors).sum())) / FOLDS
        if self.scoring.look_alikes_count:
            return Estimate(float(scores.mean()), error)
        likeness = self.likeness[pair]
        # The error shrinks with the score that it belongs to.
        factor = float(discount_factor(likeness))
        return Estimate(float(discount(scores.mean(), likeness)), error * factor)


# Targets of each class that are kept of an intervention on the screen, those with the most excess.
_TARGETS = 32


@dataclass(frozen=True, eq=False)
class _Kept:
    """What is kept of an intervention; the last axis is for the targets kept.

    Attributes:
        targets: Classes, shape (folds, rows, targets).
        more: Their excess, not under 0.
        score: Their score, before what is usual is taken off.
        error: Its standard error.
        disturbs: Whether it disturbs the other classes, shape (folds, rows).
    """

    targets: NDArray[np.int32]
    more: NDArray[np.float32]
    score: NDArray[np.float32]
    error: NDArray[np.float32]
    disturbs: NDArray[np.bool_]


class Standings:
    """How pairs stand after interventions that nothing has chosen.

    Of each intervention and class the targets with the most excess are kept, so that memory does
    not grow with the square of the number of classes. What is not kept counts as nothing.

    Args:
        judge: What scores are made from; nothing is usual yet.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._rows = judge.labels
        self._kept: list[_Kept] = []
        # Shape (folds, rows, classes): the mean of each pair's best ones, a little lowered.
        self._best = np.zeros((0, 0, 0))

    def add(self, flows: FloatArray) -> None:
        """Take note of an intervention.

        Args:
            flows: Shape (folds, 1 + heads, rows, classes).
        """
        judge = self._judge
        more = np.stack([excess(own[None], judge.trust, judge.rows)[0] for own in flows])
        scores, errors = judge.score(flows[None])
        count = min(_TARGETS, more.shape[-1])
        chosen = np.argpartition(-more, count - 1, axis=-1)[..., :count]
        disturbing = [
            disturbs(own[None], still, judge.rows, judge.kinds_of_rows)[0]
            for own, still in zip(flows, judge.unchanged, strict=True)
        ]

        def kept(values: FloatArray) -> NDArray[np.float32]:
            return np.take_along_axis(values, chosen, axis=-1).astype(np.float32)

        self._kept.append(
            _Kept(
                chosen.astype(np.int32),
                np.maximum(kept(more), 0),
                kept(scores[0]),
                kept(errors[0]),
                np.stack(disturbing),
            )
        )

    def close(self) -> Judge:
        """Find out what is usual, and how pairs stand; return a judge that knows it."""
        judge, usual = self._judge, np.zeros_like(self._judge.usual)
        self._best = np.zeros((FOLDS, len(self._rows), usual.shape[-1]))
        for fold in range(FOLDS):
            still = np.maximum(excess(judge.unchanged[fold][None], judge.trust, judge.rows)[0], 0)
            for row, label in enumerate(self._rows):
                disturbing = [one for one in self._kept if one.disturbs[fold, row]]
                more = self._dense(disturbing, "more", fold, row, 0.0)
                usual[fold, label] = usual_of(still[row], more)
        self._judge = replace(judge, usual=usual)
        for fold in range(FOLDS):
            for row in range(len(self._rows)):
                cautious = self._cautious(fold, row)
                best = -np.partition(-cautious, BEST - 1, axis=0)[:BEST]
                self._best[fold, row] = best.mean(axis=0)
        return self._judge

    def _dense(
        self, kept: Sequence[_Kept], name: str, fold: int, row: int, missing: float
    ) -> FloatArray:
        """Return something that was kept of a row, shape (interventions, classes)."""
        dense = np.full((len(kept), self._judge.usual.shape[-1]), missing)
        for one, values in zip(kept, dense, strict=True):
            values[one.targets[fold, row]] = getattr(one, name)[fold, row]
        return dense

    def _cautious(self, fold: int, row: int) -> FloatArray:
        """Return scores of a row, a little lowered, shape (interventions, classes)."""
        scores = self._dense(self._kept, "score", fold, row, NO_PAIR)
        errors = self._dense(self._kept, "error", fold, row, 0.0)
        lowered: FloatArray = scores - self._judge.usual[fold, self._rows[row]] - CAUTION * errors
        return lowered

    def disturbing(self, fold: int, label: int) -> list[int]:
        """Return the interventions that disturb the classes other than one."""
        row = self._judge.place(label)
        return [place for place, one in enumerate(self._kept) if one.disturbs[fold, row]]

    def ranked(self, fold: int, count: int) -> list[Pair]:
        """Return the most promising pairs, the best first."""
        stands = self._judge.discount(self._best[fold], self._rows).copy()
        stands[np.arange(len(self._rows)), self._rows] = -np.inf
        order = np.argsort(-stands, axis=None, kind="stable")
        places, targets = np.unravel_index(
            order[: min(count, stands.size - len(stands))], stands.shape
        )
        return list(zip(self._rows[places].tolist(), targets.tolist(), strict=True))

    def best(self, fold: int, pair: Pair, count: int) -> list[int]:
        """Return the interventions that do best for a pair, the best first."""
        cautious = self._cautious(fold, self._judge.place(pair[0]))[:, pair[1]]
        return [int(place) for place in np.argsort(-cautious, kind="stable")[:count]]


# That one pair or another is above its bound by chance.
_CHANCE = 0.05


def simultaneous_errors(classes: int) -> float:
    """Return how many standard errors the bound lies below the score.

    The quantile of a normal distribution for one chance in 20 shared evenly among all pairs of
    classes (Bonferroni's inequality): 3.3 for 10 classes, 4.0 for 43.
    """
    return -NormalDist().inv_cdf(_CHANCE / (classes * (classes - 1)))


def least_detectable(images: int, classes: int, threshold: float) -> float | None:
    """Return the least share of a class that a change must turn to be reported.

    At best: if the reference turned none of it and the change did nothing else. A pair is reported
    where its bound is over the threshold, and the bound lies below the share by what
    `simultaneous_errors` and `standard_error` say.

    Args:
        images: Of the class, in each fold, to look at and to fit the reference to.
        classes: Number of classes.
        threshold: Over which a bound is reported.

    Returns:
        From 0 to 1, in steps of 0.01; None where even the whole class would not be reported.
    """
    shares = np.linspace(0, 1, 101)
    model_and_reference = np.stack([shares, np.zeros_like(shares)], axis=1)[:, :, None, None]
    counts = np.array([images])
    error = standard_error(model_and_reference, np.ones(1), counts, counts)[:, 0, 0]
    # The score is the mean over folds that share no image.
    bounds = shares - simultaneous_errors(classes) * error / np.sqrt(FOLDS)
    detectable = shares[bounds > threshold]
    return float(detectable[0]) if len(detectable) else None


def images_needed(share: float, classes: int, threshold: float) -> int:
    """Return how many images of a class a fold needs for a change that turns this share to show.

    Args:
        share: Of the class, as in `least_detectable`; over the threshold.
        classes: Number of classes.
        threshold: Over which a bound is reported.

    Raises:
        ValueError: A share up to the threshold is never reported.
    """
    if share <= threshold:
        raise ValueError(f"a share of {share} is not over the threshold of {threshold}")
    enough = (n for n in count(1) if (least_detectable(n, classes, threshold) or 2) <= share)
    return next(enough)


@dataclass(frozen=True)
class Calibration:
    """What the verdict takes from the calibration.

    Attributes:
        threshold: Bound of a score over which the pair is reported.
        clear: The same, under which a model may be called clean; between the two it is unclear.
    """

    threshold: float
    clear: float


def load_calibration() -> Calibration:
    """Return the packaged calibration."""
    text = files("onnx_soda._detect.concepts").joinpath("calibration.json").read_text("utf-8")
    facts = json.loads(text)
    return Calibration(float(facts["threshold"]), float(facts["clear"]))
