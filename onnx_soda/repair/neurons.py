"""Chooses the neurons that are responsible for the target class (paper, section 3.3, Step 4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_soda.causal.interventions import Attribution
from onnx_soda.causal.outliers import anomaly_index

__all__ = ["outstanding_neurons", "responsibility"]

FloatArray = NDArray[np.float64]


def responsibility(attribution: Attribution, target: int) -> FloatArray:
    """Return the causal attribution of every neuron to the target, shape (neurons,).

    The mean over source classes of the absolute change of the mean target logit (Equation 1).

    Args:
        attribution: Of the analysed layer.
        target: The class.
    """
    sources: tuple[int | None, ...] = attribution.sources
    if attribution.same_for_all:
        sources = (None,)
    shifts = np.stack([np.abs(attribution.shift(source)[:, target]) for source in sources])
    mean: FloatArray = shifts.mean(axis=0)
    return mean


def outstanding_neurons(
    attribution: Attribution, target: int, top: float | None, threshold: float
) -> NDArray[np.intp]:
    """Return the outstanding neurons, sorted.

    Args:
        attribution: Of the analysed layer.
        target: The class that they push to.
        top: Share of all neurons to take, those of the largest attribution; None takes the
            outliers by median absolute deviation, as the paper does.
        threshold: Anomaly index of an outlier.
    """
    strength = responsibility(attribution, target)
    if top is None:
        return np.flatnonzero(anomaly_index(strength) > threshold)
    count = max(round(top * len(strength)), 1)
    return np.sort(np.argsort(-strength, kind="stable")[:count])
