"""Estimates put the folds together and keep them apart where they must be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnx_soda._detect.concepts.judge import Judge, Standings
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


def stand(judge: Judge, flows: np.ndarray) -> Judge:
    """Return a judge that knows what is usual under some concepts."""
    standings = Standings(judge)
    for one in flows:
        standings.add(one)
    return standings.close()


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
    scores, errors = np.array([0.2, 0.6]), np.array([0.3, 0.4])
    plain = judge().combine((0, 1), scores, errors)
    assert plain.score == pytest.approx(0.4)
    assert plain.error == pytest.approx(0.25)
    assert plain.cautious == pytest.approx(0.15)
    alike = judge(np.array([[1, 0.4], [0.4, 1]])).combine((0, 1), scores, errors)
    assert alike.score == pytest.approx(0.2)
    assert alike.error == pytest.approx(0.125)


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
    assert styles.combine((0, 1), score[0, :, 0, 1], error[0, :, 0, 1]).score == pytest.approx(0.3)
    score, error = concepts.score(said)
    assert concepts.combine((0, 1), score[0, :, 0, 1], error[0, :, 0, 1]).score < -1


def test_what_is_usual_is_taken_per_fold() -> None:
    """In fold 0 class 0 always goes to 1 by 0.4 and class 1 errs (it disturbs); in fold 1 never."""
    restless = flows(0.4, 0.0).repeat(3, axis=0)
    restless[:, :, 0, 1] = [0.2, 0.8]
    usual = stand(judge(), restless).usual
    np.testing.assert_allclose(usual[:, 0, 1], [0.4, 0.0])


def test_usual_is_the_upper_quartile_under_concepts_that_disturb() -> None:
    """Five concepts with excess 0, 0.1, 0.2, 0.3, 0.4 for 0 -> 1: the upper quartile is 0.3. One
    that disturbs nothing, with an excess of 0.7, does not count. Nor does class 0 ever disturb
    class 1 less: what is usual for 1 -> 0 is nothing.
    """
    disturbing = np.concatenate([flows(more, more) for more in (0, 0.1, 0.2, 0.3, 0.4)])
    disturbing[:, :, 0, 1] = [0, 0.9]
    usual = stand(judge(), np.concatenate([disturbing, flows(0.7, 0.7)])).usual
    assert usual[0, 0, 1] == pytest.approx(0.3, abs=1e-6)
    assert usual[0, 1, 0] == 0


def test_what_the_model_errs_without_any_concept_is_usual_too() -> None:
    """It sends half of class 1 to 0, and the reference none."""
    erring = judge()
    erring.unchanged[:, 0, 1] = [0.5, 0.5]
    assert stand(erring, flows(0.1, 0.1).repeat(3, axis=0)).usual[0, 1, 0] == pytest.approx(0.5)


def many_classes(rows: np.ndarray, classes: int) -> Judge:
    """One image of each class of `rows` in a fold; nothing is alike; no reference heads."""
    right = np.zeros((2, 1, len(rows), classes))
    right[:, :, np.arange(len(rows)), rows] = 1
    counts = np.full((2, len(rows)), 20)
    usual = np.zeros((2, classes, classes))
    return Judge(right, counts, counts, np.eye(classes), np.zeros(0), usual, rows=rows)


def test_with_many_classes_the_pair_that_turns_ranks_first_among_those_shown() -> None:
    """Of 200 classes 50 are shown. Three concepts turn class 7 into 199. Of every other class a
    little goes to all, to more targets than are kept."""
    rows = np.arange(3, 203, 4)
    judge = many_classes(rows, 203)
    standings = Standings(judge)
    for share in (0.5, 0.6, 0.7):
        said = 0.98 * judge.unchanged + 0.02 / 203
        said[:, 0, 1] = 0
        said[:, 0, 1, [7, 199]] = 1 - share, share
        standings.add(said)
    standings.close()
    for fold in range(2):
        first, second = standings.ranked(fold, 2)
        assert first == (7, 199)
        assert second[0] in rows
        assert standings.best(fold, (7, 199), 3) == [2, 1, 0]


@pytest.mark.parametrize("victim", [3, 7, 199])
def test_rows_of_some_classes_are_scored_as_the_same_rows_among_all(victim: int) -> None:
    """Classes without images take no part: the same scores with and without empty rows."""
    rng = np.random.default_rng(0)
    rows = np.array([3, 7, 50, 199])
    some = many_classes(rows, 203)
    shown = rng.dirichlet(np.ones(203), size=(1, 2, 1, 4))
    every = many_classes(np.arange(203), 203)
    unchanged = np.zeros((2, 1, 203, 203))
    unchanged[:, :, rows] = some.unchanged
    filled = np.zeros((1, 2, 1, 203, 203))
    filled[:, :, :, rows] = shown
    full = replace(every, unchanged=unchanged, rows=None)
    few, many = some.score(shown, victim)[0], full.score(filled, victim)[0]
    np.testing.assert_allclose(few, many, atol=1e-12)
