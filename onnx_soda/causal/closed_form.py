"""Closed-form causal attribution for affine tails.

A tail whose logits are an affine function of the layer is known completely once it has been run
on zeros and on each neuron alone: one batch instead of a run per neuron and image. Gemm,
MatMul and Add, BatchNormalization, average pooling and convolution are affine; whether the whole
tail is, is tested on random and on real activations before the result is used.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from onnx_soda.causal.interventions import (
    Attribution,
    ClosedForm,
    FloatArray,
    Intervention,
    Measured,
)
from onnx_soda.causal.tail import Tail

__all__ = ["attribute_closed_form", "is_affine", "probe_matrix"]

# Random directions tried, and their sizes: saturating activations (ReLU6, hard sigmoid) look
# affine for small values, thresholds look affine for large ones.
_TRIALS = 16
_SCALES = (0.1, 1.0, 30.0)
# Share of the largest logit that rounding may make; half precision rounds at 5e-4.
_TOLERANCE = {"float64": 1e-6, "float32": 1e-4, "float16": 2e-2}
# Bytes of one batch of unit vectors of a feature map.
_PART_BYTES = 64 * 2**20


def is_affine(
    tail: Tail, rng: np.random.Generator, real: NDArray[np.generic] | None = None
) -> bool:
    """Tell whether the logits are an affine function of the layer.

    Tests f(x + s d) - f(x) = s (f(d) - f(0)) for random x and d of several sizes s, and for pairs
    of real activations.

    Args:
        tail: The tail; one that needs further tensors counts as not affine.
        rng: Source of the random values.
        real: Activations of some images, shape (rows, *element_shape).
    """
    if not tail.reads_layer_alone or tail.element_shape is None:
        return False
    shape = (_TRIALS, *tail.element_shape)
    points = rng.standard_normal(shape) * rng.choice(_SCALES, size=(_TRIALS, *_ones(shape)))
    directions = rng.standard_normal(shape)
    if real is not None and len(real):
        chosen = rng.integers(len(real), size=(2, _TRIALS))
        points = np.concatenate([points, real[chosen[0]]])
        directions = np.concatenate([directions, real[chosen[1]]])
    return _moves_linearly(tail, points, directions)


def _ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1,) * (len(shape) - 1)


def _moves_linearly(tail: Tail, points: FloatArray, directions: FloatArray) -> bool:
    """Test f(x + s d) - f(x) = s (f(d) - f(0)) for every size s, in one run."""
    count = len(points)
    steps = [points + scale * directions for scale in _SCALES]
    logits = tail.logits(np.concatenate([*steps, points, directions, 0 * points[:1]]))
    if not np.isfinite(logits).all():
        return False
    *moved, start, alone, zero = np.split(logits, range(count, len(logits), count))
    tolerance = _TOLERANCE[tail.dtype.name]
    for scale, there in zip(_SCALES, moved, strict=True):
        error = np.abs((there - start) - scale * (alone - zero)).max()
        terms = (there, start, scale * alone, zero)
        if error > tolerance * max(float(np.abs(term).max()) for term in terms):
            return False
    return True


def probe_matrix(tail: Tail) -> FloatArray:
    """Return what 1 more of each neuron adds to each logit, shape (neurons, classes).

    For a neuron with many places (a channel of a feature map) it is 1 more at every place.
    """
    assert tail.element_shape is not None  # noqa: S101 - is_affine has made sure
    units = np.ones(tail.element_shape)
    return _run_alone(tail, units)


def _run_alone(tail: Tail, values: FloatArray) -> FloatArray:
    """Run the tail on each neuron's part of some values alone, less the run on zeros.

    Args:
        tail: An affine tail.
        values: Values of the whole layer for one image, shape element_shape.

    Returns:
        Shape (neurons, classes).
    """
    zero = tail.logits(np.zeros((1, *values.shape)))
    return np.concatenate([tail.logits(part) for part in _alone(values, tail.axis - 1)]) - zero


def _alone(values: FloatArray, axis: int) -> Iterator[FloatArray]:
    """Yield, in parts, copies of the values in which only one neuron is not 0."""
    neurons = values.shape[axis]
    step = max(1, _PART_BYTES // values.nbytes)
    for start in range(0, neurons, step):
        count = min(step, neurons - start)
        part = np.zeros((count, *values.shape), dtype=np.float32)
        rows = np.moveaxis(part, axis + 1, 1)
        index = np.arange(count)
        rows[index, start + index] = np.moveaxis(values, axis, 0)[start : start + count]
        yield part


def attribute_closed_form(
    tail: Tail, means: dict[int, FloatArray], intervention: Intervention
) -> Attribution:
    """Compute the causal attribution of an affine tail (Algorithm 1 without its loops).

    Args:
        tail: A tail for which `is_affine` holds.
        means: Mean activation of the layer per source class, shape element_shape each; may be
            empty where a = 1.
        intervention: a and b.
    """
    per_place = tail.element_shape is not None and len(tail.element_shape) > 1
    if per_place and intervention.a != 1:
        # Each place of a channel moves by another amount, but the tail is still linear.
        a, b = intervention.a, intervention.b
        shifts = {j: _run_alone(tail, (a - 1) * mean + b) for j, mean in means.items()}
        return Measured(shifts, "closed-form")
    matrix = probe_matrix(tail)
    if per_place:
        neurons = len(matrix)
        return ClosedForm(matrix, dict.fromkeys(means, np.zeros(neurons)), intervention)
    return ClosedForm(matrix, {j: mean.reshape(-1) for j, mean in means.items()}, intervention)
