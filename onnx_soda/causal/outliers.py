"""Anomaly index by median absolute deviation (MAD), paper section 3.2.1.

The index of a data point is its deviation from the median, divided by the deviation that is
typical of all points times 1.4826, which makes it a number of standard deviations where the
points are normal. The paper takes over 2 as an outlier.

What "typical" is, the paper says in two ways. It names the statistic Median Absolute Deviation
and cites Hampel (1974), whose statistic is the median of the absolute deviations, as is the
published toolkit's; 1.4826 is the constant that belongs to the median. Its text then says "MAD is
defined as the mean of these absolute deviations". `spread="median"` is the named statistic and
the default; `spread="mean"` is the sentence to the letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["CONSISTENCY", "DEFAULT_THRESHOLD", "Spread", "anomaly_index"]

Spread = Literal["median", "mean"]

# Makes the median absolute deviation of a normal sample estimate its standard deviation: 1 over
# the 75 % quantile of the standard normal distribution. Paper, section 3.2.1.
CONSISTENCY = 1.4826
# The same for the mean absolute deviation: the square root of pi / 2. It stands in where over
# half of the points are equal and their median deviation is 0 (Iglewicz and Hoaglin, How to
# Detect and Handle Outliers, 1993).
_MEAN_CONSISTENCY = 1.253314
# "Any data point with an anomaly index > 2 has > 95 % probability of being an outlier."
DEFAULT_THRESHOLD = 2.0


def anomaly_index(
    points: Sequence[float] | NDArray[np.float64], spread: Spread = "median"
) -> NDArray[np.float64]:
    """Return the signed anomaly index of each point, in units of the typical deviation.

    Args:
        points: Values of one statistic, shape (n,).
        spread: Typical deviation: the median (default) or the mean of the absolute deviations.

    Returns:
        Shape (n,), float64. Negative below the median. All 0 where all points are equal.
    """
    values = np.asarray(points, dtype=np.float64)
    if values.size == 0:
        return values
    deviations = values - np.median(values)
    sizes = np.abs(deviations)
    typical = CONSISTENCY * float(np.median(sizes) if spread == "median" else np.mean(sizes))
    if typical == 0:
        typical = _MEAN_CONSISTENCY * float(np.mean(sizes))
    return deviations / typical if typical else np.zeros_like(values)
