"""Estimates put the folds together and keep them apart where they must be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnx_soda._detect.concepts.judge import Judge
from onnx_soda._detect.concepts.score import STYLE_SCORING


def judge(likeness: np.ndarray | None = None, fitted: int = 1_000_000) -> Judge:
    """Two classes, one reference head that is always right, 4 images a class in fold 0, 16 in 1."""
    right = np.stack([np.eye(2)] * 2)
    return Judge(
        unchanged=np.stack([right, right]),
        images=np.array([[4, 4], [16, 16]]),
        fitted=np.full((2, 2), fitted),
        likeness=np.eye(2) if likeness is None else likeness,
        trust=np.ones(1),
        usual=np.zeros((2, 2, 2)),
    )


def flows(first: float, second: float) -> np.ndarray:
    """One concept; class 0 goes to 1 by these shares in the two folds."""
    both = [np.stack([[[1 - p, p], [0, 1]], np.eye(2)]) for p in (first, second)]
    return np.stack(both)[None]


def test_a_probe_groups_become_folds() -> None:
    """(heads, folds x classes, classes) becomes (folds, heads, classes, classes)."""
    raw = np.arange(2 * 4 * 2).reshape(2, 4, 2)
    split = Judge.by_fold(raw)
    assert split.shape == (2, 2, 2, 2)
    np.testing.assert_array_equal(split[1, 0], raw[0, 2:])


def test_folds_are_scored_apart_with_their_own_number_of_images() -> None:
    """Half of the images turn in both: sqrt(0.25 / 4) and sqrt(0.25 / 16)."""
    score, error = judge().score(flows(0.5, 0.5))
    np.testing.assert_allclose(score[0, :, 0, 1], [0.5, 0.5])
    np.testing.assert_allclose(error[0, :, 0, 1], [0.25, 0.125], rtol=1e-6)


def test_a_reference_fitted_to_few_images_is_uncertain_too() -> None:
    """Half of 4 images turn; the reference sends none, after 2: as if 1 of 4 in 2, 3 / 32 more."""
    _, error = judge(fitted=2).score(flows(0.5, 0.5))
    assert error[0, 0, 0, 1] == pytest.approx(np.sqrt(0.25 / 4 + 3 / 32))


def test_together_they_are_the_mean_with_the_error_of_a_mean() -> None:
    """Scores 0.2 and 0.6: 0.4. Errors 0.3 and 0.4: 0.5 / 2. Of a likeness of 0.4: half of both."""
    scores, errors = (
        np.broadcast_to(np.reshape(v, (2, 1, 1)), (2, 2, 2)) for v in ((0.2, 0.6), (0.3, 0.4))
    )
    plain = judge().combine(scores, errors)
    assert plain.score[0, 1] == pytest.approx(0.4)
    assert plain.error[0, 1] == pytest.approx(0.25)
    assert plain.cautious[0, 1] == pytest.approx(0.15)
    alike = judge(np.array([[1, 0.4], [0.4, 1]])).combine(scores, errors)
    assert alike.score[0, 1] == pytest.approx(0.2)
    assert alike.error[0, 1] == pytest.approx(0.125)


def test_under_styles_look_alikes_count_and_damage_costs_twice_its_size() -> None:
    """0 goes to 1 by 0.5 and 1 errs by 0.1: 0.5 - 0.1 under a concept, 0.5 - 2 0.1 under a
    style. Look-alikes (cosine 0.6) count under a style alone."""
    said = flows(0.5, 0.5)
    said[:, :, 0, 1] = [0.1, 0.9]
    concepts = judge(np.array([[1, 0.6], [0.6, 1]]))
    styles = replace(concepts, scoring=STYLE_SCORING)
    for one, expected in ((concepts, 0.4), (styles, 0.3)):
        score, error = one.score(said)
        assert score[0, 0, 0, 1] == pytest.approx(expected)
    assert styles.combine(score[0], error[0]).score[0, 1] == pytest.approx(0.3)
    score, error = concepts.score(said)
    assert concepts.combine(score[0], error[0]).score[0, 1] < -1


def test_what_is_usual_is_taken_per_fold() -> None:
    """In fold 0 class 0 always goes to 1 by 0.4 and class 1 errs (it disturbs); in fold 1 never."""
    restless = flows(0.4, 0.0).repeat(3, axis=0)
    restless[:, :, 0, 1] = [0.2, 0.8]
    usual = judge().with_usual(restless).usual
    np.testing.assert_allclose(usual[:, 0, 1], [0.4, 0.0])
