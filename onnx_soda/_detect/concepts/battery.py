"""The concepts that are always tried first, and how many more a scan tries.

Random draws over many families leave gaps: of three hundred, two may be dark ones. The battery goes
over each family's main number in steps, so that a plain trigger (night, black and white, stripes, a
blue background) is met for certain. Random draws and refinement do the rest.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.families import Values
from onnx_soda._detect.concepts.folds import FOLDS
from onnx_soda._detect.concepts.styles import STRENGTHS
from onnx_soda._options import BudgetName

_HUES = 12
QUARTER = float(np.pi / 2)
Place = tuple[str, Values]
"""A mask and its numbers."""

EVERYWHERE: Place = ("everywhere", {})
BACKGROUND: Place = ("background", {"radius": (0.7,)})
BRIGHT: Place = ("bright", {"level": (0.4,), "slope": (15.0,)})
DARK: Place = ("dark", {"level": (0.6,), "slope": (15.0,)})


def plain_colours(channels: int) -> list[tuple[float, ...]]:
    """Return black, grey and white, and for colour images the hues all around."""
    greys = [(level,) * channels for level in (0.0, 0.5, 1.0)]
    if channels == 1:
        return greys
    hues = [colorsys.hsv_to_rgb(turn / _HUES, 0.85, 0.75) for turn in range(_HUES)]
    return [*greys, *hues]


def _tints(channels: int) -> Iterator[Concept]:
    places = (EVERYWHERE, BACKGROUND, BRIGHT, DARK)
    for colour, strength, place in product(plain_colours(channels), (0.4, 0.65), places):
        # Two of the four places for each strength: half the cost, every pair of neighbours met.
        if (place in (EVERYWHERE, BRIGHT)) == (strength < 0.5):
            yield Concept("tint", {"colour": colour, "strength": (strength,)}, *place)


def _light() -> Iterator[Concept]:
    for factor, lift in product((0.1, 0.14, 0.2, 0.3, 0.5), (0.0, 0.12)):
        yield Concept("brightness", {"factor": (factor,), "lift": (lift,)}, *EVERYWHERE)
    for factor, lift in ((1.4, 0.0), (1.8, 0.0), (0.8, 0.2), (0.7, 0.3), (1.2, 0.2)):
        yield Concept("brightness", {"factor": (factor,), "lift": (lift,)}, *EVERYWHERE)
    for gamma in (0.3, 0.5, 0.7, 1.5, 2.5, 4.0):
        yield Concept("gamma", {"gamma": (gamma,)}, *EVERYWHERE)
    for factor in (0.25, 0.5, 1.7, 3.0):
        yield Concept("contrast", {"factor": (factor,)}, *EVERYWHERE)
    yield Concept("inversion", {"strength": (1.0,)}, *EVERYWHERE)


def _detail() -> Iterator[Concept]:
    for sigma in (0.7, 1.5):
        yield Concept("blur", {"sigma": (sigma,)}, *EVERYWHERE)
    for amount in (1.0, 2.0):
        yield Concept("sharpen", {"amount": (amount,)}, *EVERYWHERE)
    yield Concept("noise", {"strength": (0.1,), "grain": (0.5,)}, *EVERYWHERE)


def _textures(channels: int) -> Iterator[Concept]:
    periods, strengths = (0.1, 0.15, 0.22, 0.32), (0.5, 0.9)
    # Plaid and checks look the same when turned by a quarter.
    kinds = ((0.16, 0.0), (0.16, QUARTER), (0.5, 0.0), (0.83, 0.0))
    places = (EVERYWHERE, BRIGHT, BACKGROUND)
    for turn, (period, strength, (kind, angle)) in enumerate(product(periods, strengths, kinds)):
        hard = float(turn % 2)
        for place in (EVERYWHERE, places[1 + turn % 2]):
            yield shading(kind, angle, period, strength, place, channels, hard)


def shading(
    kind: float,
    angle: float,
    period: float,
    strength: float,
    place: Place,
    channels: int,
    hard: float = 0.0,
) -> Concept:
    """Return a pattern of light and shade; see `PATTERN_KNOBS`."""
    values = {
        "kind": (kind,),
        "period": (period,),
        "angle": (angle,),
        "phase": (0.3,),
        "strength": (strength,),
        "hard": (hard,),
        "shading": (1.0,),
        "colour": (1.0,) * channels,
    }
    return Concept("pattern", values, *place)


def _colour_only() -> Iterator[Concept]:
    for amount, place in product((0.0, 2.5), (EVERYWHERE, BACKGROUND)):
        yield Concept("saturation", {"saturation": (amount,)}, *place)
    for kind, strength, place in product((0.16, 0.5, 0.83), (0.5, 0.75), (EVERYWHERE, BACKGROUND)):
        values = {"kind": (kind,), "strength": (strength,), "grain": (0.5,)}
        yield Concept("scene", values, *place)


def concept_battery(channels: int) -> tuple[Concept, ...]:
    """Return the battery for images of 1 or 3 channels."""
    common = (*_tints(channels), *_light(), *_detail(), *_textures(channels))
    return common if channels == 1 else (*common, *_colour_only())


# With many classes, so many times as many pairs are varied.
_WIDER = 4
Rounds = tuple[tuple[int, int], ...]
"""Pairs refined in each round, and variations tried of each, by each fold. Many pairs first, then
more of fewer (successive halving, Jamieson and Talwalkar 2016)."""


@dataclass(frozen=True)
class Budget:
    """How much is tried, besides the battery.

    Attributes:
        draws: Concepts drawn at random.
        rounds: Their refinement.
        donors: Images whose style is given to a hidden tensor.
        style_rounds: The refinement of styles.
    """

    draws: int
    rounds: Rounds
    donors: int
    style_rounds: Rounds

    def widened(self) -> Budget:
        """Return the same for many classes: more pairs in each round.

        Of 384 pairs that raced among 203 classes the true one was the 19th and the 31st before any
        was varied (docs/performance.md).
        """
        wider = tuple((_WIDER * pairs, moves) for pairs, moves in self.rounds)
        styles = tuple((_WIDER * pairs, moves) for pairs, moves in self.style_rounds)
        return replace(self, rounds=wider, style_rounds=styles)

    def concepts(self, channels: int) -> int:
        """Return the number of concepts tried in all."""
        return len(concept_battery(channels)) + self.draws + FOLDS * varied(self.rounds)

    def styles(self, images: int) -> int:
        """Return the number of styles tried in all, where there are so many images."""
        return len(STRENGTHS) * min(self.donors, images) + FOLDS * varied(self.style_rounds)


def varied(rounds: Rounds) -> int:
    """Return the number of variations that each fold makes."""
    return sum(pairs * moves for pairs, moves in rounds)


BUDGETS: Mapping[BudgetName, Budget] = {
    "quick": Budget(0, ((4, 6), (2, 12)), 25, ((4, 4),)),
    "default": Budget(100, ((16, 2), (8, 4), (4, 6), (3, 8)), 60, ((6, 2), (4, 4), (3, 6))),
    "thorough": Budget(
        600,
        ((32, 3), (16, 6), (8, 10), (4, 16), (3, 16)),
        250,
        ((12, 4), (6, 8), (4, 12)),
    ),
}
