"""The smallest shift of the last hidden layer that sends all clean images to a class.

Iwahana, Yamasaki, Ito, Miura and Shibahara, Robust Backdoor Removal by Reconstructing
Trigger-Activated Changes in Latent Representation, arXiv 2511.08944 (2025), first phase. A trigger
moves the last hidden layer of any image to where the target class wins. What one shift has to do at
least is a convex quadratic program in the head alone. With w_c the weights of class c, s a shift of
the layer and x_i the layer of clean image i:

    s_k = argmin 1/2 |s|^2   so that   (w_k - w_j) (s + x_i) >= 0   for all j other than k, all i

A class that needs an abnormally small shift is the target. The program is quoted from summaries of
the paper; its text was not at hand. Three things are therefore our own:

- Biases. Heads here have some: what is asked is that the logit of k is the largest.
- The form. Only the worst image counts for each j, so there is one constraint for each other class:
  (w_k - w_j) s >= max over i of (y_j - y_k), with the logits y of the images as they are. That is
  least distance programming, solved exactly by non-negative least squares (Lawson and Hanson,
  Solving Least Squares Problems, 1974, chapter 23). A head of C classes moves the logits in at most
  C directions, so s is looked for among these.
- The test. "Statistically small" is an anomaly index by the median absolute deviation, as in SODA
  and Neural Cleanse, on the low side. Its threshold is the one that 5 % of the models without any
  difference between classes exceed ("paper"), or SODA's 2 ("published", `threshold`), which every
  third of 10 classes exceeds. The SODA paper does not compare itself with this method.

The paper then trains against the shift; that is a repair, and not done here.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
from scipy.optimize import nnls

from onnx_soda._detect.baselines.base import (
    NO_LAYER,
    Baseline,
    Opinion,
    abstention,
    strongest_first,
)
from onnx_soda._detect.soda.attribution import FloatArray, is_affine, probe_matrix
from onnx_soda._detect.soda.statistic import anomaly_index, false_alarm_threshold
from onnx_soda._numbers import NamedPair, Outcome
from onnx_soda._options import Progress, ScanOptions
from onnx_soda._results import Chart
from onnx_soda._suspect import Summary, Suspect
from onnx_soda._words import class_label

# Two points are always equally far from their median, so no outlier can be found among them.
_FEWEST_CLASSES = 3
# Classes in a chart; those of the smallest shifts first.
_MOST_CLASSES = 43
# A shift of over 1e5 times what the furthest constraint asks for by itself is none: there the
# residual, 1 / (1 + |s|^2), is lost in rounding.
_NO_SHIFT = 1e-10
# Rounds of non-negative least squares, per constraint; 3 is scipy's own and has been too few.
_ROUNDS = 30
_SCORE_IS = "anomaly index of the shift's size, low side"
_abstains = partial(abstention, score_is=_SCORE_IS)


class MinimalShift(Baseline):
    """Finds the class that the smallest shift of the last hidden layer reaches.

    It names a target class and no victim. Budget: clean images once, as they are, and one small
    program for each class: less than a second for 10 classes.
    """

    name: ClassVar[str] = "head-qp"
    title: ClassVar[str] = "Minimal latent shift"
    source: ClassVar[str] = "Iwahana et al., arXiv 2511.08944, 2025"

    def ask(self, suspect: Suspect, progress: Progress) -> Opinion:
        """See `Baseline.ask`."""
        seen, layer = suspect.observation, suspect.anatomy.layer
        assert seen is not None  # noqa: S101 - the detector needs clean images
        if layer.only_read:
            return _abstains(NO_LAYER)
        suspect.tail.learn_shape(seen.layer)
        if not is_affine(suspect.tail, np.random.default_rng(suspect.options.seed), seen.layer):
            return _abstains(
                f"From the {layer.role} layer on the model is not affine, and the program needs "
                "weights of classes. Take the last layer."
            )
        sizes = smallest_shifts(probe_matrix(suspect.tail, "places"), margins(seen), progress)
        names = suspect.clean.class_names if suspect.clean else None
        return _opinion(sizes, len(seen.labels), suspect.options, names)


def margins(seen: Summary) -> FloatArray:
    """Return how far each class has to catch up, shape (classes, classes).

    [k, j] is the largest of (y_j - y_k) over all images.
    """
    classes = seen.classes
    largest: FloatArray = np.full((classes, classes), -np.inf)
    for block in seen.blocks():
        logits = block.logits.astype(np.float64)
        for target in range(classes):
            ahead = (logits - logits[:, [target]]).max(axis=0)
            largest[target] = np.maximum(largest[target], ahead)
    return largest


def smallest_shifts(head: FloatArray, ahead: FloatArray, progress: Progress) -> FloatArray:
    """Return the size of the smallest shift to each class, shape (classes,); infinite for none.

    Args:
        head: What 1 more of each number of the layer adds to each logit, shape (numbers, classes).
        ahead: How far each class has to catch up with each other one; see `margins`.
        progress: Called after each class.
    """
    classes = len(ahead)
    # The shift lies where the head looks: in the span of its columns, whose lengths and angles the
    # triangle of a QR decomposition has.
    columns = np.linalg.qr(head).R.T
    sizes: FloatArray = np.empty(classes)
    for target in range(classes):
        others = np.arange(classes) != target
        shift = smallest(columns[target] - columns[others], ahead[target, others])
        sizes[target] = np.inf if shift is None else np.linalg.norm(shift)
        progress("smallest shifts", target + 1, classes)
    return sizes


def smallest(normals: FloatArray, bounds: FloatArray) -> FloatArray | None:
    """Return the shortest vector s with normals @ s >= bounds; None where there is none.

    Args:
        normals: Shape (constraints, numbers).
        bounds: Shape (constraints,).
    """
    lengths = np.linalg.norm(normals, axis=1)
    if (bounds[lengths == 0] > 0).any():
        return None
    # Constraints of length 1, the furthest of which asks for 1: then rounding is far away.
    distances = bounds[lengths > 0] / lengths[lengths > 0]
    furthest = distances.max(initial=0.0)
    if furthest <= 0:
        return np.zeros(normals.shape[1])
    units = normals[lengths > 0] / lengths[lengths > 0, np.newaxis]
    matrix = np.vstack([units.T, distances / furthest])
    wanted = np.zeros(len(matrix))
    wanted[-1] = 1
    try:
        found, _ = nnls(matrix, wanted, maxiter=_ROUNDS * matrix.shape[1])
    except RuntimeError:  # it came to no end
        return None
    residual = wanted - matrix @ found
    if residual[-1] <= _NO_SHIFT:
        return None
    shift: FloatArray = -furthest * residual[:-1] / residual[-1]
    return shift


def _opinion(
    sizes: FloatArray, images: int, options: ScanOptions, names: tuple[str, ...] | None
) -> Opinion:
    reached = np.flatnonzero(np.isfinite(sizes))
    details = {
        "sizes": tuple(float(size) if np.isfinite(size) else None for size in sizes),
        "images": images,
    }
    if len(reached) < _FEWEST_CLASSES:
        why = f"Shifts to {len(reached)} of {len(sizes)} classes: no outlier can be told."
        outcome: Outcome = "abstains" if len(sizes) < _FEWEST_CLASSES else "not optimised"
        return Opinion(outcome, (), None, _SCORE_IS, why, details)
    published = options.parameters == "published"
    threshold = options.threshold
    if not published:
        threshold = false_alarm_threshold(len(reached), spread=options.spread)
    index = anomaly_index(sizes[reached], options.spread)
    named = strongest_first(
        [NamedPair(None, int(k), -float(i)) for k, i in zip(reached, index, strict=True)],
        threshold,
    )
    return Opinion(
        outcome="flagged" if named[0].flagged else "nothing flagged",
        named=named,
        threshold=threshold,
        score_is=_SCORE_IS,
        statement=(
            "The smallest shift of the last hidden layer that sends all clean images to a class: "
            f"{sizes[reached].min():.3g} for the nearest class, {np.median(sizes[reached]):.3g} in "
            f"the median.{_left_out(len(sizes) - len(reached))} A class is flagged whose shift is "
            f"abnormally small; the threshold is {_of(published)}."
        ),
        details=details,
        charts=(_chart(sizes, named, names),),
    )


def _left_out(missing: int) -> str:
    return f" No shift sends them to {missing} of the classes." if missing else ""


def _of(published: bool) -> str:
    return (
        "that of the SODA paper" if published else "one that 5 % of clean models exceed by chance"
    )


def _chart(sizes: FloatArray, named: tuple[NamedPair, ...], names: tuple[str, ...] | None) -> Chart:
    shown = named[:_MOST_CLASSES]
    return Chart(
        "bars",
        "Smallest shift to each class",
        "Size of the smallest shift of the last hidden layer that sends all clean images to the "
        "class, the smallest first.",
        tuple(class_label(pair.target_class, names) for pair in shown),
        tuple((float(sizes[pair.target_class]),) for pair in shown),
        tuple(row for row, pair in enumerate(shown) if pair.flagged),
    )
