"""Causal attribution of any tail: every intervention is run, the loops are in the runtime.

The intervention becomes part of the graph: x' = Where(mask, a x + b, x), with the mask, a and b as
inputs. The activations stay on the device; a run sends one mask of the neurons and gets logits.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_soda.causal.interventions import Advance, FloatArray, Intervention, Measured
from onnx_soda.causal.tail import Tail
from onnx_soda.model.runtime import Arrays, Session
from onnx_soda.model.split import serialise

__all__ = ["attribute_batched", "with_intervention"]

_PREFIX = "onnx_soda_do_"


def with_intervention(tail: Tail) -> ir.Model:
    """Return the tail with do(x = a x + b) in front of it.

    Its inputs are the layer and the tail's side inputs, then `mask` (bool, 1 for the neurons set,
    broadcast along the neuron axis), `a` and `b` (scalars), all with the prefix "onnx_soda_do_".
    """
    model = tail.head.model.clone()
    graph = model.graph
    layer = graph.inputs[0]
    mask = _input("mask", ir.DataType.BOOL, None)
    factor, offset = (_input(name, tail.head_dtype, []) for name in ("a", "b"))
    scaled = ir.node("Mul", [layer, factor])
    moved = ir.node("Add", [scaled.outputs[0], offset])
    chosen = ir.node("Where", [mask, moved.outputs[0], layer])
    own = {scaled, chosen}
    for user, index in tuple(layer.uses()):
        if user not in own:
            user.replace_input_with(index, chosen.outputs[0])
    for name, node in zip(("scaled", "moved", "set"), (scaled, moved, chosen), strict=True):
        node.outputs[0].name = _PREFIX + name
        node.outputs[0].dtype = tail.head_dtype
    graph.insert_before(graph[0], [scaled, moved, chosen])
    graph.inputs.extend([mask, factor, offset])
    return model


def _input(name: str, dtype: ir.DataType, shape: list[int] | None) -> ir.Value:
    known = ir.Shape(shape) if shape is not None else None
    return ir.Value(name=_PREFIX + name, type=ir.TensorType(dtype), shape=known)


def attribute_batched(
    tail: Tail,
    activations: NDArray[np.generic],
    labels: NDArray[np.integer],
    intervention: Intervention,
    sides: Arrays | None = None,
    advance: Advance | None = None,
) -> Measured:
    """Measure the causal attribution of every neuron (Algorithm 1, all classes at once).

    Args:
        tail: Any tail.
        activations: Layer values of the clean images, shape (images, *element_shape).
        labels: Source class of each image, shape (images,).
        intervention: a and b.
        sides: Values of `tail.needed` for the same images.
        advance: Called after each neuron.

    Raises:
        InferenceError: The tail does not run.
    """
    model = serialise(with_intervention(tail), tail.anatomy.model.folder)
    session = Session(model, tail.options, tail.session.fixed_batch)
    size = session.fixed_batch or tail.batch_size
    feeds = tail.feeds(activations, sides)
    batches = [
        session.upload({name: array[start : start + size] for name, array in feeds.items()})
        for start in range(0, len(activations), size)
    ]
    sources, membership = _membership(labels)
    scalars: Arrays = {
        f"{_PREFIX}a": np.asarray(intervention.a, dtype=tail.dtype),
        f"{_PREFIX}b": np.asarray(intervention.b, dtype=tail.dtype),
    }

    def source_means(neuron: int | None) -> FloatArray:
        extra = {f"{_PREFIX}mask": _mask(activations.shape, tail.axis, neuron), **scalars}
        logits = np.concatenate([session.run(batch, extra)[0] for batch in batches])
        return membership @ logits.reshape(len(labels), -1).astype(np.float64)

    before = source_means(None)
    neurons = activations.shape[tail.axis]
    shifts = np.empty((len(sources), neurons, before.shape[1]))
    for neuron in range(neurons):
        shifts[:, neuron] = source_means(neuron) - before
        if advance:
            advance(neuron + 1, neurons)
    return Measured(dict(zip(sources, shifts, strict=True)), "batched")


def _mask(shape: tuple[int, ...], axis: int, neuron: int | None) -> NDArray[np.bool_]:
    mask = np.zeros([size if i == axis else 1 for i, size in enumerate(shape)], dtype=np.bool_)
    if neuron is not None:
        np.moveaxis(mask, axis, 0)[neuron] = True
    return mask


def _membership(labels: NDArray[np.integer]) -> tuple[list[int], FloatArray]:
    """Return the source classes and the matrix that averages rows per source class."""
    sources = [int(label) for label in np.unique(labels)]
    matrix = np.stack([(labels == source).astype(np.float64) for source in sources])
    return sources, matrix / matrix.sum(axis=1, keepdims=True)
