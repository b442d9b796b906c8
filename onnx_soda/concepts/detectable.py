"""How much a change must turn to be reported: what few images and many classes leave unseen."""

from __future__ import annotations

from itertools import count

import numpy as np

from onnx_soda.concepts.confirm import simultaneous_errors
from onnx_soda.concepts.folds import FOLDS
from onnx_soda.concepts.score import standard_error

__all__ = ["images_needed", "least_detectable"]


def least_detectable(images: int, classes: int, threshold: float) -> float | None:
    """Return the least share of a class that a change must turn to be reported.

    At best: if the reference turned none of it and the change did nothing else. A pair is reported
    where its bound is over the threshold, and the bound lies below the share by what
    `simultaneous_errors` and `standard_error` say.

    Args:
        images: Of the class, in each fold, to look at and to fit the reference to.
        classes: Number of classes.
        threshold: Over which a bound is reported.

    Returns:
        From 0 to 1, in steps of 0.01; None where even the whole class would not be reported.
    """
    shares = np.linspace(0, 1, 101)
    model_and_reference = np.stack([shares, np.zeros_like(shares)], axis=1)[:, :, None, None]
    counts = np.array([images])
    error = standard_error(model_and_reference, np.ones(1), counts, counts)[:, 0, 0]
    # The score is the mean over folds that share no image.
    bounds = shares - simultaneous_errors(classes) * error / np.sqrt(FOLDS)
    seen = shares[bounds > threshold]
    return float(seen[0]) if len(seen) else None


def images_needed(share: float, classes: int, threshold: float) -> int:
    """Return how many images of a class a fold needs for a change that turns this share to show.

    Args:
        share: Of the class, as in `least_detectable`; over the threshold.
        classes: Number of classes.
        threshold: Over which a bound is reported.

    Raises:
        ValueError: A share up to the threshold is never reported.
    """
    if share <= threshold:
        raise ValueError(f"a share of {share} is not over the threshold of {threshold}")
    enough = (n for n in count(1) if (least_detectable(n, classes, threshold) or 2) <= share)
    return next(enough)
