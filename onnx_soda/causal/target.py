"""Target class detection, paper Algorithm 2.

For every source class j and prediction class c: the Pearson correlation (PCC) between the causal
attribution of the hidden neurons to c and their mean attribution to all other classes. Averaged
over the source classes, an abnormally small PCC marks a target class: a backdoor reaches it
through neurons that serve no other class.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda.causal.outliers import DEFAULT_THRESHOLD, Spread, anomaly_index

__all__ = ["TargetDetection", "detect_target", "judge_pcc", "pearson_to_others"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TargetDetection:
    """Result of Algorithm 2.

    Attributes:
        pcc: Mean PCC of each prediction class, shape (classes,).
        index: Signed anomaly index of each PCC, shape (classes,).
        threshold: A class is flagged where its index is below minus this.
        flagged: Classes flagged, the most abnormal first.
    """

    pcc: FloatArray
    index: FloatArray
    threshold: float
    flagged: tuple[int, ...]


def pearson_to_others(attribution: FloatArray) -> FloatArray:
    """Return the PCC of each class's attribution with the mean of the others'.

    Args:
        attribution: Causal attribution, shape (neurons, classes), absolute values.

    Returns:
        Shape (classes,). 0 where a class's attribution is the same for all neurons: a constant
        correlates with nothing. NaN where attributions are not numbers.
    """
    classes = attribution.shape[1]
    # By a power of two, so that squares neither overflow nor vanish; a correlation has no scale.
    attribution = np.ldexp(attribution, -np.frexp(attribution.max(initial=0.0))[1])
    others = (attribution.sum(axis=1, keepdims=True) - attribution) / (classes - 1)
    own = attribution - attribution.mean(axis=0)
    others = others - others.mean(axis=0)
    scale = np.sqrt((own**2).sum(axis=0) * (others**2).sum(axis=0))
    covariance: FloatArray = (own * others).sum(axis=0)
    pcc: FloatArray = np.divide(covariance, scale, out=np.zeros(classes), where=scale != 0)
    return pcc


def detect_target(
    attributions: Iterable[tuple[int | None, FloatArray]],
    threshold: float = DEFAULT_THRESHOLD,
    spread: Spread = "median",
    source_is_class: str = "keep",
) -> TargetDetection:
    """Find prediction classes with an abnormally small PCC.

    Args:
        attributions: For each source class its number and the absolute causal attribution,
            shape (neurons, classes); the number is None for one that holds for any image.
        threshold: Anomaly index over which a PCC is abnormal. The paper's 2; its published
            toolkit changes it per model, which onnx-soda leaves to the caller.
        spread: Typical deviation of the anomaly index, see `outliers`.
        source_is_class: What enters the mean where source and prediction class are the same:
            "keep" the PCC, as Algorithm 2 says, or "zero", as the published toolkit does.
    """
    rows = []
    previous, pcc = None, np.empty(0)
    for source, attribution in attributions:
        # The closed form gives all sources one and the same array where a = 1.
        if attribution is not previous:
            previous, pcc = attribution, pearson_to_others(attribution)
        row = pcc.copy()
        if source is not None and source_is_class == "zero":
            row[source] = 0.0
        rows.append(row)
    return judge_pcc(np.mean(rows, axis=0), threshold, spread)


def judge_pcc(
    pcc: FloatArray, threshold: float = DEFAULT_THRESHOLD, spread: Spread = "median"
) -> TargetDetection:
    """Flag the abnormally small ones among the PCC values of all classes (Algorithm 2, line 6).

    The test is one-sided: a PCC abnormally close to 1 is no sign of a backdoor.
    """
    index = anomaly_index(pcc, spread)
    order = np.argsort(index)
    flagged = tuple(int(c) for c in order if index[c] < -threshold)
    return TargetDetection(np.asarray(pcc, dtype=np.float64), index, threshold, flagged)
