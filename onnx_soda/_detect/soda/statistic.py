"""From causal attributions to a target class and its victim (paper, Algorithms 2 and 3).

**Target (Algorithm 2).** For every source class j and prediction class c: the Pearson correlation
(PCC) between the causal attribution of the hidden neurons to c and their mean attribution to all
other classes. Averaged over the source classes, an abnormally small PCC marks a target class: a
backdoor reaches it through neurons that serve no other class.

**Victim (Algorithm 3).** The mean target logit over the clean images of each source class. The
victim's is abnormally large, because features of the victim contribute to the target too. Naturally
similar classes are filtered out: their relation goes both ways, the victim's does not (3.2.2).

**Abnormal (3.2.1).** The anomaly index of a data point is its deviation from the median, divided by
1.4826 times the deviation that is typical of all points. That is a number of standard deviations
where the points are normal; the paper takes over 2 as an outlier. What "typical" is, the paper says
in two ways. It names the Median Absolute Deviation and cites Hampel (1974), whose statistic is the
median of the absolute deviations, as is the published toolkit's; 1.4826 belongs to the median. Its
text then says "MAD is defined as the mean of these absolute deviations". `spread="median"` is the
named statistic and the default; `spread="mean"` is the sentence to the letter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda._options import DEFAULT_THRESHOLD, Spread

# Makes the median absolute deviation of a normal sample estimate its standard deviation: 1 over
# the 75 % quantile of the standard normal distribution. Paper, section 3.2.1.
CONSISTENCY = 1.4826
# The same for the mean absolute deviation: the square root of pi / 2. It stands in where over
# half of the points are equal and their median deviation is 0 (Iglewicz and Hoaglin, How to
# Detect and Handle Outliers, 1993).
_MEAN_CONSISTENCY = 1.253314


def anomaly_index(
    points: Sequence[float] | NDArray[np.float64], spread: Spread = "median"
) -> NDArray[np.float64]:
    """Return the signed anomaly index of each point, in units of the typical deviation.

    Args:
        points: Values of one statistic, shape (n,); of several, shape (..., n).
        spread: Typical deviation: the median (default) or the mean of the absolute deviations.

    Returns:
        Of the same shape, float64. Negative below the median. All 0 where all points are equal.
    """
    values = np.asarray(points, dtype=np.float64)
    if values.size == 0:
        return values
    deviations = values - np.median(values, axis=-1, keepdims=True)
    sizes = np.abs(deviations)
    mean = sizes.mean(axis=-1, keepdims=True)
    middle = np.median(sizes, axis=-1, keepdims=True) if spread == "median" else mean
    typical = np.where(middle == 0, _MEAN_CONSISTENCY * mean, CONSISTENCY * middle)
    index: FloatArray = np.divide(
        deviations, typical, out=np.zeros_like(values), where=typical != 0
    )
    return index


FloatArray = NDArray[np.float64]

# Normal samples drawn to tell how often one has an outlier, and the most numbers drawn for that.
_SAMPLES, _MOST_DRAWN = 20_000, 4_000_000


def false_alarm_threshold(points: int, rate: float = 0.05, spread: Spread = "median") -> float:
    """Return the anomaly index that is exceeded by chance alone in a share of all models.

    An index over 2 is rare for one point of a normal sample, and usual for one of many: by chance
    every third model of 10 classes has one, on one side alone. This is the index that so many
    independent normal points exceed, on one side, in this share of all samples. Drawn at random,
    always the same numbers; off by about 0.05 for 10 points.

    Args:
        points: Number of points: of classes, mostly.
        rate: Share of clean models that may be flagged.
        spread: See `anomaly_index`.
    """
    samples = max(1, min(_SAMPLES, _MOST_DRAWN // points))
    drawn = np.random.default_rng(0).standard_normal((samples, points))
    return float(np.quantile(anomaly_index(drawn, spread).max(axis=1), 1 - rate))


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
    total: FloatArray = np.zeros(())
    count = 0
    previous, pcc = None, np.empty(0)
    for source, attribution in attributions:
        # The closed form gives all sources one and the same array where a = 1.
        if attribution is not previous:
            previous, pcc = attribution, pearson_to_others(attribution)
        row = pcc.copy()
        if source is not None and source_is_class == "zero":
            row[source] = 0.0
        total, count = total + row, count + 1
    return judge_pcc(np.asarray(total / count), threshold, spread)


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
    means: Mapping[int, FloatArray],
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
        means: Mean logits of each source class, shape (classes,) each.
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
