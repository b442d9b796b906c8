"""The numbers that describe a concept: drawn at random, and moved a little to search further."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Knob", "Values", "draw", "move"]

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


def draw(knobs: Mapping[str, Knob], rng: np.random.Generator, channels: int) -> Values:
    """Draw a value for every knob."""
    return {name: knob.draw(rng, channels) for name, knob in knobs.items()}


def move(
    knobs: Mapping[str, Knob], values: Values, rng: np.random.Generator, width: float = 1.0
) -> Values:
    """Move every knob a little; `width` scales by how much."""
    return {name: knob.move(values[name], rng, width) for name, knob in knobs.items()}
