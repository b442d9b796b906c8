"""How sure a pair's score is, with many pairs to choose from."""

from __future__ import annotations

import pytest
from scipy.stats import norm

from onnx_soda.concepts.confirm import simultaneous_errors


def test_the_bound_shares_one_chance_in_twenty_among_all_pairs() -> None:
    """Two classes make two pairs: 0.025 each, 1.96 errors. 10 make 90 pairs, 43 make 1,806."""
    assert simultaneous_errors(2) == pytest.approx(1.96, abs=0.001)
    assert norm.sf(simultaneous_errors(10)) * 90 == pytest.approx(0.05)
    assert simultaneous_errors(43) > simultaneous_errors(10) > 3
