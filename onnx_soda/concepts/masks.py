"""Where in the image a concept applies: everywhere, or softly bounded to a part of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from onnx_soda.concepts.knobs import Knob, Values

__all__ = ["MASKS", "Mask"]

# How sharply a mask falls off: from 0.9 to 0.1 over about a quarter of the image's half width.
_SOFTNESS = 8.0


@dataclass(frozen=True)
class Mask:
    """A kind of mask.

    Attributes:
        knobs: Its numbers.
        render: Turns values into changes of the probe's fields, for a height and width.
        words: Where it is.
        weight: How often it is drawn, relative to the others.
    """

    knobs: Mapping[str, Knob]
    render: Callable[[Values, int, int], Mapping[str, Any]]
    words: str
    weight: float


def _grid(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return vertical and horizontal position of each pixel, from -1 to 1."""
    rows, columns = np.meshgrid(
        np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij"
    )
    return rows, columns


def _radius(height: int, width: int) -> NDArray[np.float64]:
    return np.asarray(np.hypot(*_grid(height, width)))


def _half(v: Values, height: int, width: int) -> Mapping[str, Any]:
    rows, columns = _grid(height, width)
    side = np.cos(v["angle"][0]) * columns + np.sin(v["angle"][0]) * rows
    return {"mask": expit(_SOFTNESS * (side - v["shift"][0]))}


MASKS: dict[str, Mask] = {
    "everywhere": Mask({}, lambda *_: {}, "everywhere", 9),
    "background": Mask(
        {"radius": Knob(0.5, 0.9)},
        lambda v, h, w: {"mask": expit(_SOFTNESS * (_radius(h, w) - v["radius"][0]))},
        "background",
        3,
    ),
    "centre": Mask(
        {"radius": Knob(0.4, 0.8)},
        lambda v, h, w: {"mask": expit(_SOFTNESS * (v["radius"][0] - _radius(h, w)))},
        "centre",
        2,
    ),
    "half": Mask(
        {"angle": Knob(0, float(2 * np.pi)), "shift": Knob(-0.3, 0.3)}, _half, "one half", 1.5
    ),
    "bright": Mask(
        {"level": Knob(0.2, 0.8), "slope": Knob(8, 25)},
        lambda v, *_: {"slope": v["slope"][0], "bias": -v["slope"][0] * v["level"][0]},
        "bright pixels",
        2.25,
    ),
    "dark": Mask(
        {"level": Knob(0.2, 0.8), "slope": Knob(8, 25)},
        lambda v, *_: {"slope": -v["slope"][0], "bias": v["slope"][0] * v["level"][0]},
        "dark pixels",
        2.25,
    ),
}
