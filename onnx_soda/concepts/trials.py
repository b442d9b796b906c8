"""Interventions tried in a search: what each says on both folds, which are best for which pair.

Each fold of the images chooses, and the other fold scores, so that a score is no luck of the
choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from onnx_soda.concepts.change import AnyChange
from onnx_soda.concepts.estimate import Judge
from onnx_soda.concepts.folds import FOLDS
from onnx_soda.concepts.probe import Probe
from onnx_soda.concepts.score import FloatArray, background

__all__ = ["PairFinding", "SearchResult", "Trials"]

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
