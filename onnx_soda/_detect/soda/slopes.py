"""Causal attribution by first-order estimates, where interventions are too many to run one by one.

A feature map of 128 channels and 16 x 16 places has 32,768 neurons, if every place counts, as it
does in the paper. For do(x = a x + b) the change of a logit is, to first order, its slope at the
clean activation times the change of the neuron, (a - 1) x + b. One backward pass for each class
gives the slopes of all neurons at once. torch computes them (`onnx_soda._bridge`); all else goes
through ONNX Runtime, as ever.

A slope knows nothing of bends: a ReLU that the intervention opens or closes. So interventions are
run on some images for two sets of neurons. Those drawn at random tell how good the estimates are;
the report says so. Those with the largest estimates carry most of what Algorithm 2 compares. Their
estimates are corrected by the difference that was seen on those images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from onnx_soda._bridge.bridge import tail_to_torch, torch_threads
from onnx_soda._detect.soda.attribution import (
    Advance,
    Interventions,
    Measured,
    by_neuron,
    count_neurons,
)
from onnx_soda._errors import ConversionError, OptionError, first_line
from onnx_soda._model.parts import Tail
from onnx_soda._numbers import EstimateNumbers
from onnx_soda._options import NeuronKind, Setting
from onnx_soda._suspect import Observation

if TYPE_CHECKING:
    from torch import nn

Estimates = NDArray[np.float32]
"""Sums of estimated changes over the images of each source class: sources, classes, neurons."""

# Neurons drawn at random, to tell how good the estimates are; the goal of docs/performance.md.
_DRAWN = 200
# Times that an image goes through the tail for those drawn, and again for those corrected: as many
# as 20 neurons over 1,000 images take.
_MOST_RUNS = 20_000
# Neurons of each class whose estimates are corrected: those that a report names.
_CORRECTED = 10
# Images that the torch module is compared with ONNX Runtime on.
_COMPARED = 8
_FLOAT_BYTES = 4


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be estimated.

    Attributes:
        tail: The tail.
        observation: What the model makes of the clean images.
        intervention: a and b.
        kind: What a neuron is.
        advance: Called as it goes on.
    """

    tail: Tail
    observation: Observation
    intervention: Setting
    kind: NeuronKind
    advance: Advance | None = None

    @property
    def neurons(self) -> int:
        """Number of neurons."""
        return count_neurons(self.observation.layer, self.tail.axis, self.kind)

    def part(self, rows: NDArray[np.integer]) -> list[NDArray[Any]]:
        """Return what the tail reads of some images, the layer first."""
        seen = self.observation
        sides = {name: values[rows] for name, values in seen.sides.items()}
        return list(self.tail.feeds(seen.layer[rows], sides).values())

    def interventions(self, rows: NDArray[np.integer]) -> Interventions:
        """Return what runs interventions on some images."""
        seen = self.observation
        sides = {name: values[rows] for name, values in seen.sides.items()}
        layer, labels = seen.layer[rows], seen.labels[rows]
        return Interventions(self.tail, layer, labels, self.intervention, sides, self.kind)


def attribute_first_order(task: Task, rng: np.random.Generator) -> Measured:
    """Estimate the causal attribution of every neuron, and tell how good the estimates are.

    Args:
        task: What is to be estimated.
        rng: Draws the neurons that tell it.

    Raises:
        MissingExtraError: torch is not installed.
        ConversionError: torch cannot compute the tail.
        ParityError: torch computes something else than ONNX Runtime.
        OptionError: The result does not fit into the memory allowed.
    """
    _check_memory(task)
    labels = task.observation.labels
    sources = [int(source) for source in np.unique(labels)]
    few = max(1, _MOST_RUNS // (_DRAWN * len(sources)))
    some = np.concatenate([np.flatnonzero(labels == source)[:few] for source in sources])
    rest = np.setdiff1d(np.arange(len(labels)), some)
    slopes = _Slopes(task, some[:_COMPARED], len(labels))
    seen, more = slopes.sums(some), slopes.sums(rest)
    means = (seen + more) / _counts(labels)
    seen /= _counts(labels[some])
    drawn = rng.permutation(task.neurons)[:_DRAWN]
    largest = _largest(means, _MOST_RUNS // len(some))
    measured = _run(task, some, np.union1d(drawn, largest), len(labels))
    estimate = _compare(measured, seen, drawn, len(some), len(largest))
    for neuron in largest:
        means[:, :, neuron] += measured[int(neuron)] - seen[:, :, neuron]
    shifts = {source: of.T for source, of in zip(sources, means, strict=True)}
    return Measured(shifts, "first-order", estimate)


def _check_memory(task: Task) -> None:
    sources, classes = len(np.unique(task.observation.labels)), task.observation.logits.shape[1]
    # Sums over the images run, over the others, and their mean.
    needed = 3 * _FLOAT_BYTES * sources * classes * task.neurons
    if needed > task.tail.options.memory_limit:
        raise OptionError(
            f"the estimates for {task.neurons:,} neurons take {needed // 2**20:,} MiB",
            "Take `neurons=channels` or a deeper layer, or allow a larger `memory_limit`.",
        )


def _counts(labels: NDArray[np.integer]) -> Estimates:
    """Return the number of images of each source class, to divide sums by."""
    counts: Estimates = np.unique(labels, return_counts=True)[1].astype(np.float32)
    return counts[:, np.newaxis, np.newaxis]


class _Slopes:
    """Sums of first-order estimates over images.

    Args:
        task: What is to be estimated.
        compared: Images that torch is compared with ONNX Runtime on.
        total: Images there are in all, to tell how far it is.
    """

    def __init__(self, task: Task, compared: NDArray[np.integer], total: int) -> None:
        fixed = task.tail.session.fixed_batch
        # Slopes take as much again as the activations that they belong to.
        self._size = fixed or max(1, task.tail.batch_size // 2)
        self._task, self._total, self._done = task, total, 0
        graph = task.tail.graph.model
        self._module: nn.Module = tail_to_torch(graph, task.part(self._padded(compared)))
        self._sources = np.unique(task.observation.labels)

    def _padded(self, rows: NDArray[np.integer]) -> NDArray[np.integer]:
        """Repeat images up to the batch that the model insists on."""
        fixed = self._task.tail.session.fixed_batch
        return np.resize(rows, fixed) if fixed else rows

    def sums(self, rows: NDArray[np.integer]) -> Estimates:
        """Return the sums over some images."""
        task = self._task
        shape = (len(self._sources), task.observation.logits.shape[1], task.neurons)
        found = np.zeros(shape, dtype=np.float32)
        for start in range(0, len(rows), self._size):
            batch = rows[start : start + self._size]
            with torch_threads(task.tail.options.thread_count):
                self._add(found, batch)
            self._done += len(batch)
            if task.advance:
                task.advance(self._done, self._total)
        return found

    def _add(self, found: Estimates, rows: NDArray[np.integer]) -> None:
        """Add what one batch says; a class after the other, so that one slope is held at a time."""
        import torch

        task = self._task
        layer, *sides = (torch.from_numpy(np.array(one)) for one in task.part(self._padded(rows)))
        layer.requires_grad_()
        a, b = task.intervention.a, task.intervention.b
        change = ((a - 1) * layer.detach() + b).numpy()
        own = task.observation.labels[rows] == self._sources[:, np.newaxis]
        try:
            logits = self._module(layer, *sides).reshape(len(layer), -1)
            for label in range(logits.shape[1]):
                (slope,) = torch.autograd.grad(logits[:, label].sum(), layer, retain_graph=True)
                moved = (slope.numpy() * change)[: len(rows)]
                per_neuron = by_neuron(moved, task.tail.axis, task.kind).reshape(
                    len(rows), task.neurons, -1
                )
                found[:, label] += own.astype(np.float32) @ per_neuron.sum(axis=2, dtype=np.float32)
        except RuntimeError as error:
            raise ConversionError(
                f"torch cannot compute the slopes of the layer: {first_line(error)}",
                "Take `attribution=batched`, or the last layer.",
            ) from error


def _largest(means: Estimates, most: int) -> NDArray[np.integer]:
    """Return the neurons with the largest estimates, a few of each class and at most so many."""
    attribution = np.abs(means).mean(axis=0)
    each = min(_CORRECTED, max(1, most // len(attribution)), attribution.shape[1])
    found = np.unique(np.argpartition(-attribution, each - 1, axis=1)[:, :each])
    strength = attribution[:, found].max(axis=0)
    return found[np.argsort(-strength, kind="stable")[: max(1, most)]]


def _run(
    task: Task, rows: NDArray[np.integer], neurons: NDArray[np.integer], total: int
) -> dict[int, NDArray[np.float64]]:
    """Run interventions on some neurons, and return what they do to each source and class."""
    experiment, found = task.interventions(rows), {}
    for done, neuron in enumerate(map(int, neurons), start=1):
        found[neuron] = experiment.shift(neuron)
        if task.advance:
            task.advance(total + done, total + len(neurons))
    return found


def _compare(
    measured: dict[int, NDArray[np.float64]],
    estimated: Estimates,
    drawn: NDArray[np.integer],
    images: int,
    corrected: int,
) -> EstimateNumbers:
    """Compare estimates of the neurons drawn with interventions on the same images."""
    exact = np.stack([measured[int(neuron)] for neuron in drawn], axis=-1)
    guess = estimated[:, :, drawn].astype(np.float64)
    ranks = _rank_correlations(exact, guess)
    largest = float(np.abs(exact).max())
    error = float(np.abs(exact - guess).max())
    return EstimateNumbers(
        neurons=len(drawn),
        images=images,
        rank_correlation=float(np.median(ranks)),
        lowest_rank_correlation=float(ranks.min()),
        largest_error=error / largest if largest else error,
        corrected=corrected,
    )


def _rank_correlations(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Spearman's correlation along the last axis; 1 where both are the same throughout."""
    first, second = (rankdata(values, axis=-1) for values in (one, other))
    first -= first.mean(axis=-1, keepdims=True)
    second -= second.mean(axis=-1, keepdims=True)
    scale = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    flat = ((first == 0) & (second == 0)).all(axis=-1).astype(np.float64)
    found: NDArray[np.float64] = np.divide(
        (first * second).sum(axis=-1), scale, out=flat, where=scale != 0
    )
    return found
