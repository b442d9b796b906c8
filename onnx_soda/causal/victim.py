"""Victim class detection, paper Algorithm 3.

The mean target logit over the clean images of each source class: the victim's is abnormally large,
because features of the victim contribute to the target too. Naturally similar classes are filtered
out: their relation goes both ways, the victim's does not (section 3.2.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda.causal.outliers import DEFAULT_THRESHOLD, Spread, anomaly_index

__all__ = ["VictimDetection", "detect_victim", "judge_target_logits", "mean_logits"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class VictimDetection:
    """Result of Algorithm 3 for one target class.

    Attributes:
        target_class: The target.
        victim_class: The source class named; None where there is no source class to name.
        index: Its anomaly index.
        strong: Its index is over the threshold. Where no class's is, the class with the largest
            target logit is named all the same, as weaker evidence (paper, Example 3.3).
        target_logits: Mean target logit of each source class except the target, in its order.
        indices: Anomaly index of each of them.
        similar: Classes over the threshold that were filtered out as naturally similar.
    """

    target_class: int
    victim_class: int | None
    index: float
    strong: bool
    target_logits: dict[int, float]
    indices: dict[int, float]
    similar: tuple[int, ...]


def mean_logits(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> dict[int, FloatArray]:
    """Return the mean logits over the images of each source class.

    Args:
        logits: Shape (images, classes).
        labels: Shape (images,).

    Returns:
        For each label that occurs an array of shape (classes,), float64.
    """
    return {
        int(source): logits[labels == source].mean(axis=0, dtype=np.float64)
        for source in np.unique(labels)
    }


def judge_target_logits(
    target_class: int,
    target_logits: dict[int, float],
    threshold: float = DEFAULT_THRESHOLD,
    spread: Spread = "median",
    zero_for_target: bool = False,
) -> VictimDetection:
    """Find the source class whose target logit is abnormally large (Algorithm 3, line 3).

    Args:
        target_class: The target.
        target_logits: Mean target logit of each source class except the target.
        threshold: Anomaly index over which a logit is abnormal.
        spread: Typical deviation of the anomaly index, see `outliers`.
        zero_for_target: Judge with a 0 in the target's own place, as the published toolkit does;
            the paper leaves the target out.
    """
    sources = list(target_logits)
    values = [target_logits[source] for source in sources]
    index = anomaly_index([*values, 0.0] if zero_for_target else values, spread)[: len(values)]
    indices = {source: float(i) for source, i in zip(sources, index, strict=True)}
    victim = max(sources, key=lambda source: target_logits[source], default=None)
    best = indices[victim] if victim is not None else 0.0
    return VictimDetection(
        target_class, victim, best, best > threshold, dict(target_logits), indices, ()
    )


def detect_victim(
    target_class: int,
    means: dict[int, FloatArray],
    threshold: float = DEFAULT_THRESHOLD,
    spread: Spread = "median",
    zero_for_target: bool = False,
) -> VictimDetection:
    """Find the victim class of a target class, filtering naturally similar classes.

    Where several source classes are abnormal, those for which the relation is bidirectional are
    filtered out: the target's own clean images give that class an abnormally large logit too. If
    that filters out all of them, none is: then the filter tells nothing.

    Args:
        target_class: The target.
        means: Mean logits of each source class, shape (classes,) each, see `mean_logits`.
        threshold: Anomaly index over which a logit is abnormal.
        spread: Typical deviation of the anomaly index.
        zero_for_target: See `judge_target_logits`.
    """

    def judge(target: int) -> VictimDetection:
        logits = {source: float(m[target]) for source, m in means.items() if source != target}
        return judge_target_logits(target, logits, threshold, spread, zero_for_target)

    found = judge(target_class)
    abnormal = [source for source, index in found.indices.items() if index > threshold]
    if len(abnormal) < 2:
        return found
    similar = [s for s in abnormal if judge(s).indices.get(target_class, 0.0) > threshold]
    left = [source for source in abnormal if source not in similar] or abnormal
    victim = max(left, key=lambda source: found.target_logits[source])
    return VictimDetection(
        target_class,
        victim,
        found.indices[victim],
        True,
        found.target_logits,
        found.indices,
        tuple(similar) if len(similar) < len(abnormal) else (),
    )
