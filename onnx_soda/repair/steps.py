"""How weights move along a slope: plainly, as the paper's Algorithm 5, or by Adam."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from onnx_soda.repair.masks import Masks

__all__ = ["Step", "adam_steps", "plain_steps"]

Step = Callable[[Mapping[str, Tensor]], None]
"""Moves the weights along a slope of each, by name."""


def plain_steps(own: Mapping[str, nn.Parameter], masks: Masks, share: float) -> Step:
    """Return steps of one rate: that with which the first moves the weights by a share of them.

    Args:
        own: What moves.
        masks: Which weights count.
        share: Of the weights' length.
    """
    length = _norm({name: weight.detach() * masks[name] for name, weight in own.items()})
    rate: float | None = None

    def step(slopes: Mapping[str, Tensor]) -> None:
        nonlocal rate
        rate = rate or share * length / max(_norm(slopes), 1e-12)
        with torch.no_grad():
            for name, slope in slopes.items():
                own[name].sub_(rate * slope)

    return step


def adam_steps(own: Mapping[str, nn.Parameter], rate: float, count: int) -> Step:
    """Return Adam's steps (Kingma and Ba 2015), whose rate falls to 0 along a cosine.

    Weights without a slope stay as they are. Where all layers move, one rate for all does not do:
    their slopes differ by orders of magnitude.

    Args:
        own: What moves.
        rate: To start with.
        count: Steps until the rate is 0.
    """
    optimizer = torch.optim.Adam(own.values(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count)

    def step(slopes: Mapping[str, Tensor]) -> None:
        for name, slope in slopes.items():
            own[name].grad = slope
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

    return step


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum().sqrt())
