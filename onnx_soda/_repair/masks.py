"""Which weights lie on the paths through the outstanding neurons, told by gradients.

The paper's Figure 3 trains the weights of the arrows into and out of these neurons. What an arrow
is depends on the operators; the gradient does not care. A weight out of a neuron has a gradient
where this neuron alone is active, and none where no neuron is. A weight into it moves this neuron
and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onnx_soda._detect.soda.attribution import Attribution
from onnx_soda._detect.soda.statistic import anomaly_index

FloatArray = NDArray[np.float64]


def responsibility(attribution: Attribution, target: int) -> FloatArray:
    """Return the causal attribution of every neuron to the target, shape (neurons,).

    The mean over source classes of the absolute change of the mean target logit (Equation 1).

    Args:
        attribution: Of the analysed layer.
        target: The class.
    """
    sources: tuple[int | None, ...] = attribution.sources
    if attribution.same_for_all:
        sources = (None,)
    shifts = np.stack([np.abs(attribution.shift(source)[:, target]) for source in sources])
    mean: FloatArray = shifts.mean(axis=0)
    return mean


def outstanding_neurons(
    attribution: Attribution, target: int, top: float | None, threshold: float
) -> NDArray[np.intp]:
    """Return the outstanding neurons, sorted.

    Args:
        attribution: Of the analysed layer.
        target: The class that they push to.
        top: Share of all neurons to take, those of the largest attribution; None takes the
            outliers by median absolute deviation, as the paper does.
        threshold: Anomaly index of an outlier.
    """
    strength = responsibility(attribution, target)
    if top is None:
        return np.flatnonzero(anomaly_index(strength) > threshold)
    count = max(round(top * len(strength)), 1)
    return np.sort(np.argsort(-strength, kind="stable")[:count])


Masks = dict[str, Tensor]
"""Per parameter that may change, 1 where a weight may and 0 elsewhere."""

# Random values that a neuron takes, one row each: an activation that clips some lets others pass.
_TRIALS = 16


def outgoing_weights(
    head: Callable[[Tensor], Tensor],
    parameters: Mapping[str, nn.Parameter],
    activations: Tensor,
    axis: int,
    neurons: NDArray[np.intp],
) -> Masks:
    """Return the weights of the head that read the neurons.

    Args:
        head: Layer to logits.
        parameters: Its parameters.
        activations: Of the layer, some rows; their shape counts.
        axis: Axis of the neurons.
        neurons: The outstanding ones.
    """
    rng = torch.Generator().manual_seed(0)
    alone = torch.zeros_like(activations[:1].expand(_TRIALS, *activations.shape[1:]))
    own = torch.from_numpy(neurons)
    shape = list(alone.shape)
    shape[axis] = len(own)
    alone = alone.index_copy(axis, own, torch.randn(shape, generator=rng))
    with_them = _touched(head(alone), parameters, rng)
    without = _touched(head(torch.zeros_like(alone)), parameters, rng)
    return _kept({name: with_them[name] & ~without[name] for name in parameters})


def feeding_weights(
    layer: Tensor, parameters: Mapping[str, nn.Parameter], axis: int, neurons: NDArray[np.intp]
) -> Masks:
    """Return the weights that move the neurons and no other neuron of the layer.

    Args:
        layer: Activations of the layer for some images, with their graph.
        parameters: Of the model.
        axis: Axis of the neurons.
        neurons: The outstanding ones.
    """
    rng = torch.Generator().manual_seed(0)
    others = np.setdiff1d(np.arange(layer.shape[axis]), neurons)
    own = _touched(layer.index_select(axis, torch.from_numpy(neurons)), parameters, rng)
    rest = _touched(layer.index_select(axis, torch.from_numpy(others)), parameters, rng)
    return _kept({name: own[name] & ~rest[name] for name in parameters})


def upstream_weights(
    layer: Tensor, parameters: Mapping[str, nn.Parameter], axis: int, neurons: NDArray[np.intp]
) -> Masks:
    """Return the weights that move the neurons, whatever else they move: all paths into them.

    Args:
        layer: As for `feeding_weights`.
        parameters: Of the model.
        axis: Axis of the neurons.
        neurons: The outstanding ones.
    """
    rng = torch.Generator().manual_seed(0)
    own = layer.index_select(axis, torch.from_numpy(neurons))
    return _kept(_touched(own, parameters, rng))


def _touched(
    values: Tensor, parameters: Mapping[str, nn.Parameter], rng: torch.Generator
) -> dict[str, Tensor]:
    """Return where a random combination of values has a gradient."""
    mixed = (values * torch.randn(values.shape, generator=rng)).sum()
    slopes = torch.autograd.grad(
        mixed, list(parameters.values()), retain_graph=True, allow_unused=True
    )
    return {
        name: torch.zeros_like(weight, dtype=torch.bool) if slope is None else slope != 0
        for (name, weight), slope in zip(parameters.items(), slopes, strict=True)
    }


def _kept(masks: dict[str, Tensor]) -> Masks:
    return {name: mask.float() for name, mask in masks.items() if bool(mask.any())}
