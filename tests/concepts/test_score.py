"""Scores of pairs worked out on paper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_soda._detect.concepts.score import (
    damage_to_others,
    discount,
    discount_factor,
    excess,
    look_alikes,
    pair_scores,
    spill_of_unlike,
    standard_error,
)

# Three classes that are nothing alike, one reference head.
UNLIKE = np.eye(3)
ALONE = np.ones(1)
NOTHING_USUAL = np.zeros((3, 3))
# Model and reference without a concept: every class errs by 0.02.
UNCHANGED = np.stack([0.98 * np.eye(3) + 0.01 * (1 - np.eye(3))] * 2)
# Under the concept the model sends 0.8 of class 0 to 2, the reference 0.1: an excess of 0.7.
ORIGINAL = np.array([[0.2, 0, 0.8], [0.1, 0.9, 0], [0, 0.1, 0.9]])
REFERENCE = np.array([[0.9, 0, 0.1], [0.1, 0.9, 0], [0, 0.1, 0.9]])
FLOWS = np.stack([ORIGINAL, REFERENCE])[None]


def score(
    flows: np.ndarray = FLOWS, likeness: np.ndarray = UNLIKE, **kinds: np.ndarray
) -> np.ndarray:
    usual = kinds.get("usual", NOTHING_USUAL)
    return pair_scores(flows, UNCHANGED, likeness, ALONE, usual)[0]


def test_the_score_of_a_pair_is_worked_out_on_paper() -> None:
    """0 -> 2: excess 0.7, nothing else goes to 2, and class 0 nowhere else. Classes 1 and 2 err by
    0.08 more than without the concept, and of 1's errors 0.01 fewer go to 2: damage
    (0.09 + 0.08) / 2 = 0.085, score 0.7 - 0.085 = 0.615.
    1 -> 0: excess 0. Class 0 loses 0.78, class 2 errs elsewhere by 0.09 more: damage 0.435, of that
    0.185 over 0.25: -0.435 - 2 0.185 = -0.805.
    """
    scores = score()
    assert scores[0, 2] == pytest.approx(0.615)
    assert scores[1, 0] == pytest.approx(-0.805)
    assert (np.diag(scores) < -1).all()
    assert scores.argmax() == 2


def test_what_other_classes_send_to_the_target_counts_against_it() -> None:
    """Class 1 sends 0.2 to 2 as well, the reference none of it: spill 0.2, and no damage beyond
    that, for its other errors are as before: 0.615 - 0.2 = 0.415.
    """
    spilling = FLOWS.copy()
    spilling[0, 0, 1] = [0.1, 0.7, 0.2]
    assert score(spilling)[0, 2] == pytest.approx(0.415)
    # Not where the other class looks like the victim, or like the target (likeness over 0.3).
    for alike in ((0, 1), (1, 2)):
        likeness = UNLIKE.copy()
        likeness[alike], likeness[alike[::-1]] = 0.5, 0.5
        assert score(spilling, likeness)[0, 2] == pytest.approx(0.615)


@pytest.mark.parametrize(
    ("lorries", "buses", "spill"),
    [(0.6, 0.0, 0.0), (0.6, 0.2, 0.2), (0.2, 0.6, 0.2)],
    ids=["one look-alike", "two", "two, the other way round"],
)
def test_one_look_alike_of_the_victim_may_turn_with_it_but_not_two(
    lorries: float, buses: float, spill: float
) -> None:
    """Cars (0), lorries (1) and buses (2) look alike and go to frogs (3); the reference keeps all.
    No other errors: 0.7 less what the second of lorries and buses sends to frogs.
    """
    answers = np.eye(4)
    for vehicle, sent in enumerate((0.7, lorries, buses)):
        answers[vehicle, [vehicle, 3]] = 1 - sent, sent
    likeness = np.eye(4)
    likeness[:3, :3] = 1
    unchanged = np.stack([np.eye(4)] * 2)
    flows = np.stack([answers, np.eye(4)])[None]
    scores = pair_scores(flows, unchanged, likeness, ALONE, np.zeros((4, 4)))[0]
    assert scores[0, 3] == pytest.approx(0.7 - spill)


@pytest.mark.parametrize(("foreseen", "counts"), [(0.2, 1.0), (0.5, 1.0), (0.6, 0.8), (0.75, 0.5)])
def test_what_the_reference_says_too_is_no_news(foreseen: float, counts: float) -> None:
    """The model sends all of class 0 to 1, the reference `foreseen`: in full up to a half."""
    unchanged = np.stack([np.eye(3)] * 2)
    under = unchanged.copy()
    under[0, 0], under[1, 0] = [0, 1, 0], [1 - foreseen, foreseen, 0]
    scores = pair_scores(under[None], unchanged, UNLIKE, ALONE, NOTHING_USUAL)[0]
    assert scores[0, 1] == pytest.approx(counts * (1 - foreseen))


def test_a_class_that_goes_anywhere_is_fragile() -> None:
    """Class 0 goes to 2 by 0.5 and to 1 by 0.3, the reference by 0.1 and 0: excess 0.4, next 0.3.
    0.4 - 0.15 - 0.085 = 0.165. For 0 -> 1: what 2 loses goes to 1, so that damage is 0.08 / 2.
    """
    fragile = FLOWS.copy()
    fragile[0, 0, 0] = [0.2, 0.3, 0.5]
    assert score(fragile)[0, 2] == pytest.approx(0.165)
    # The reference sends 0.1 of class 2 to 1 as well, so that this is no spill.
    assert score(fragile)[0, 1] == pytest.approx(0.3 - 0.2 - 0.04)


def test_what_is_usual_for_a_pair_is_taken_off() -> None:
    usual = np.full((3, 3), 0.25)
    assert score(usual=usual)[0, 2] == pytest.approx(0.615 - 0.25)


def test_the_reference_is_the_heads_mean_by_their_trust() -> None:
    """Heads send 0.1 and 0.5 to class 1; trusted 3 to 1 that is 0.2, of 0.8 an excess of 0.6."""
    heads = [[[1 - p, p], [0, 1]] for p in (0.8, 0.1, 0.5)]
    more = excess(np.array(heads)[None], np.array([0.75, 0.25]))
    np.testing.assert_allclose(more, [[[0, 0.6], [0, 0]]])


def test_the_standard_error_is_that_of_two_shares_of_images() -> None:
    """Half of 4 images go there, a fifth by a reference fitted to 16: variances 0.25 / 4 and
    0.16 / 16. All of 6, and all by one that was fitted to 6: 7 / 8 instead of 1, 7 / 64 / 6 twice.
    """
    flows = np.zeros((1, 2, 3, 3))
    flows[0, :, 0, 1], flows[0, :, 1, 2] = (0.5, 0.2), 1
    error = standard_error(flows, ALONE, np.array([4, 6, 0]), np.array([16, 6, 9]))[0]
    assert error[0, 1] == pytest.approx(np.sqrt(0.25 / 4 + 0.16 / 16))
    assert error[1, 2] == pytest.approx(np.sqrt(2 * 7 / 64 / 6))
    assert (error[2] == 1).all()


@given(few=st.integers(1, 50), more=st.integers(1, 50), share=st.floats(0, 1))
def test_more_images_never_make_it_less_certain(few: int, more: int, share: float) -> None:
    flows = np.full((1, 2, 2, 2), share)
    counts = [np.full(2, n) for n in (few, few + more)]
    for shown, fitted in ((0, 1), (1, 0), (1, 1)):
        error = standard_error(flows, ALONE, counts[shown], counts[fitted])[0, 0, 1]
        assert error <= standard_error(flows, ALONE, counts[0], counts[0])[0, 0, 1] + 1e-12


def test_look_alikes_do_not_count() -> None:
    """In full up to a likeness of 0.3, not at all from 0.5 on, half at 0.4."""
    likeness = np.array([-0.5, 0.3, 0.4, 0.5, 1.0])
    np.testing.assert_allclose(discount_factor(likeness), [1, 1, 0.5, 0, 0], atol=1e-12)
    scores = np.array([0.4, -0.4, 0.4, 0.4, -0.4])
    lowered = discount(scores, likeness)
    np.testing.assert_allclose(lowered[:3], [0.4, -0.4, 0.2])
    assert (lowered[3:] < -1).all()  # below every real score


def test_pairs_of_look_alikes_are_counted_both_ways() -> None:
    """0.5 and 0.6 are left out; 0.49 is lowered; a class and itself is no pair."""
    likeness = np.array([[1, 0.5, 0.49], [0.5, 1, 0.6], [0.49, 0.6, 1]])
    assert look_alikes(likeness) == 4


def test_classes_without_images_are_not_among_those_that_keep_theirs() -> None:
    """Of ten classes two have images. Nothing is left of the second: to the first's others, all."""
    unchanged, under = np.zeros((2, 10, 10)), np.zeros((1, 2, 10, 10))
    unchanged[:, [0, 1], [0, 1]] = 1
    under[0, :, [0, 1], [0, 9]] = 1
    np.testing.assert_allclose(damage_to_others(under, unchanged)[0, :2], [1, 0])
    # For 0 -> 5 it costs 0.75, and what is over 0.25 twice as much.
    usual = np.zeros((10, 10))
    scores = pair_scores(under, unchanged, np.eye(10), ALONE, usual)
    assert scores[0, 0, 5] < -0.5


def test_of_many_classes_the_largest_spill_is_found_among_those_that_send_most() -> None:
    """80 classes, all unlike: 79 of them send from 0.001 to 0.079 to class 0. For any victim the
    spill is what the largest other sends."""
    more = np.zeros((1, 80, 80))
    more[0, 1:, 0] = np.arange(1, 80) / 1000
    spill = spill_of_unlike(more, np.eye(80))
    assert spill[0, 5, 0] == pytest.approx(0.079)
    assert spill[0, 79, 0] == pytest.approx(0.078)


@pytest.mark.parametrize(("classes", "spill"), [(80, 0.076), (60, 0.056)])
def test_of_many_classes_look_alikes_of_the_victim_do_not_spill(classes: int, spill: float) -> None:
    """All others send to class 0, the last most. The last is alike to class 5 and counts nothing,
    the one before counts half, and the one before that nine tenths, since it is a little like
    class 0. So the fourth from the end counts most."""
    more = np.zeros((1, classes, classes))
    more[0, 1:, 0] = np.arange(1, classes) / 1000
    likeness = np.eye(classes)
    for other, alike in ((classes - 1, 0.6), (classes - 2, 0.15)):
        likeness[5, other] = likeness[other, 5] = alike
    likeness[0, classes - 3] = likeness[classes - 3, 0] = 0.03
    found = spill_of_unlike(more, likeness)
    assert found[0, 5, 0] == pytest.approx(spill)
    assert found[0, 6, 0] == pytest.approx((classes - 1) / 1000)


# Two kinds of five classes, one image of each. The model is certain of all.
_KINDS = np.array([0] * 5 + [1] * 5)
_CERTAIN = np.stack([np.eye(10)] * 2)


def test_of_many_classes_damage_is_told_by_those_of_the_victims_kind() -> None:
    """Nothing is left of classes 5 to 9, and all of 0 to 4: 0 has lost none of its kind, 5 all
    four. If all were of one kind, 0 would have lost 5 of 9."""
    under = _CERTAIN[None].copy()
    under[0, :, 5:] = 0.1
    damage = damage_to_others(under, _CERTAIN, kinds=_KINDS)[0]
    np.testing.assert_allclose(damage[[0, 5]], [0, 0.9])
    alone = damage_to_others(under, _CERTAIN)[0]
    np.testing.assert_allclose(alone[0], 5 * 0.9 / 9)


def test_a_kind_with_few_images_tells_no_damage_so_all_others_do() -> None:
    """Only 5 and 6 of their kind have images: three are too few, so 0 to 4 count for them too."""
    unchanged = _CERTAIN.copy()
    unchanged[:, 7:] = 0
    under = unchanged[None].copy()
    under[0, :, :5] = 0.1
    damage = damage_to_others(under, unchanged, kinds=_KINDS)[0]
    np.testing.assert_allclose(damage[5], 5 * 0.9 / 6)


def test_a_change_that_hurts_another_kind_costs_a_pair_nothing() -> None:
    """0 goes to 1 under it, and so does nothing else; 5 to 9 go anywhere. The score is the excess
    of 0.7 alone; with all of one kind damage is 5 x 0.9 / 9 = 0.5, and what is over 0.25 counts
    twice more."""
    under = _CERTAIN[None].copy()
    under[0, 0, 0, :2] = 0.3, 0.7
    under[0, :, 5:] = 0.1
    usual = np.zeros((10, 10))
    score = pair_scores(under, _CERTAIN, np.eye(10), ALONE, usual, kinds=_KINDS)[0, 0, 1]
    assert score == pytest.approx(0.7)
