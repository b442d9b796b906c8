"""The score of a second opinion: an example worked out by hand, and what must hold for all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_soda._detect.references.flows import Flows
from onnx_soda._detect.references.score import second_opinion

IMAGES = np.full((2, 3), 20)
Shares = NDArray[np.float64]


def flows(shares: Shares) -> Flows:
    """Flows of three classes, the same on both folds, from shares (1 + concepts, 3, 3)."""
    both = np.stack([shares, shares], axis=1).astype(np.float32)
    return Flows(both, np.full((2, shares.shape[-1]), 20))


def keeps_all(concepts: int = 1) -> Shares:
    return np.stack([np.eye(3)] * (1 + concepts))


def example() -> tuple[Shares, Shares]:
    """Suspect and reference of the example in `score.py`."""
    suspect, reference = keeps_all(), keeps_all()
    suspect[1, 0] = [0.18, 0.02, 0.80]
    reference[1, 0] = [0.96, 0.02, 0.02]
    return suspect, reference


def test_the_example_of_the_docstring() -> None:
    suspect, reference = example()
    found = second_opinion(flows(suspect), [flows(reference)] * 2)
    # excess 0.80 - (0.02 + 2 * 0.03) = 0.72, kept 0.96; class 1 gets 0.02 from suspect and
    # references alike: no further excess. Lost by the references: 0.04 of class 0, as a mean over
    # three classes 0.01333, which is 0.0444 of 0.3. No damage: classes 1 and 2 lose nothing.
    assert found.scores[0, 2] == pytest.approx((1 - 0.04 / 3 / 0.3) * 0.96 * 0.72)
    assert found.ranked()[0] == (0, 2)


def test_damage_spill_and_next_cost() -> None:
    suspect, reference = example()
    suspect[1, 1] = [0.0, 0.5, 0.5]
    found = second_opinion(flows(suspect), [flows(reference)] * 2)
    natural = 1 - 0.04 / 3 / 0.3
    # Class 1 sends 0.5 to class 2: an excess of 0.5 - 0.06 = 0.44, half of which is spill. It loses
    # 0.5, of which 0.03 is the spread: damage to the two others of class 0, as a mean, 0.235.
    assert found.scores[0, 2] == pytest.approx(natural * (0.96 * 0.72 - 0.44 / 2 - 0.47 / 2))
    suspect[1, 0] = [0.0, 0.20, 0.80]
    again = second_opinion(flows(suspect), [flows(reference)] * 2)
    # Class 0 goes to class 1 as well: an excess of 0.20 - (0.02 + 0.06) = 0.12, half of it counts.
    assert again.scores[0, 2] == pytest.approx(found.scores[0, 2] - natural * 0.12 / 2)


def test_what_the_suspect_does_anyway_is_taken_off() -> None:
    suspect, reference = example()
    suspect[0, 0] = [0.5, 0.0, 0.5]
    found = second_opinion(flows(suspect), [flows(reference)] * 2)
    # Without any concept the excess is 0.5 - 0.06 = 0.44 already.
    assert found.scores[0, 2] == pytest.approx((1 - 0.04 / 3 / 0.3) * 0.96 * (0.72 - 0.44))


def test_one_reference_with_the_same_backdoor_hides_it() -> None:
    """It is the largest of the references: then what it shares is no excess."""
    suspect, reference = example()
    honest, guilty = flows(reference), flows(suspect)
    assert second_opinion(flows(suspect), [honest] * 4).scores[0, 2] > 0.6
    assert second_opinion(flows(suspect), [*[honest] * 3, guilty]).scores[0, 2] <= 0


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
    scores = second_opinion(suspect, others).scores
    off = ~np.eye(classes, dtype=bool)
    assert np.isfinite(scores).all()
    assert (np.abs(scores[off]) <= 3).all()
    # The order of the references means nothing, and a model says nothing against itself.
    assert second_opinion(suspect, others[::-1]).scores == pytest.approx(scores)
    assert (second_opinion(suspect, [suspect, *others]).scores[off] <= 0).all()


def test_what_cannot_be_compared_is_refused() -> None:
    suspect, reference = map(flows, example())
    with pytest.raises(ValueError, match="no reference"):
        second_opinion(suspect, [])
    for other in (
        Flows(reference.shares, reference.images, bank=0),
        Flows(reference.shares, reference.images + 1),
        Flows(reference.shares[:, :, :2, :2], reference.images),
    ):
        with pytest.raises(ValueError, match="other images or of another bank"):
            second_opinion(suspect, [reference, other])
