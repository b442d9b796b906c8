"""What stands out, over what, and who does the same: numbers worked out by hand."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from onnx_soda._detect.references import opinion as opinion_module
from onnx_soda._detect.references.flows import Flows
from onnx_soda._detect.references.opinion import Outstanding, SecondOpinion, second_opinion
from tests.references.helpers import flows, keeps_all, turned

# What a share must exceed where two references agree: 2.25 sqrt(1 + 1 / 2) least spreads of 0.03.
LIMIT = 2.25 * sqrt(1.5) * 0.03


def opinion(*models: tuple[float, float, float]) -> SecondOpinion:
    """An opinion whose models have these three highest scores."""
    return SecondOpinion(
        np.array([[-9.0, models[0][0]], [0.0, -9.0]]),
        np.zeros((2, 2, 2), np.int64),
        tuple(Outstanding((0, 1), first, (second, third)) for first, second, third in models),
    )


def test_the_level_is_what_honest_differences_reach() -> None:
    # The suspect's other pairs: 1.5 times the mean of 0.04 and 0.02. The references' second pairs:
    # the middle one of 0.01, 0.03 and 0.2.
    found = opinion((0.5, 0.04, 0.02), (0.1, 0.01, 0.0), (0.6, 0.03, 0.0), (0.3, 0.2, 0.0))
    assert found.models[0].oddity == pytest.approx(0.045)
    assert found.level() == pytest.approx(0.045)
    assert found.beyond((0, 1)) == pytest.approx(0.5 - 0.045)
    # Of the second reference: its own other pairs, 0.0225; those of the others 0.04, 0.01, 0.2.
    assert found.level(2) == pytest.approx(0.04)


def test_a_suspect_that_is_odd_everywhere_stands_out_nowhere() -> None:
    plain = [(0.02, 0.0, 0.0)] * 2
    assert opinion((0.3, 0.0, 0.0), *plain).beyond((0, 1)) == pytest.approx(0.3)
    assert opinion((0.3, 0.28, 0.25), *plain).beyond((0, 1)) < 0


def test_references_are_asked_as_if_they_were_suspects() -> None:
    guilty = turned(0.8)
    found = second_opinion(flows(keeps_all()), [flows(keeps_all()), flows(guilty)])
    first, honest, other = found.models
    assert (other.pair, other.score) == ((0, 2), pytest.approx(0.8 - LIMIT))
    assert first.score == honest.score == 0
    assert other.score - found.level(2) > 0.5 > found.beyond((0, 2))


def test_pairs_that_share_a_class_with_the_first_do_not_raise_the_level() -> None:
    """What turns the victim may turn another class into the same target as well."""
    suspect = keeps_all(2)
    suspect[1, 0], suspect[2, 1] = [0.2, 0.0, 0.8], [0.0, 0.4, 0.6]
    found = second_opinion(flows(suspect), [flows(keeps_all(2))] * 2)
    assert found.ranked()[:2] == [(0, 2), (1, 2)]
    assert found.scores[1, 2] > 0.3
    assert found.models[0].others == (0, 0)


def asked(suspect: float, *references: float) -> SecondOpinion:
    """Models that send these shares of class 0 to class 2 under the one concept."""
    return second_opinion(flows(turned(suspect)), [flows(turned(one)) for one in references])


def test_a_reference_with_the_same_backdoor_hides_it_and_is_an_accomplice() -> None:
    found = asked(0.8, 0.0, 0.0, 0.0, 0.6)
    assert found.beyond((0, 2)) < 0
    accomplice = found.accomplice
    assert accomplice is not None
    assert (accomplice.place, accomplice.pair) == (3, (0, 2))
    # Against the three others: 0.6, the less of the two, less 2.25 sqrt(1 + 1 / 3) 0.03.
    assert accomplice.beyond == pytest.approx(0.6 - 2.25 * sqrt(4 / 3) * 0.03)
    assert accomplice.concepts[:, 0, 2].tolist() == [0, 0]


def test_how_many_it_takes_to_hide_a_backdoor() -> None:
    """One of three or more does not; two do, however many others there are."""
    for honest in (2, 6):
        one = asked(0.8, *[0.0] * honest, 0.8).accomplice
        assert one is not None
        assert one.beyond > 0.6
        two = asked(0.8, *[0.0] * honest, 0.8, 0.8)
        assert two.accomplice is None or two.accomplice.beyond < 0.1
    # Of two references it cannot be told which of the three models is the odd one.
    assert asked(0.8, 0.0, 0.8).accomplice is None


def test_honest_models_have_no_accomplice() -> None:
    found = asked(0.02, 0.0, 0.01, 0.03, 0.02)
    assert found.accomplice is None or found.accomplice.beyond <= 0


def test_what_cannot_be_compared_is_refused() -> None:
    suspect, reference = flows(turned(0.8)), flows(keeps_all())
    with pytest.raises(ValueError, match="no reference"):
        second_opinion(suspect, [])
    for other in (
        Flows(reference.shares, reference.images, bank=0),
        Flows(reference.shares, reference.images + 1),
        Flows(reference.shares[:, :, :2, :2], reference.images),
    ):
        with pytest.raises(ValueError, match="other images or of another bank"):
            second_opinion(suspect, [reference, other])


def test_concepts_looked_at_in_parts_give_the_same_as_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of many classes only some concepts are scored at a time, so that memory holds them."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(4, 0.3), size=(3, 8, 2, 4)).astype(np.float32)
    suspect, *references = (Flows(own, np.full((2, 4), 20)) for own in shares)
    whole = second_opinion(suspect, references)
    for concepts in (1, 3):  # 4 x 4 pairs on two folds, 8 bytes each
        monkeypatch.setattr(opinion_module, "_PART_BYTES", concepts * 2 * 4 * 4 * 8)
        parts = second_opinion(suspect, references)
        np.testing.assert_array_equal(parts.scores, whole.scores)
        np.testing.assert_array_equal(parts.concepts, whole.concepts)
