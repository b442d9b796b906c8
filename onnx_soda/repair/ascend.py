"""Reconstruction by gradient ascent: the paper's Algorithm 4, for many images at once.

From clean victim images on, the input climbs f_t(i) - lambda |i|^2, the logit of the target less a
penalty, until the target's probability passes a threshold. Each image stops there: where all climb
on, training on them destroys the model (measured before the project, docs/repair.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Ascent", "ascend"]


@dataclass(frozen=True)
class Ascent:
    """Settings of Algorithm 4; the paper names no values.

    Attributes:
        threshold: Probability of the target at which an image is done ("th").
        steps: The most steps ("m").
        step: Of the input's range, by which the pixel that changes most changes in one step.
        penalty: lambda.
    """

    threshold: float = 0.9
    steps: int = 150
    step: float = 0.02
    penalty: float = 1e-4


def ascend(
    logits: Callable[[Tensor], Tensor],
    images: NDArray[Any],
    target: int,
    bounds: tuple[NDArray[Any], NDArray[Any]],
    settings: Ascent | None = None,
) -> NDArray[Any]:
    """Return the images that reach the threshold, as they are when they do.

    Args:
        logits: The classifier; takes images, returns logits (images, classes).
        images: Clean victim images as the model takes them, floating point.
        target: The class to climb to.
        bounds: Least and largest value of the input, broadcast to one image.
        settings: See `Ascent`.
    """
    how = settings or Ascent()
    low, high = (torch.from_numpy(np.asarray(bound, images.dtype)) for bound in bounds)
    climbing, done = torch.from_numpy(images.copy()), []
    for _ in range(how.steps + 1):
        climbing = climbing.detach().requires_grad_(True)
        scores = logits(climbing)
        reached = scores.detach().softmax(1)[:, target] > how.threshold
        done.append(climbing.detach()[reached].numpy())
        if bool(reached.all()):
            break
        height = scores[:, target].sum() - how.penalty * climbing.square().sum()
        (slope,) = torch.autograd.grad(height, climbing)
        steepest = slope.abs().flatten(1).amax(1).clamp_min(1e-12)
        direction = slope / steepest.reshape(-1, *(1,) * (slope.ndim - 1))
        moved = climbing.detach() + how.step * (high - low) * direction
        climbing = torch.minimum(torch.maximum(moved, low), high)[~reached]
    found: NDArray[Any] = np.concatenate(done)
    return found
