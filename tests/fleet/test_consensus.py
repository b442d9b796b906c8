"""The odd one out among models of one task: numbers worked out by hand."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from onnx_soda._detect.references.flows import Flows
from onnx_soda._detect.references.opinion import second_opinion
from onnx_soda._fleet.consensus import consensus, without_extremes
from tests.references.helpers import flows, keeps_all, turned

PAIR = (0, 2)


def group(*shares: float) -> dict[str, Flows]:
    """Models that send these shares of class 0 to class 2 under the one concept."""
    return {f"m{place}": flows(turned(share)) for place, share in enumerate(shares)}


def test_the_odd_one_comes_first_with_its_pair() -> None:
    """Four others, of which one is left out: three honest ones that agree.
    0.8, less 2.25 sqrt(1 + 1 / 3) least spreads of 0.03.
    """
    first, *rest = consensus(group(0.0, 0.0, 0.8, 0.0, 0.0))
    assert (first.name, first.pair, first.concept) == ("m2", PAIR, 0)
    assert first.beyond == pytest.approx(0.8 - 2.25 * sqrt(4 / 3) * 0.03)
    assert all(one.beyond <= 0 for one in rest)


def test_a_quarter_with_the_same_backdoor_does_not_hide_it() -> None:
    """Two of eight: each has seven others, the guilty one of which is left out."""
    models = group(0.8, 0.8, *[0.0] * 6)
    first, second, *rest = consensus(models)
    assert {first.name, second.name} == {"m0", "m1"}
    assert first.pair == second.pair == PAIR
    assert second.beyond == pytest.approx(0.8 - 2.25 * sqrt(7 / 6) * 0.03)
    assert all(one.beyond <= 0 for one in rest)
    own, *others = models.values()
    assert second_opinion(own, others).beyond(PAIR) < 0.1  # where all others count


def test_half_with_the_same_backdoor_hides_it() -> None:
    """Four of eight: of the seven others three turn, and one of these is left out."""
    assert all(one.beyond < 0.1 for one in consensus(group(*[0.8] * 4, *[0.0] * 4)))


def test_what_turns_most_and_keeps_least_is_left_out() -> None:
    shares = np.stack([turned(share) for share in (0.0, 0.1, 0.2, 0.9)])[:, :, None]
    kept = without_extremes(shares.astype(np.float32))[:, 1, 0, 0]
    np.testing.assert_allclose(kept[:, 2], [0.0, 0.1, 0.2], atol=1e-6)
    np.testing.assert_allclose(kept[:, 0], [0.8, 0.9, 1.0], atol=1e-6)


def test_too_few_or_others_are_refused() -> None:
    with pytest.raises(ValueError, match="needs 3 models, not 2"):
        consensus(group(0.0, 0.8))
    other = Flows(flows(keeps_all()).shares, np.full((2, 3), 7))
    with pytest.raises(ValueError, match="other images"):
        consensus({**group(0.0, 0.0), "other": other})
