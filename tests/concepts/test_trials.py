"""Which pairs a search hands on to the closer look."""

from __future__ import annotations

from typing import cast

import numpy as np

from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.judge import Judge
from onnx_soda._detect.concepts.probe import Probe
from onnx_soda._detect.concepts.search import SearchResult, Trials
from onnx_soda._detect.concepts.styles import Change

DARKER = Concept("gamma", {"gamma": (2.0,)}, "everywhere", {})


class Told:
    """Says the same of every concept: a share of class 0 turns into class 1, all else is right."""

    def __init__(self, share: float) -> None:
        answers = np.eye(3)
        answers[0, :2] = 1 - share, share
        self._answers = np.concatenate([answers, answers])[None]

    def flows(self, change: Change | None) -> np.ndarray:
        del change
        return self._answers


def found(share: float, images: list[int], most: int) -> SearchResult[Concept]:
    counts = np.stack([np.array(images)] * 2)
    judge = Judge(
        unchanged=np.stack([np.eye(3)[None]] * 2),
        images=counts,
        fitted=counts,
        likeness=np.zeros((3, 3)),
        trust=np.zeros(0),
        usual=np.zeros((2, 3, 3)),
    )
    trials = Trials[Concept](cast("Probe", Told(share)), judge, None)
    for _ in range(4):
        trials.add(DARKER)
    trials.close_screening()
    return trials.result(most)


def test_a_pair_is_kept_for_its_score_however_uncertain() -> None:
    """With 2 images a fold, a share of 0.1 has an error of 0.31 (p is kept over 1/4), 0.22 for both
    folds: less its error the score is -0.12. The sure ones lose 0.75 x 0.1 / 2 to damage, -0.04."""
    (pair,) = found(0.1, [2, 1000, 1000], most=1).findings
    assert (pair.victim_class, pair.target_class) == (0, 1)
    assert [len(changes) for changes in pair.changes] == [3, 3]


def test_pairs_that_do_not_score_are_kept_up_to_two() -> None:
    assert len(found(0.0, [50, 50, 50], most=5).findings) == 2
    assert len(found(0.1, [50, 50, 50], most=1).findings) == 1
