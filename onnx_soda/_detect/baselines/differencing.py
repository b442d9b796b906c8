"""Symmetric feature differencing: which channels tell two sets of images apart.

Of images of one class and of another the values of some channels are exchanged. The smallest mask
of channels is wanted that makes the two exchange their classes, both ways (Liu et al., EX-RAY, CVPR
2022, section 4: "min |M|, such that f(h1 (1 - M) + h2 M) = 2 and f(h2 (1 - M) + h1 M) = 1"). If the
channels that tell images with a trigger from clean ones are those that tell the target's images
from them, the trigger is a natural feature of the target. There are two ways to find the mask:

- Where the tail is affine, exchanging channel i between the mean images moves the margin (the
  second class's logit less the first's) by an amount g_i, whatever else is exchanged. So the mask
  is the solution of a linear programme, min sum M_i with sum M_i g_i >= need and 0 <= M_i <= 1, and
  filling the channels in the order of g_i solves it. No gradient is needed. That is not in the
  paper; it follows from its problem.
- Else gradients: Adam with a rate of 5e-2 on tanh of the mask, from 4 on, 400 steps, 10 images of
  each; sum M + 10 times the margins that are not yet turned (PurduePAML/Exray,
  `mask_prune_by_neuron_mask`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_soda._bridge.bridge import tail_to_torch
from onnx_soda._detect.baselines.base import BACKWARD
from onnx_soda._detect.soda.attribution import by_neuron
from onnx_soda._model.parts import Tail, share_behind
from onnx_soda._model.runtime import Meter

if TYPE_CHECKING:
    from torch import Tensor, nn

FloatArray = NDArray[np.float64]

_STEPS, _RATE, _START, _WEIGHT = 400, 5e-2, 4.0, 10.0
# How far beyond the need the solution of the linear programme goes, so that rounding leaves the
# margins turned, as a share of it.
_BEYOND = 1e-3
# Channels whose gains differ by less than this share of the larger are filled together.
_ALIKE = 0.05
# Overlap of two masks, as a share of either, over which a trigger is natural; and the shares of
# images that masks turn on the other pair: three of four, or all.
_OVERLAP, _MOST, _ALL = 0.8, 0.8, 0.4
_MOST_COUNT = 3


class CountedTail:
    """The last layers, forward; runs count as the share of the model that they are.

    Args:
        tail: The tail.
        meter: Counts.
    """

    def __init__(self, tail: Tail, meter: Meter) -> None:
        anatomy = tail.anatomy
        logits = anatomy.logits.value.name or ""
        self.tail, self._meter = tail, meter
        self._share = share_behind(anatomy.view, anatomy.layer.value, [logits])

    def __call__(self, layer: NDArray[Any]) -> FloatArray:
        """Return logits, shape (rows, classes), for values of the layer."""
        self.count(len(layer))
        return self.tail.logits(layer)

    def count(self, rows: int, backward: bool = False) -> None:
        """Count rows that went through the tail, and back where they did."""
        self._meter.done += rows * self._share * (1 + BACKWARD * backward)


@dataclass(frozen=True, eq=False)
class Exchange:
    """Two sets of images whose channels are exchanged, as many of each.

    Attributes:
        tail: From the layer to the logits.
        first: Values of the layer for images that the model gives to one class, images first.
        second: The same for another class.
        classes: The two.
    """

    tail: CountedTail
    first: NDArray[Any]
    second: NDArray[Any]
    classes: tuple[int, int]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.first.shape[self.tail.tail.axis])

    def mixed(self, mask: FloatArray) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return both with the channels of a mask exchanged."""
        wide = _along(mask, self.first.ndim, self.tail.tail.axis).astype(self.first.dtype)
        step = wide * (self.second - self.first)
        return self.first + step, self.second - step

    def turned(self, mask: FloatArray) -> tuple[float, float]:
        """Return the shares of both that get the other's class under a mask."""
        one, other = self.classes
        first, second = map(self.tail, self.mixed(mask))
        return (
            float((first.argmax(axis=1) == other).mean()),
            float((second.argmax(axis=1) == one).mean()),
        )


def _along(mask: FloatArray, axes: int, axis: int) -> FloatArray:
    """Return a mask with the axes of a layer, of which it has one."""
    return mask.reshape([-1 if place == axis else 1 for place in range(axes)])


def cheapest_mask(gains: FloatArray, need: float) -> FloatArray:
    """Solve the linear programme: the least sum of a mask under which the gains reach a need.

    Channels are filled in the order of their gains. Those that gain nearly as much are filled
    together: which of them is first would be noise, and two masks could not be compared.

    Args:
        gains: What exchanging each channel gains, shape (channels,).
        need: What has to be gained.

    Returns:
        From 0 to 1, shape (channels,). All channels that gain where those are not enough.
    """
    mask = np.zeros_like(gains)
    order = np.argsort(-gains, kind="stable")
    order = order[gains[order] > 0]
    while need > 0 and len(order):
        alike = order[gains[order] >= (1 - _ALIKE) * gains[order[0]]]
        mask[alike] = min(need / gains[alike].sum(), 1.0)
        need -= float(mask[alike] @ gains[alike])
        order = order[len(alike) :]
    return mask


def mask_by_sorting(exchange: Exchange) -> FloatArray:
    """Return the smallest mask that exchanges the classes of the mean images; for affine tails."""
    tail, axis = exchange.tail, exchange.tail.tail.axis
    means = [values.mean(axis=0, keepdims=True) for values in (exchange.first, exchange.second)]
    single = np.repeat(means[0], exchange.channels, axis=0)
    each = np.arange(exchange.channels)
    by_neuron(single, axis, "channels")[each, each] = by_neuron(means[1], axis, "channels")[0]
    one, other = exchange.classes
    margins = [logits[:, other] - logits[:, one] for logits in map(tail, (*means, single))]
    need = max(-margins[0][0], margins[1][0], 0.0)
    return cheapest_mask(margins[2] - margins[0], need * (1 + _BEYOND))


def mask_by_gradients(exchange: Exchange, progress: Callable[[int, int], None]) -> FloatArray:
    """Return the smallest mask that gradients find; the last one where none turns all images.

    Args:
        exchange: The two sets.
        progress: Called as it goes on, with steps done and in all.
    """
    import torch

    module = _as_module(exchange)
    first, second = (torch.from_numpy(np.array(one)) for one in (exchange.first, exchange.second))
    free = torch.full((exchange.channels,), _START, requires_grad=True)
    adam = torch.optim.Adam([free], lr=_RATE)
    smallest, found = np.inf, np.ones(exchange.channels)
    for step in range(_STEPS):
        mask = torch.tanh(free) / 2 + 0.5
        wide = mask.reshape([-1 if i == exchange.tail.tail.axis else 1 for i in range(first.ndim)])
        moved = wide * (second - first)
        missing = _missing(module, (first + moved, second - moved), exchange.classes)
        exchange.tail.count(2 * len(first), backward=True)
        # Before one turns all images the last one is as good as any.
        size = float(mask.detach().sum()) if float(missing.detach()) == 0 else np.inf
        if size < smallest or smallest == np.inf:
            smallest, found = size, mask.detach().double().numpy()
        adam.zero_grad()
        torch.autograd.backward(mask.sum() + _WEIGHT * missing)
        adam.step()
        progress(step + 1, _STEPS)
    return found


def _missing(
    module: Callable[[Tensor], Tensor], mixed: tuple[Tensor, Tensor], classes: tuple[int, int]
) -> Tensor:
    """Return by how much images miss the other's class, all together; 0 where none does."""
    one, other = classes
    first, second = map(module, mixed)
    short = (first[:, one] - first[:, other]).relu().sum()
    return short + (second[:, other] - second[:, one]).relu().sum()


def _as_module(exchange: Exchange) -> Callable[[Tensor], Tensor]:
    """Return the tail in torch, as a function of the layer alone."""
    import torch

    tail = exchange.tail.tail
    layer, *shapes = tail.feeds(exchange.first).values()
    module: nn.Module = tail_to_torch(tail.graph.model, [layer, *shapes], "EX-RAY needs")
    others = [torch.from_numpy(array) for array in shapes]
    module.requires_grad_(False)
    return lambda values: module(values, *others).reshape(len(values), -1)


@dataclass(frozen=True)
class Likeness:
    """How like a trigger is to a natural feature.

    Attributes:
        overlap: Of the two masks, as a share of the smaller one.
        transfer: Shares of images that the natural mask turns on the trigger's pair, both ways, and
            then the trigger's mask on the natural pair.
    """

    overlap: float
    transfer: tuple[float, float, float, float]

    @property
    def natural(self) -> bool:
        """Whether the trigger is a natural feature of the target."""
        most = sum(share >= _MOST for share in self.transfer) >= _MOST_COUNT
        return self.overlap > _OVERLAP or most or min(self.transfer) >= _ALL


def compare(
    natural: tuple[Exchange, FloatArray], triggered: tuple[Exchange, FloatArray]
) -> Likeness:
    """Compare two exchanges and their masks.

    Args:
        natural: Of clean images of victim and target.
        triggered: Of clean images of the victim, and the same with the trigger.
    """
    (clean, one), (stamped, other) = natural, triggered
    smaller = min(one.sum(), other.sum())
    shared = np.minimum(one, other).sum()
    overlap = float(shared / smaller) if smaller > 0 else 0.0
    return Likeness(overlap, (*stamped.turned(one), *clean.turned(other)))
