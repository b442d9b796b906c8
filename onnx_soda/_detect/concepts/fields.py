"""The numbers that a concept puts into the probe graph.

One fixed pipeline serves all families; a family sets some of its inputs and leaves the others at
values that change nothing. Steps none of whose inputs are set are left out of the graph where that
saves time (`pipeline`). For an image x with values from 0 to 1:

    s = x + style ((x - mean(x)) / deviation(x) style_std + style_mean - x)     per image, channel
    y = kernel * (clip(mix s + offset)^gamma  gain + field)        * is a 5 x 5 convolution
    m = mask . sigmoid(slope . luminance(x) + bias)
    result = clip((1 - m) x + m y)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
KERNEL_SIZE = 5
# sigmoid(20) is 1 to 2e-9: a mask that does not look at the luminance.
_ALWAYS = 20.0

STEPS: Mapping[str, tuple[str, ...]] = {
    "style": ("style", "style_mean", "style_std"),
    "mix": ("mix", "offset"),
    "gamma": ("gamma",),
    "gain": ("gain",),
    "field": ("field",),
    "filter": ("kernel",),
    "mask": ("mask",),
    "switch": ("slope", "bias"),
}
"""The inputs of each step of the pipeline, in its order."""


def steps_of(changes: Iterable[str]) -> frozenset[str]:
    """Return the steps that some inputs are of."""
    named = set(changes)
    return frozenset(step for step, inputs in STEPS.items() if named.intersection(inputs))


def fields_of(steps: frozenset[str]) -> tuple[str, ...]:
    """Return the inputs of some steps, in the pipeline's order."""
    return tuple(name for step, inputs in STEPS.items() if step in steps for name in inputs)


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


def _sizes(channels: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each field; scalars have one element."""
    places, each = (1, channels, height, width), (1, channels, 1, 1)
    return {
        "style": (1,),
        "style_mean": each,
        "style_std": each,
        "mix": (channels, channels, 1, 1),
        "offset": (channels,),
        "gamma": (1,),
        "gain": places,
        "field": places,
        "kernel": (channels, 1, KERNEL_SIZE, KERNEL_SIZE),
        "mask": (1, 1, height, width),
        "slope": (1,),
        "bias": (1,),
    }


def changed_fields(
    channels: int, height: int, width: int, changes: Mapping[str, Any]
) -> dict[str, Array]:
    """Return the fields that some changes set, as the graph takes them.

    Args:
        channels: 1 or 3.
        height: Pixels.
        width: Pixels.
        changes: Values, by name; brought to float32 and broadcast to the field's shape.
    """
    sizes = _sizes(channels, height, width)
    return {
        name: np.ascontiguousarray(np.broadcast_to(np.asarray(value), sizes[name]), np.float32)
        for name, value in changes.items()
    }


def identity_fields(
    channels: int, height: int, width: int, changes: Mapping[str, Any] | None = None
) -> ProbeFields:
    """Return fields that leave every image as it is, except for some changes.

    Args:
        channels: 1 or 3.
        height: Pixels.
        width: Pixels.
        changes: As for `changed_fields`.
    """
    kernel = np.zeros((channels, 1, KERNEL_SIZE, KERNEL_SIZE))
    kernel[:, 0, KERNEL_SIZE // 2, KERNEL_SIZE // 2] = 1
    values: dict[str, Any] = {
        "style": 0.0,
        "style_mean": 0.0,
        "style_std": 1.0,
        "mix": np.eye(channels).reshape(channels, channels, 1, 1),
        "offset": 0.0,
        "gamma": 1.0,
        "gain": 1.0,
        "field": 0.0,
        "kernel": kernel,
        "mask": 1.0,
        "slope": 0.0,
        "bias": _ALWAYS,
    }
    values.update(changes or {})
    return ProbeFields(**changed_fields(channels, height, width, values))


def compose(
    first: Mapping[str, Any], second: Mapping[str, Any], channels: int
) -> dict[str, NDArray[Any]]:
    """Return changes that do what two do, one after the other, as far as the pipeline's order lets.

    Within each step of the pipeline the first comes first: colours are mixed twice, exponents and
    gains are multiplied. Two styles or two kernels cannot be put into one; the second stays.

    Args:
        first: Changes for `changed_fields`.
        second: The same.
        channels: 1 or 3.
    """
    both = {name: np.asarray(value) for name, value in {**first, **second}.items()}
    if "mix" in both or "offset" in both:
        (mix, offset), (then_mix, then_offset) = (_mixing(one, channels) for one in (first, second))
        both["mix"] = (then_mix @ mix).reshape(channels, channels, 1, 1)
        both["offset"] = then_mix @ offset + then_offset
    for name in ("gamma", "gain"):
        if name in first and name in second:
            both[name] = np.asarray(first[name]) * np.asarray(second[name])
    if "field" in first and ("field" in second or "gain" in second):
        both["field"] = np.asarray(second.get("gain", 1.0)) * first["field"] + second.get(
            "field", 0
        )
    return both


def _mixing(
    changes: Mapping[str, Any], channels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mix = np.asarray(changes.get("mix", np.eye(channels)), np.float64)
    offset = np.asarray(changes.get("offset", 0.0), np.float64)
    return mix.reshape(channels, channels), np.broadcast_to(offset, (channels,))
