"""Causal attribution and detection for one classifier, by the way that fits its tail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnx_soda._detect.soda.attribution import (
    Advance,
    Attribution,
    FloatArray,
    Interventions,
    Measured,
    attribute_batched,
    attribute_closed_form,
    count_neurons,
    is_affine,
)
from onnx_soda._detect.soda.slopes import Task, attribute_first_order
from onnx_soda._detect.soda.statistic import (
    TargetDetection,
    VictimDetection,
    detect_target,
    detect_victim,
)
from onnx_soda._errors import InferenceError, TensorNotFoundError
from onnx_soda._model.parts import Tail
from onnx_soda._options import ScanOptions
from onnx_soda._suspect import Observation, Summary

# Times that "auto" lets an image go through the tail with a place set, before it estimates by
# slopes: as many as 500 neurons over 1,000 images take.
MOST_INTERVENTIONS = 500_000


@dataclass(frozen=True, eq=False)
class SodaResult:
    """Result of SODA's causal analysis.

    Attributes:
        attribution: Causal attribution (Algorithm 1).
        neurons: Number of neurons examined.
        targets: Target class detection (Algorithm 2).
        victims: Victim class detection (Algorithm 3) for each class flagged, or for the most
            abnormal class where none is; empty without a clean set.
    """

    attribution: Attribution
    neurons: int
    targets: TargetDetection
    victims: tuple[VictimDetection, ...]


def attribute(
    tail: Tail,
    observation: Summary | None,
    options: ScanOptions,
    advance: Advance | None = None,
) -> Attribution | None:
    """Compute the causal attribution of every neuron of the layer.

    Args:
        tail: The tail of the classifier.
        observation: What the model makes of the clean images; None without a clean set.
        options: a, b and how to compute.
        advance: Called as it goes on, where interventions are run one by one.

    Returns:
        None where images are needed and there are none: the tail is not affine, or a is not 1.

    Raises:
        TensorNotFoundError: The closed form was asked for and the tail is not affine.
        MissingExtraError: Slopes are needed, and torch is not installed.
        RepairError: Slopes are needed, and torch cannot compute the tail.
        OptionError: The estimates do not fit into the memory allowed.
    """
    rng = np.random.default_rng(options.seed)
    if observation is not None:
        tail.learn_shape(observation.layer)
    if options.attribution in ("auto", "closed-form"):
        if is_affine(tail, rng, observation.layer if observation else None):
            if observation is None and options.intervention.a != 1:
                return None
            means = _layer_means(observation, needed=options.intervention.a != 1)
            return attribute_closed_form(tail, means, options.intervention, options.neurons)
        if options.attribution == "closed-form":
            raise TensorNotFoundError(
                f"the layer {tail.graph.layer!r} has no closed form: its tail is not affine",
                "Take `attribution` auto, or the last layer.",
            )
    if observation is None:
        return None
    if options.attribution == "first-order" or _too_many(tail, observation, options):
        task = Task(tail, observation.whole(), options.intervention, options.neurons, advance)
        return attribute_first_order(task, rng)
    return _measured(tail, observation.blocks(), options, advance)


def _too_many(tail: Tail, observation: Summary, options: ScanOptions) -> bool:
    """Tell whether interventions are too many to be run where nobody asked for that.

    Channels never are: a scan of them takes as long as it did before places could be chosen.
    """
    if options.attribution != "auto" or options.neurons == "channels":
        return False
    neurons = count_neurons(observation.layer, tail.axis, options.neurons)
    return neurons * len(observation.labels) > MOST_INTERVENTIONS


def _measured(
    tail: Tail, blocks: Iterator[Observation], options: ScanOptions, advance: Advance | None
) -> Measured:
    """Measure the attribution on one block of images after the other, and take their mean."""
    sums, counts = dict[int, FloatArray](), Counter[int]()
    for block in blocks:
        how = (options.intervention, block.sides, options.neurons)
        found = attribute_batched(Interventions(tail, block.layer, block.labels, *how), advance)
        for source, shift in found.shifts.items():
            count = int((block.labels == source).sum())
            sums.setdefault(source, np.zeros(shift.shape))
            sums[source] += count * shift
            counts[source] += count
    means = {source: sums[source] / counts[source] for source in sorted(sums)}
    return Measured(means, "batched")


def _layer_means(observation: Summary | None, needed: bool) -> dict[int, FloatArray]:
    """Return the mean activations of each source class; zeros where their values do not count."""
    if observation is None:
        return {}
    if not needed:
        return dict.fromkeys(observation.logits, np.zeros(observation.layer.shape[1:]))
    sums = dict[int, FloatArray]()
    for block in observation.blocks():
        for source in map(int, np.unique(block.labels)):
            rows = block.layer[block.labels == source]
            sums[source] = sums.get(source, 0.0) + rows.sum(axis=0, dtype=np.float64)
    counts = np.bincount(observation.labels)
    return {source: sums[source] / counts[source] for source in sorted(sums)}


def analyse(
    tail: Tail,
    observation: Summary | None,
    options: ScanOptions,
    advance: Advance | None = None,
) -> SodaResult | None:
    """Run Algorithms 1 to 3.

    Returns:
        None where the attribution needs clean images and there are none.

    Raises:
        InferenceError: Interventions drive the logits to values that are not numbers.
    """
    attribution = attribute(tail, observation, options, advance)
    if attribution is None:
        return None
    targets = detect_target(
        _absolute(attribution),
        options.threshold,
        options.spread,
        "zero" if options.toolkit_zeros else "keep",
    )
    if not np.isfinite(targets.pcc).all():
        raise InferenceError(
            "interventions drive the logits to values that are not numbers",
            "Use a smaller `a` and `b`; the model's weights may be damaged.",
        )
    neurons = len(attribution.shift(next(iter(attribution.sources), None)))
    return SodaResult(attribution, neurons, targets, _victims(targets, observation, options))


def _absolute(attribution: Attribution) -> Iterator[tuple[int | None, FloatArray]]:
    """Yield the attribution per source class; once for all where there is no clean set."""
    if attribution.same_for_all:
        common = np.abs(attribution.shift(None))
        for source in attribution.sources or (None,):
            yield source, common
        return
    for source in attribution.sources:
        yield source, np.abs(attribution.shift(source))


def _victims(
    targets: TargetDetection, observation: Summary | None, options: ScanOptions
) -> tuple[VictimDetection, ...]:
    if observation is None:
        return ()
    suspects = targets.flagged or (int(np.argmin(targets.index)),)
    return tuple(
        detect_victim(
            target, observation.logits, options.threshold, options.spread, options.toolkit_zeros
        )
        for target in suspects
    )
