"""Families of concepts: natural ways in which the same thing can look different.

A family turns the values of its knobs into changes of the probe's fields, and into words. Strong
settings are bounded: a concept that destroys the image tells nothing about a backdoor.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from onnx_soda._detect.concepts.fields import KERNEL_SIZE

Values = Mapping[str, tuple[float, ...]]

# Share of a knob's range that a mutation moves it by (one standard deviation).
_STEP = 0.15


@dataclass(frozen=True)
class Knob:
    """A number, or one per channel, with the range in which it is natural.

    Attributes:
        low: Least value.
        high: Largest value.
        log: Draw on a logarithmic scale: for factors.
        per_channel: One number per channel.
        steps: Values that are drawn half of the time, such as upright and level angles.
    """

    low: float
    high: float
    log: bool = False
    per_channel: bool = False
    steps: tuple[float, ...] = ()

    def draw(self, rng: np.random.Generator, channels: int) -> tuple[float, ...]:
        """Draw a value."""
        if self.steps and rng.random() < 0.5:
            return (float(rng.choice(self.steps)),)
        count = channels if self.per_channel else 1
        low, high = self._scaled(self.low), self._scaled(self.high)
        return tuple(self._unscaled(u) for u in rng.uniform(low, high, count))

    def move(
        self, value: tuple[float, ...], rng: np.random.Generator, width: float
    ) -> tuple[float, ...]:
        """Return a value near to another, within the range."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        near = [self._scaled(v) + rng.normal(0, width * _STEP * (high - low)) for v in value]
        return tuple(self._unscaled(min(max(u, low), high)) for u in near)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else value

    def _unscaled(self, value: float) -> float:
        return math.exp(value) if self.log else float(value)


def draw_values(knobs: Mapping[str, Knob], rng: np.random.Generator, channels: int) -> Values:
    """Draw a value for every knob."""
    return {name: knob.draw(rng, channels) for name, knob in knobs.items()}


def move_values(
    knobs: Mapping[str, Knob], values: Values, rng: np.random.Generator, width: float = 1.0
) -> Values:
    """Move every knob a little; `width` scales by how much."""
    return {name: knob.move(values[name], rng, width) for name, knob in knobs.items()}


# Upper ends of hue, as shares of the colour circle.
_HUES = (
    (0.04, "red"),
    (0.11, "orange"),
    (0.19, "yellow"),
    (0.44, "green"),
    (0.54, "cyan"),
    (0.71, "blue"),
    (0.82, "purple"),
    (0.94, "pink"),
    (1.0, "red"),
)
_DARK, _PALE, _BLACK, _WHITE = 0.35, 0.35, 0.12, 0.88


def colour_words(colour: Sequence[float]) -> str:
    """Return a colour in words with its levels: "dark blue (rgb 20,30,80)" or "grey 120".

    Args:
        colour: One level, or three for red, green and blue; from 0 to 1.
    """
    levels = [round(255 * level) for level in colour]
    if len(levels) != 3:
        return f"grey {levels[0]}"
    return f"{_name(*colour)} (rgb {','.join(map(str, levels))})"


def _name(red: float, green: float, blue: float) -> str:
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    if value < _BLACK:
        return "black"
    if saturation < 0.12:
        return "white" if value > _WHITE else "grey"
    name = next(word for end, word in _HUES if hue <= end)
    if value < _DARK:
        return f"dark {name}"
    return f"pale {name}" if saturation < _PALE else name


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


Shape = tuple[int, int, int]
"""Channels, height, width."""
Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """A family of concepts.

    Attributes:
        knobs: Its numbers.
        render: Turns values into changes of the probe's fields, for images of some shape.
        describe: Turns values into words.
        colour: It needs colour images.
        weight: How often it is drawn, relative to the others.
    """

    knobs: Mapping[str, Knob]
    render: Callable[[Values, Shape], Changes]
    describe: Callable[[Values], str]
    colour: bool = False
    weight: float = 1.0


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _eye(channels: int) -> NDArray[np.float64]:
    return np.eye(channels).reshape(channels, channels, 1, 1)


def _blend_to(colour: Any, strength: float, channels: int) -> Changes:
    """Return (1 - strength) x + strength colour."""
    return {"mix": (1 - strength) * _eye(channels), "offset": strength * np.asarray(colour)}


def _scale_about_grey(factor: float, channels: int) -> Changes:
    """Return 0.5 + factor (x - 0.5): contrast; a negative factor inverts."""
    return {"mix": factor * _eye(channels), "offset": np.full(channels, 0.5 * (1 - factor))}


def _render_gain(v: Values, shape: Shape) -> Changes:
    return {"mix": np.diag(v["gain"]).reshape(shape[0], shape[0], 1, 1), "offset": v["offset"]}


def _render_mix(v: Values, shape: Shape) -> Changes:
    """Take each channel from a mixture of all three; rows are brought to the sum 1."""
    channels = shape[0]
    rows = np.array([v["red"], v["green"], v["blue"]])
    rows = rows + np.eye(channels) * v["own"][0]
    rows = rows / np.maximum(np.abs(rows).sum(axis=1, keepdims=True), 0.5)
    return {"mix": rows.reshape(channels, channels, 1, 1)}


def _render_saturation(v: Values, shape: Shape) -> Changes:
    channels, amount = shape[0], v["saturation"][0]
    grey = np.full((channels, channels), 1 / channels)
    matrix = amount * np.eye(channels) + (1 - amount) * grey
    return {"mix": matrix.reshape(channels, channels, 1, 1)}


def _gaussian(sigma: float) -> NDArray[np.float64]:
    reach = np.arange(KERNEL_SIZE) - KERNEL_SIZE // 2
    line = np.exp(-(reach**2) / (2 * sigma**2))
    kernel = np.outer(line, line)
    smooth: NDArray[np.float64] = kernel / kernel.sum()
    return smooth


def _render_sharpen(v: Values, _: Shape) -> Changes:
    """Unsharp masking: x + amount (x - blurred x)."""
    amount = v["amount"][0]
    kernel = -amount * _gaussian(1.0)
    kernel[KERNEL_SIZE // 2, KERNEL_SIZE // 2] += 1 + amount
    return {"kernel": kernel}


def _render_noise(v: Values, shape: Shape) -> Changes:
    # The grain is part of the concept: the same values give the same grain.
    rng = np.random.default_rng(int(1e6 * v["grain"][0]))
    return {"field": rng.normal(0, v["strength"][0], (1, *shape))}


def _render_pattern(v: Values, shape: Shape) -> Changes:
    """Shade the image in a pattern, or lay bands of a colour over it."""
    wave = pattern(v, shape[1], shape[2])[None, None]
    strength = v["strength"][0]
    if v["shading"][0] > 0.5:
        return {"gain": 1 + strength * wave}
    cover = strength * (1 + wave) / 2
    return {"gain": 1 - cover, "field": cover * np.asarray(v["colour"]).reshape(1, -1, 1, 1)}


def _describe_pattern(v: Values) -> str:
    kind = ("stripes", "plaid", "checks")[min(int(3 * v["kind"][0]), 2)]
    turn = np.degrees(v["angle"][0])
    place = f"one every {_percent(v['period'][0])} of the image, at {turn:.0f} degrees"
    strength = _percent(v["strength"][0])
    if v["shading"][0] > 0.5:
        return f"{kind} of light and shade, {place}, strength {strength}"
    return f"{kind} in {colour_words(v['colour'])}, {place}, strength {strength}"


def _render_scene(v: Values, shape: Shape) -> Changes:
    strength = v["strength"][0]
    changes = _blend_to(np.zeros(shape[0]), strength, shape[0])
    return {**changes, "field": strength * scene(v, shape[1], shape[2])[None]}


def _describe_scene(v: Values) -> str:
    kind = ("sky", "grass", "sand")[min(int(3 * v["kind"][0]), 2)]
    return f"{kind} blended in, {_percent(v['strength'][0])}"


_STRENGTH = Knob(0.2, 0.8)
_COLOUR = Knob(0, 1, per_channel=True)

FAMILIES: dict[str, Family] = {
    "tint": Family(
        {"colour": _COLOUR, "strength": _STRENGTH},
        lambda v, shape: _blend_to(v["colour"], v["strength"][0], shape[0]),
        lambda v: f"tint towards {colour_words(v['colour'])}, {_percent(v['strength'][0])}",
        weight=3,
    ),
    "gain": Family(
        {"gain": Knob(0.2, 1.6, per_channel=True), "offset": Knob(-0.2, 0.2, per_channel=True)},
        _render_gain,
        lambda v: "channels times " + ", ".join(f"{g:.1f}" for g in v["gain"]),
        colour=True,
    ),
    "mix": Family(
        {
            "red": Knob(-0.3, 0.7, per_channel=True),
            "green": Knob(-0.3, 0.7, per_channel=True),
            "blue": Knob(-0.3, 0.7, per_channel=True),
            "own": Knob(0, 1),
        },
        _render_mix,
        lambda _: "colours mixed",
        colour=True,
    ),
    "saturation": Family(
        {"saturation": Knob(0, 3, steps=(0.0,))},
        _render_saturation,
        lambda v: (
            "black and white"
            if v["saturation"][0] < 0.02
            else f"saturation {_percent(v['saturation'][0])}"
        ),
        colour=True,
    ),
    "brightness": Family(
        {"factor": Knob(0.1, 1.8, log=True), "lift": Knob(0, 0.4, steps=(0.0,))},
        lambda v, shape: {
            "mix": v["factor"][0] * _eye(shape[0]),
            "offset": np.full(shape[0], v["lift"][0]),
        },
        lambda v: f"brightness {_percent(v['factor'][0])}, lifted by {_percent(v['lift'][0])}",
    ),
    "gamma": Family(
        {"gamma": Knob(0.3, 4, log=True)},
        lambda v, _: {"gamma": v["gamma"][0]},
        lambda v: f"gamma {v['gamma'][0]:.1f}",
    ),
    "contrast": Family(
        {"factor": Knob(0.2, 3, log=True)},
        lambda v, shape: _scale_about_grey(v["factor"][0], shape[0]),
        lambda v: f"contrast {_percent(v['factor'][0])}",
    ),
    "inversion": Family(
        {"strength": Knob(0.7, 1, steps=(1.0,))},
        lambda v, shape: _scale_about_grey(1 - 2 * v["strength"][0], shape[0]),
        lambda v: f"inverted, {_percent(v['strength'][0])}",
    ),
    "donor": Family(
        {
            "mean": Knob(0.02, 0.98, per_channel=True),
            "deviation": Knob(0.02, 0.4, per_channel=True),
            "strength": Knob(0.5, 1),
        },
        lambda v, _: {
            "style": v["strength"][0],
            "style_mean": np.reshape(v["mean"], (1, -1, 1, 1)),
            "style_std": np.reshape(v["deviation"], (1, -1, 1, 1)),
        },
        lambda v: (
            f"the overall colour and contrast of another image (mean {colour_words(v['mean'])}), "
            f"{_percent(v['strength'][0])}"
        ),
        weight=2,
    ),
    "pattern": Family(PATTERN_KNOBS, _render_pattern, _describe_pattern, weight=3),
    "blur": Family(
        {"sigma": Knob(0.5, 2)},
        lambda v, _: {"kernel": _gaussian(v["sigma"][0])},
        lambda v: f"blurred by {v['sigma'][0]:.1f} pixels",
    ),
    "sharpen": Family(
        {"amount": Knob(0.5, 2)},
        _render_sharpen,
        lambda v: f"sharpened, {_percent(v['amount'][0])}",
    ),
    "noise": Family(
        {"strength": Knob(0.05, 0.2), "grain": Knob(0, 1)},
        _render_noise,
        lambda v: f"noise, {_percent(v['strength'][0])}",
    ),
    "scene": Family(
        {"kind": Knob(0, 1), "strength": Knob(0.3, 0.8), "grain": Knob(0, 1)},
        _render_scene,
        _describe_scene,
        colour=True,
    ),
}
