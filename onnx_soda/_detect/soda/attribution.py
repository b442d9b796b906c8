"""Causal attribution: what an intervention on a hidden neuron does to each class (paper, 3.1).

Equation 2 sets a neuron x to x' = a x + b. Equations 1, 3 and 4 take the change of the mean class
activation value under that as the attribution of the neuron to the class, for the clean images of
each source class (Algorithm 1). The class activation value is the logit before the softmax. The
absolute value is taken of the mean's change, as Equation 1 writes it; the published toolkit
averages absolute changes instead. For an affine tail the two are the same.

A neuron is a channel of a feature map, with all its places, or every place of every channel.

There are two ways, and a third for many neurons (`onnx_soda._detect.soda.slopes`):

- Closed form, for affine tails. Such a tail is known completely once it has been run on zeros and
  on each neuron alone: one batch instead of a run per neuron and image. Gemm, MatMul and Add,
  BatchNormalization, average pooling and convolution are affine. Whether the whole tail is, is
  tested on random and on real activations.
- Batched, for all others. The intervention becomes part of the graph: x' = Where(mask, a x + b, x).
  The activations stay on the device; a run sends one mask of the neurons and gets logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_soda._model.parts import Tail, serialise
from onnx_soda._model.runtime import Arrays, Session
from onnx_soda._numbers import EstimateNumbers
from onnx_soda._options import Intervention, NeuronKind, Setting

FloatArray = NDArray[np.float64]

Advance = Callable[[int, int], None]
"""Called after each intervention that is run, with the number done and the number in all."""


class Attribution(Protocol):
    """Causal attribution of every neuron to every class, per source class.

    Attributes:
        method: "closed-form", "batched" or "first-order".
        estimate: How good estimates are; None where nothing is estimated.
        sources: Source classes that were examined; empty where no clean set was used.
        same_for_all: The attribution is the same for every source class, and for any image.
    """

    @property
    def method(self) -> str: ...

    @property
    def estimate(self) -> EstimateNumbers | None: ...

    @property
    def sources(self) -> tuple[int, ...]: ...

    @property
    def same_for_all(self) -> bool: ...

    def shift(self, source: int | None) -> FloatArray:
        """Return E[y_c | do(x)] - E[y_c], shape (neurons, classes), signed.

        Args:
            source: Source class; None for the shift that holds for any image, where there is one.
        """
        ...


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """Attribution through an affine tail, without a loop over neurons.

    With logits y = offset + x A, do(x_i = a x_i + b) shifts y_c by ((a - 1) x_i + b) A[i, c], and
    its mean by ((a - 1) E[x_i] + b) A[i, c]. With a = 1 no image is needed.

    Attributes:
        matrix: A, shape (neurons, classes): what 1 more of a neuron adds to each logit.
        means: Mean activation of each neuron per source class, shape (neurons,) each.
        intervention: a and b.
        method: How it was computed.
        estimate: Nothing is estimated.
    """

    matrix: FloatArray
    means: dict[int, FloatArray]
    intervention: Intervention
    method: str = "closed-form"
    estimate: EstimateNumbers | None = None

    @property
    def sources(self) -> tuple[int, ...]:
        """Source classes that were examined."""
        return tuple(self.means)

    @property
    def same_for_all(self) -> bool:
        """Whether the shift is the same for every image: it is where a = 1."""
        return self.intervention.a == 1

    def shift(self, source: int | None) -> FloatArray:
        """Return the signed shift of each logit, shape (neurons, classes).

        Raises:
            ValueError: No source class is given and a is not 1.
        """
        a, b = self.intervention.a, self.intervention.b
        if source is None:
            if a != 1:
                raise ValueError("with a other than 1 the shift depends on the images")
            return b * self.matrix
        return ((a - 1) * self.means[source] + b)[:, np.newaxis] * self.matrix


@dataclass(frozen=True, eq=False)
class Measured:
    """Attribution measured by running the tail with interventions.

    Attributes:
        shifts: Signed shift per source class, shape (neurons, classes) each.
        method: How it was computed.
        estimate: How good estimates are; None where every intervention was run.
    """

    shifts: Mapping[int, NDArray[np.floating]]
    method: str
    estimate: EstimateNumbers | None = None

    @property
    def sources(self) -> tuple[int, ...]:
        """Source classes that were examined."""
        return tuple(self.shifts)

    @property
    def same_for_all(self) -> bool:
        """Whether the shift is the same for every image; a measured one is not taken to be."""
        return False

    def shift(self, source: int | None) -> FloatArray:
        """Return the signed shift of each logit, shape (neurons, classes).

        Raises:
            ValueError: No source class is given: a measured shift belongs to images.
        """
        if source is None:
            raise ValueError("a measured shift belongs to a source class")
        return self.shifts[source].astype(np.float64, copy=False)


# Random directions tried, and their sizes: saturating activations (ReLU6, hard sigmoid) look
# affine for small values, thresholds look affine for large ones.
_TRIALS = 16
_SCALES = (0.1, 1.0, 30.0)
# Share of the largest logit that rounding may make; half precision rounds at 5e-4.
_TOLERANCE = {"float64": 1e-6, "float32": 1e-4, "float16": 2e-2}
# Bytes of one batch of unit vectors of a feature map.
_PART_BYTES = 16 * 2**20


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
    """Test f(x + s d) - f(x) = s (f(d) - f(0)) for every size s."""
    moved = [tail.logits(points + scale * directions) for scale in _SCALES]
    start, alone, zero = map(tail.logits, (points, directions, 0 * points[:1]))
    if not all(np.isfinite(logits).all() for logits in (*moved, start, alone, zero)):
        return False
    tolerance = _TOLERANCE[tail.dtype.name]
    for scale, there in zip(_SCALES, moved, strict=True):
        error = np.abs((there - start) - scale * (alone - zero)).max()
        terms = (there, start, scale * alone, zero)
        if error > tolerance * max(float(np.abs(term).max()) for term in terms):
            return False
    return True


def probe_matrix(tail: Tail, kind: NeuronKind = "channels") -> FloatArray:
    """Return what 1 more of each neuron adds to each logit, shape (neurons, classes).

    For a neuron with many places (a channel of a feature map) it is 1 more at every place.
    """
    assert tail.element_shape is not None  # noqa: S101 - is_affine has made sure
    units = np.ones(tail.element_shape)
    return _run_alone(tail, units, kind)


def _run_alone(tail: Tail, values: FloatArray, kind: NeuronKind) -> FloatArray:
    """Run the tail on each neuron's part of some values alone, less the run on zeros.

    Args:
        tail: An affine tail.
        values: Values of the whole layer for one image, shape element_shape.
        kind: What a neuron is.

    Returns:
        Shape (neurons, classes).
    """
    zero = tail.logits(np.zeros((1, *values.shape)))
    parts = _alone(values, tail.axis, kind)
    return np.concatenate([tail.logits(part) for part in parts]) - zero


def _alone(values: FloatArray, axis: int, kind: NeuronKind) -> Iterator[NDArray[np.float32]]:
    """Yield, in parts, copies of the values in which only one neuron is not 0."""
    whole = by_neuron(values[np.newaxis], axis, kind)[0]
    step = max(1, _PART_BYTES // values.nbytes)
    for start in range(0, len(whole), step):
        count = min(step, len(whole) - start)
        part = np.zeros((count, *values.shape), dtype=np.float32)
        index = np.arange(count)
        by_neuron(part, axis, kind)[index, start + index] = whole[start : start + count]
        yield part


Value = TypeVar("Value", bound=np.generic)


def by_neuron(values: NDArray[Value], axis: int, kind: NeuronKind) -> NDArray[Value]:
    """Return a view of a layer's values, images first, in which neurons are the second axis.

    Args:
        values: Shape (images, *element_shape).
        axis: Axis of the channels.
        kind: What a neuron is.
    """
    return np.moveaxis(values, axis, 1) if kind == "channels" else values.reshape(len(values), -1)


def count_neurons(layer: NDArray[np.generic], axis: int, kind: NeuronKind) -> int:
    """Return the number of neurons of a layer, from its values for some images."""
    return prod(layer.shape[1:]) if kind == "places" else layer.shape[axis]


def attribute_closed_form(
    tail: Tail,
    means: dict[int, FloatArray],
    intervention: Intervention,
    kind: NeuronKind = "channels",
) -> Attribution:
    """Compute the causal attribution of an affine tail (Algorithm 1 without its loops).

    Args:
        tail: A tail for which `is_affine` holds.
        means: Mean activation of the layer per source class, shape element_shape each; may be
            empty where a = 1.
        intervention: a and b.
        kind: What a neuron is.
    """
    per_place = kind == "channels" and len(tail.element_shape or ()) > 1
    if per_place and intervention.a != 1:
        # Each place of a channel moves by another amount, but the tail is still linear.
        a, b = intervention.a, intervention.b
        shifts = {j: _run_alone(tail, (a - 1) * mean + b, kind) for j, mean in means.items()}
        return Measured(shifts, "closed-form")
    matrix = probe_matrix(tail, kind)
    if per_place:
        neurons = len(matrix)
        return ClosedForm(matrix, dict.fromkeys(means, np.zeros(neurons)), intervention)
    return ClosedForm(matrix, {j: mean.reshape(-1) for j, mean in means.items()}, intervention)


_PREFIX = "onnx_soda_do_"


def with_intervention(tail: Tail) -> ir.Model:
    """Return the tail with do(x = a x + b) in front of it.

    Its inputs are the layer and the tail's side inputs, then `mask` (bool, 1 for the neurons set,
    broadcast along the neuron axis), `a` and `b` (scalars), all with the prefix "onnx_soda_do_".
    """
    model = tail.graph.model.clone()
    graph = model.graph
    layer = graph.inputs[0]
    mask = _input("mask", ir.DataType.BOOL, None)
    factor, offset = (_input(name, tail.layer_dtype, []) for name in ("a", "b"))
    scaled = ir.node("Mul", [layer, factor])
    moved = ir.node("Add", [scaled.outputs[0], offset])
    chosen = ir.node("Where", [mask, moved.outputs[0], layer])
    own = {scaled, chosen}
    for user, index in tuple(layer.uses()):
        if user not in own:
            user.replace_input_with(index, chosen.outputs[0])
    for name, node in zip(("scaled", "moved", "set"), (scaled, moved, chosen), strict=True):
        node.outputs[0].name = _PREFIX + name
        node.outputs[0].dtype = tail.layer_dtype
    graph.insert_before(graph[0], [scaled, moved, chosen])
    graph.inputs.extend([mask, factor, offset])
    return model


def _input(name: str, dtype: ir.DataType, shape: list[int] | None) -> ir.Value:
    known = ir.Shape(shape) if shape is not None else None
    return ir.Value(name=_PREFIX + name, type=ir.TensorType(dtype), shape=known)


class Interventions:
    """The tail with do(x = a x + b) in front of it, over images that stay on the device.

    Args:
        tail: Any tail.
        activations: Layer values of the images, shape (images, *element_shape).
        labels: Source class of each image, shape (images,).
        setting: a and b.
        sides: Values of `tail.needed` for the same images.
        kind: What a neuron is.

    Attributes:
        sources: The source classes.
        neurons: Number of neurons.

    Raises:
        InferenceError: The tail does not run.
    """

    def __init__(
        self,
        tail: Tail,
        activations: NDArray[np.generic],
        labels: NDArray[np.integer],
        setting: Setting,
        sides: Arrays | None = None,
        kind: NeuronKind = "channels",
    ) -> None:
        model = serialise(with_intervention(tail), tail.anatomy.model.folder)
        self._session = Session(model, tail.options, tail.session.fixed_batch)
        size = self._session.fixed_batch or tail.batch_size
        feeds = tail.feeds(activations, sides)
        self._batches = [
            self._session.upload({name: rows[start : start + size] for name, rows in feeds.items()})
            for start in range(0, len(activations), size)
        ]
        self.sources, self._membership = _membership(labels)
        self._scalars: Arrays = {
            f"{_PREFIX}a": np.asarray(setting.a, dtype=tail.dtype),
            f"{_PREFIX}b": np.asarray(setting.b, dtype=tail.dtype),
        }
        element = activations.shape[1:]
        shared = [n if i + 1 == tail.axis else 1 for i, n in enumerate(element)]
        self._shape = (1, *(shared if kind == "channels" else element))
        self.neurons = prod(self._shape)
        self._before = self.means(self.logits(np.zeros(self.neurons, dtype=np.bool_)))

    def logits(self, chosen: NDArray[np.bool_]) -> FloatArray:
        """Return the logits of all images with some neurons set, shape (images, classes).

        Args:
            chosen: Whether each neuron is, shape (neurons,).
        """
        extra = {f"{_PREFIX}mask": chosen.reshape(self._shape), **self._scalars}
        logits = np.concatenate([self._session.run(batch, extra)[0] for batch in self._batches])
        return logits.reshape(len(logits), -1).astype(np.float64)

    def means(self, values: FloatArray) -> FloatArray:
        """Return the mean of values of all images over each source class, shape (sources, ...)."""
        return self._membership @ values

    def shift(self, neuron: int) -> FloatArray:
        """Return what setting a neuron does to the mean logits, shape (sources, classes)."""
        return self.means(self.logits(np.arange(self.neurons) == neuron)) - self._before


def attribute_batched(experiment: Interventions, advance: Advance | None = None) -> Measured:
    """Measure the causal attribution of every neuron (Algorithm 1, all classes at once).

    Args:
        experiment: Tail, images and intervention.
        advance: Called after each neuron.

    Raises:
        InferenceError: The tail does not run.
    """
    shifts = []
    for neuron in range(experiment.neurons):
        shifts.append(experiment.shift(neuron))
        if advance:
            advance(neuron + 1, experiment.neurons)
    per_source = np.stack(shifts, axis=1)
    return Measured(dict(zip(experiment.sources, per_source, strict=True)), "batched")


def _membership(labels: NDArray[np.integer]) -> tuple[list[int], FloatArray]:
    """Return the source classes and the matrix that averages rows per source class."""
    sources = [int(label) for label in np.unique(labels)]
    matrix = np.stack([(labels == source).astype(np.float64) for source in sources])
    return sources, matrix / matrix.sum(axis=1, keepdims=True)
