"""Which pairs a search hands on to the closer look."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.judge import Estimate, Judge
from onnx_soda._detect.concepts.search import SearchResult, Trials, background
from onnx_soda._detect.concepts.styles import Change

DARKER = Concept("gamma", {"gamma": (2.0,)}, "everywhere", {})


class Told:
    """Says the same of every concept: a share of class 0 turns into class 1, all else is right.

    It is a panel, and all the panels of a race.
    """

    def __init__(self, share: float, images: list[int]) -> None:
        answers = np.eye(3)
        answers[0, :2] = 1 - share, share
        self._answers = np.stack([answers[None]] * 2)
        counts = np.stack([np.array(images)] * 2)
        self.judge = Judge(
            unchanged=np.stack([np.eye(3)[None]] * 2),
            images=counts,
            fitted=counts,
            likeness=np.zeros((3, 3)),
            trust=np.zeros(0),
            usual=np.zeros((2, 3, 3)),
        )
        self.asked: list[tuple[int, int]] = []

    def flows(self, change: Change | None) -> np.ndarray:
        del change
        return self._answers

    @property
    def screen(self) -> Told:
        return self

    def of(self, victim: int, fold: int) -> Told:
        self.asked.append((victim, fold))
        return self


def found(share: float, images: list[int], most: int) -> SearchResult[Concept]:
    trials = Trials[Concept](Told(share, images))
    for _ in range(4):
        trials.add(DARKER)
    trials.close_screening()
    trials.start(6)
    return trials.result(most, finalists=6)


def test_a_pair_is_kept_for_its_score_however_uncertain() -> None:
    """With 2 images a fold, a share of 0.1 has an error of 0.31 (p is kept over 1/4), 0.22 for both
    folds: less its error the score is -0.12. The sure ones lose 0.75 x 0.1 / 2 to damage, -0.04."""
    (pair,) = found(0.1, [2, 1000, 1000], most=1).findings
    assert (pair.victim_class, pair.target_class) == (0, 1)
    assert [len(changes) for changes in pair.changes] == [3, 3]


def test_pairs_that_do_not_score_are_kept_up_to_two() -> None:
    assert len(found(0.0, [50, 50, 50], most=5).findings) == 2
    assert len(found(0.1, [50, 50, 50], most=1).findings) == 1


def test_what_no_fold_finds_promising_is_shown_no_further_images() -> None:
    """Of six pairs two race. Only 0 -> 1 turns at all: class 0 is a victim of the two. Four
    concepts are shown to the panels of two victims at most, in each fold, and once each."""
    told = Told(0.6, [50, 50, 50])
    trials = Trials[Concept](told)
    for _ in range(5):
        trials.add(DARKER)
    trials.close_screening()
    assert told.asked == []
    trials.start(2)
    assert {(0, 0), (0, 1)} <= set(told.asked)
    assert len({victim for victim, _ in told.asked}) <= 2
    before = len(told.asked)
    trials.start(2)
    assert len(told.asked) == before


def test_a_fold_never_sees_what_the_other_varied_until_the_end() -> None:
    """A variation of fold 0 is no lead of fold 1."""
    told = Told(0.6, [50, 50, 50])
    trials = Trials[Concept](told)
    for _ in range(4):
        trials.add(DARKER)
    trials.close_screening()
    trials.start(1)
    varied = Concept("gamma", {"gamma": (3.0,)}, "everywhere", {})
    trials.vary(varied, 0, 0)
    assert varied in trials.leads(0, 1, 1)[0].partners
    assert varied not in trials.leads(1, 1, 1)[0].partners


def test_the_background_is_the_best_pair_of_other_classes() -> None:
    """For 0 -> 1: not 0 -> 2 (same victim), not 2 -> 1 (same target), but 1 -> 2 or 2 -> 0."""
    scores = {(0, 1): 0.6, (0, 2): 0.4, (1, 0): 0.1, (1, 2): 0.2, (2, 0): 0.1, (2, 1): 0.3}
    known = {pair: Estimate(score + 0.05, 0.05) for pair, score in scores.items()}
    assert background(known, (0, 1)) == pytest.approx(0.2)
    assert background({pair: Estimate(-0.1, 0.0) for pair in scores}, (0, 1)) == 0


class Loud(Told):
    """The same, and a strong gamma turns class 2 into 1 as well."""

    def flows(self, change: Change | None) -> np.ndarray:
        answers = super().flows(change).copy()
        if change == STRONG:
            answers[..., 2, :] = (0, 1, 0)
        return answers


STRONG = Concept("gamma", {"gamma": (3.0,)}, "everywhere", {})


def test_what_is_usual_is_told_by_unchosen_changes_that_disturb_other_classes() -> None:
    """For victim 0, what turns class 0 alone disturbs nothing: of five changes the strong one is
    left, in either fold. A variation that a fold has chosen tells nothing."""
    trials = Trials[Concept](Loud(0.6, [50, 50, 50]))
    for change in (DARKER, DARKER, STRONG, DARKER):
        trials.add(change)
    trials.close_screening()
    trials.start(1)
    trials.vary(STRONG, 0, 0)
    (pair,) = trials.result(1, finalists=1).findings
    assert pair.pair == (0, 1)
    assert pair.disturbing == ((STRONG,), (STRONG,))
