"""The numbers that a concept puts into the probe graph.

One fixed pipeline serves all families; a family sets some of its inputs and leaves the others at
values that change nothing. For an image x with values from 0 to 1:

    s = x + style ((x - mean(x)) / deviation(x) style_std + style_mean - x)     per image, channel
    y = kernel * (clip(mix s + offset)^gamma  gain + field)        * is a 5 x 5 convolution
    m = mask . sigmoid(slope . luminance(x) + bias)
    result = clip((1 - m) x + m y)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["KERNEL_SIZE", "ProbeFields", "identity_fields"]

Array = NDArray[np.float32]
KERNEL_SIZE = 5
# sigmoid(20) is 1 to 2e-9: a mask that does not look at the luminance.
_ALWAYS = 20.0


@dataclass(frozen=True, eq=False)
class ProbeFields:
    """Inputs of the probe graph for one concept, float32.

    Attributes:
        style: Share of a donor's style, scalar.
        style_mean: The donor's mean per channel, shape (1, channels, 1, 1).
        style_std: Its standard deviation per channel, same shape.
        mix: Colour matrix, shape (channels, channels, 1, 1).
        offset: Added per channel, shape (channels,).
        gamma: Exponent, scalar.
        gain: Factor per place, shape (1, channels, height, width).
        field: Added per place, same shape.
        kernel: Convolution per channel, shape (channels, 1, 5, 5).
        mask: Where the concept applies, from 0 to 1, shape (1, 1, height, width).
        slope: How the mask follows the luminance, scalar.
        bias: Where it switches, scalar.
    """

    style: Array
    style_mean: Array
    style_std: Array
    mix: Array
    offset: Array
    gamma: Array
    gain: Array
    field: Array
    kernel: Array
    mask: Array
    slope: Array
    bias: Array

    def as_feeds(self, prefix: str) -> dict[str, Array]:
        """Return the inputs by name, with a prefix."""
        return {prefix + entry.name: getattr(self, entry.name) for entry in fields(self)}


def identity_fields(
    channels: int, height: int, width: int, changes: Mapping[str, Any] | None = None
) -> ProbeFields:
    """Return fields that leave every image as it is, except for some changes.

    Args:
        channels: 1 or 3.
        height: Pixels.
        width: Pixels.
        changes: Values to set, by name; brought to float32 and broadcast to the field's shape.
    """
    kernel = np.zeros((channels, 1, KERNEL_SIZE, KERNEL_SIZE))
    kernel[:, 0, KERNEL_SIZE // 2, KERNEL_SIZE // 2] = 1
    values: dict[str, NDArray[Any]] = {
        "style": np.zeros(()),
        "style_mean": np.zeros((1, channels, 1, 1)),
        "style_std": np.ones((1, channels, 1, 1)),
        "mix": np.eye(channels).reshape(channels, channels, 1, 1),
        "offset": np.zeros(channels),
        "gamma": np.ones(()),
        "gain": np.ones((1, channels, height, width)),
        "field": np.zeros((1, channels, height, width)),
        "kernel": kernel,
        "mask": np.ones((1, 1, height, width)),
        "slope": np.zeros(()),
        "bias": np.full((), _ALWAYS),
    }
    for name, value in (changes or {}).items():
        values[name] = np.broadcast_to(np.asarray(value), values[name].shape)
    return ProbeFields(**{k: np.ascontiguousarray(v, np.float32) for k, v in values.items()})
