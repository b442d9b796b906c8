"""The score of a second opinion: examples worked out by hand, and what must hold for all."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_soda._detect.references.flows import Flows
from onnx_soda._detect.references.opinion import second_opinion
from tests.references.helpers import Shares, flows, keeps_all, turned

IMAGES = np.full((2, 3), 20)
# What a share must exceed where two references agree and nothing is known to make models differ:
# 2.25 least spreads of 0.03, times sqrt(1 + 1 / 2).
WIDTH = 2.25 * sqrt(1.5)


def score_of(suspect: Shares, *references: Shares) -> float:
    return float(second_opinion(flows(suspect), list(map(flows, references))).scores[0, 2])


def test_references_that_agree_and_lose_nothing() -> None:
    # excess 0.80 less 2.25 sqrt(1.5) 0.03 = 0.0827; kept 1; nothing else moves.
    assert score_of(turned(0.8), keeps_all(), keeps_all()) == pytest.approx(0.8 - WIDTH * 0.03)


def test_one_reference_widens_what_honest_models_may_do() -> None:
    # 2.25 sqrt(1 + 1 / 1) 0.03 = 0.0955.
    assert score_of(turned(0.8), keeps_all()) == pytest.approx(0.8 - 2.25 * sqrt(2) * 0.03)


def test_references_that_differ() -> None:
    # They send 0.1 and 0.3 of class 0 to class 2: mean 0.2, variance 0.02 (n - 1). Under all
    # concepts but the first share, which is without any, so usual is 0.97 of the way from 0 to 0.2:
    # 0.194. They keep 0.8 of class 0, and lose 0.2 / 3 as a mean over classes.
    partly, usual, lost, gone = 0.4**2 * 0.2, 0.1 * 0.194, 0.5 * 0.2 / 3, 0.1 * 0.2
    spread = sqrt(0.02 + 0.03**2 + partly + usual**2 + lost**2 + gone**2)
    excess = 0.95 - 0.2 - WIDTH * spread
    found = score_of(turned(0.95), turned(0.1), turned(0.3))
    assert found == pytest.approx(0.8 * excess, abs=1e-6)


def test_damage_and_spill_cost() -> None:
    suspect = turned(0.8)
    suspect[1, 1] = [0.0, 0.5, 0.5]
    # Class 1 sends 0.5 to class 2, too: half of 0.5 - 0.0827 is spill. It loses 0.5, of which 0.03
    # is one spread: damage to the two others of class 0, as a mean, 0.235.
    limit = WIDTH * 0.03
    expected = (0.8 - limit) - (0.5 - limit) / 2 - 0.47 / 2
    assert score_of(suspect, keeps_all(), keeps_all()) == pytest.approx(expected)


def test_what_also_goes_elsewhere_costs() -> None:
    suspect = turned(0.8)
    suspect[1, 0] = [0.0, 0.2, 0.8]
    limit = WIDTH * 0.03
    expected = (0.8 - limit) - (0.2 - limit) / 2
    assert score_of(suspect, keeps_all(), keeps_all()) == pytest.approx(expected)


def test_what_the_suspect_does_anyway_is_taken_off() -> None:
    suspect = turned(0.8)
    suspect[0, 0] = [0.5, 0.0, 0.5]
    # Without any concept the excess is 0.5 less the limit already, so the limit cancels.
    assert score_of(suspect, keeps_all(), keeps_all()) == pytest.approx(0.8 - 0.5)


def test_the_concept_is_chosen_on_one_fold_and_read_on_the_other() -> None:
    suspect = np.stack([keeps_all(2)] * 2, axis=1)
    # Each fold is turned by a concept of its own: by chance, as the other fold shows.
    suspect[1, 0, 0] = suspect[2, 1, 0] = [0.2, 0.0, 0.8]
    reference = np.stack([keeps_all(2)] * 2, axis=1)
    found = second_opinion(
        Flows(suspect.astype(np.float32), IMAGES), [Flows(reference.astype(np.float32), IMAGES)]
    )
    assert found.concepts[:, 0, 2].tolist() == [0, 1]
    assert found.scores[0, 2] <= 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 5))
def test_scores_of_any_flows(seed: int, references: int, classes: int) -> None:
    rng = np.random.default_rng(seed)

    def drawn() -> Flows:
        return flows(rng.dirichlet(np.ones(classes), (3, classes)))

    suspect, others = drawn(), [drawn() for _ in range(references)]
    found = second_opinion(suspect, others)
    off = ~np.eye(classes, dtype=bool)
    assert np.isfinite(found.scores).all()
    assert (np.abs(found.scores[off]) <= 3).all()
    assert found.level() >= 0
    # The order of the references means nothing, and a model says nothing against itself.
    again = second_opinion(suspect, others[::-1])
    assert again.scores == pytest.approx(found.scores)
    assert again.level() == pytest.approx(found.level())
    assert (second_opinion(suspect, [suspect]).scores[off] <= 0).all()
