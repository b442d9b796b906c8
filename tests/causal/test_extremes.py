"""Attributions very large, very small, or no numbers: never taken for "nothing stands out"."""

from __future__ import annotations

import numpy as np
import pytest

from fixtures.graphs import build
from onnx_soda import ScanOptions, load_model, scan
from onnx_soda._detect.soda.statistic import pearson_to_others
from onnx_soda._errors import InferenceError
from onnx_soda._options import Intervention

ATTRIBUTION = np.random.default_rng(0).random((20, 5))


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_a_correlation_has_no_scale(scale: float) -> None:
    """Squares of 1e-300 vanish and squares of 1e300 are infinite; the correlation is the same."""
    found = pearson_to_others(scale * ATTRIBUTION)
    expected = [
        np.corrcoef(ATTRIBUTION[:, c], np.delete(ATTRIBUTION, c, axis=1).mean(axis=1))[0, 1]
        for c in range(5)
    ]
    # 1e-320 is denormal and has three digits.
    np.testing.assert_allclose(found, expected, atol=1e-12 if scale > 1e-310 else 1e-2)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("broken", [np.inf, np.nan])
def test_what_is_no_number_has_no_correlation(broken: float) -> None:
    attribution = ATTRIBUTION.copy()
    attribution[0, 0] = broken
    assert np.isnan(pearson_to_others(attribution)).any()


def test_a_scan_says_so() -> None:
    model = load_model(build("gemm").SerializeToString())
    with pytest.raises(InferenceError, match="values that are not numbers") as caught:
        scan(model, options=ScanOptions(intervention=Intervention(b=1e308)))
    assert caught.value.advice
