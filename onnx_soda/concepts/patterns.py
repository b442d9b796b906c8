"""Fields of texture: stripes, plaid, checks, and natural scenes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from onnx_soda.concepts.knobs import Knob, Values

__all__ = ["PATTERN_KNOBS", "pattern", "scene"]

_QUARTER = float(np.pi / 2)

PATTERN_KNOBS = {
    "kind": Knob(0, 1),  # thirds: stripes, plaid, checks
    "period": Knob(0.08, 0.4),  # share of the image's height
    "angle": Knob(0, float(np.pi), steps=(0.0, _QUARTER)),
    "phase": Knob(0, float(2 * np.pi)),
    "strength": Knob(0.2, 1),
    "hard": Knob(0, 1),  # over a half: edges instead of waves
    "shading": Knob(0, 1),  # over a half: light and shade instead of bands of colour
    "colour": Knob(0, 1, per_channel=True),
}

# Mean colours of sky, grass and sand (top and bottom of the image), and how coarse their grain is
# as a share of the image's height. Chosen by eye.
_SCENES: tuple[tuple[tuple[float, ...], tuple[float, ...], float, float], ...] = (
    ((0.25, 0.5, 0.9), (0.75, 0.87, 1.0), 0.15, 0.05),
    ((0.25, 0.5, 0.15), (0.3, 0.6, 0.2), 0.015, 0.2),
    ((0.8, 0.7, 0.5), (0.85, 0.75, 0.55), 0.01, 0.1),
)


def pattern(values: Values, height: int, width: int) -> NDArray[np.float64]:
    """Return a texture with values from -1 to 1, shape (height, width)."""
    angle, phase = values["angle"][0], values["phase"][0]
    rows, columns = np.mgrid[0:height, 0:width]
    turns = 2 * np.pi / (values["period"][0] * height)
    along = np.sin(turns * (np.cos(angle) * columns + np.sin(angle) * rows) + phase)
    across = np.sin(turns * (np.cos(angle) * rows - np.sin(angle) * columns) + phase)
    if values["hard"][0] > 0.5:
        along, across = np.sign(along), np.sign(across)
    kind = values["kind"][0]
    if kind < 1 / 3:
        return np.asarray(along)
    return np.asarray((along + across) / 2 if kind < 2 / 3 else along * across)


def scene(values: Values, height: int, width: int) -> NDArray[np.float64]:
    """Return a field of sky, grass or sand, shape (3, height, width), values from 0 to 1."""
    top, bottom, coarseness, roughness = _SCENES[min(int(3 * values["kind"][0]), 2)]
    rng = np.random.default_rng(int(1e6 * values["grain"][0]))
    grain = gaussian_filter(rng.standard_normal((height, width)), coarseness * height)
    grain = roughness * grain / max(float(grain.std()), 1e-9)
    fall = np.linspace(0, 1, height).reshape(1, height, 1)
    colours = (1 - fall) * np.reshape(top, (3, 1, 1)) + fall * np.reshape(bottom, (3, 1, 1))
    field: NDArray[np.float64] = np.clip(colours + grain, 0, 1)
    return field
