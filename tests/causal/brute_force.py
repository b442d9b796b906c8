"""Causal attribution as Algorithm 1 is written: neuron by neuron, source class by source class.

The reference that the fast ways are tested and timed against.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_soda._detect.soda.attribution import Advance, FloatArray, Measured
from onnx_soda._model.parts import Tail
from onnx_soda._model.runtime import Arrays
from onnx_soda._options import Intervention


def attribute_brute_force(
    tail: Tail,
    activations: NDArray[np.generic],
    labels: NDArray[np.integer],
    intervention: Intervention,
    sides: Arrays | None = None,
    advance: Advance | None = None,
) -> Measured:
    """Run the tail once per neuron and source class, with that neuron set to a x + b.

    Args:
        tail: Any tail.
        activations: Layer values of the clean images, shape (images, *element_shape).
        labels: Source class of each image, shape (images,).
        intervention: a and b.
        sides: Values of `tail.needed` for the same images.
        advance: Called after each neuron of each source class.
    """
    shifts: dict[int, FloatArray] = {}
    sources, neurons = np.unique(labels), activations.shape[tail.axis]
    for source in sources:
        rows = labels == source
        own, own_sides = activations[rows], {k: v[rows] for k, v in (sides or {}).items()}
        before = tail.logits(own, own_sides).mean(axis=0)
        changes = []
        for neuron in range(neurons):
            changed = own.copy()
            view = np.moveaxis(changed, tail.axis, 1)
            view[:, neuron] = intervention.a * view[:, neuron] + intervention.b
            changes.append(tail.logits(changed, own_sides).mean(axis=0) - before)
            if advance:
                advance(len(shifts) * neurons + neuron + 1, len(sources) * neurons)
        shifts[int(source)] = np.stack(changes)
    return Measured(shifts, "brute-force")
