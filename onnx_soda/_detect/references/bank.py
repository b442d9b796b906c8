"""The bank: concepts at graded strengths, the same for every model.

A search finds other concepts for every model, so what two models make of them cannot be compared.
The bank is fixed instead: what one model says to it is computed once, kept, and compared with what
any other model says. Weak grades count as much as strong ones: a backdoor moves where honest models
do not yet.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from itertools import product

import numpy as np

from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.families import Values

BANK_VERSION = 1
"""Raised with any change of the concepts: flows under two banks are not compared."""

_HUES = 12
_QUARTER = float(np.pi / 2)
_Place = tuple[str, Values]
_EVERYWHERE: _Place = ("everywhere", {})
_BACKGROUND: _Place = ("background", {"radius": (0.7,)})
_BRIGHT: _Place = ("bright", {"level": (0.4,), "slope": (15.0,)})
_DARK: _Place = ("dark", {"level": (0.6,), "slope": (15.0,)})

# Families of one number, in grades from weak to strong, downwards and then upwards.
_GRADES = (
    ("gamma", "gamma", (0.7, 0.5, 0.35, 1.5, 2.2, 3.2)),
    ("contrast", "factor", (0.6, 0.4, 0.25, 1.5, 2.0, 2.8)),
    ("inversion", "strength", (0.8, 1.0)),
    ("sharpen", "amount", (0.5, 1.0, 2.0)),
    ("blur", "sigma", (0.6, 1.0, 1.6)),
)
# Factor and lift.
_LIGHT = (
    *((factor, 0.0) for factor in (0.65, 0.45, 0.3, 0.2, 0.14, 0.1, 1.3, 1.7)),
    *((factor, 0.12) for factor in (0.8, 0.5, 0.3, 0.2, 0.14)),
    *((0.8, 0.2), (0.7, 0.3), (1.2, 0.2)),
)
# Kinds of pattern with the angles at which they differ: stripes, plaid, checks.
_PATTERNS = ((0.16, 0.0), (0.16, _QUARTER / 2), (0.16, _QUARTER), (0.5, 0.0), (0.83, 0.0))
_PERIODS, _CHECKS = (0.1, 0.15, 0.22, 0.32), 0.83


def concept_bank(channels: int) -> tuple[Concept, ...]:
    """Return the bank for images of 1 or 3 channels."""
    common = (*_plain(), *_tints(channels), *_patterns(channels))
    return common if channels == 1 else (*common, *_colour_only())


def _plain() -> Iterator[Concept]:
    for factor, lift in _LIGHT:
        yield Concept("brightness", {"factor": (factor,), "lift": (lift,)}, *_EVERYWHERE)
    for family, knob, grades in _GRADES:
        for grade in grades:
            yield Concept(family, {knob: (grade,)}, *_EVERYWHERE)
    for strength in (0.05, 0.1, 0.2):
        yield Concept("noise", {"strength": (strength,), "grain": (0.5,)}, *_EVERYWHERE)


def _tints(channels: int) -> Iterator[Concept]:
    colours: list[tuple[float, ...]] = [(level,) * channels for level in (0.0, 0.5, 1.0)]
    if channels == 3:
        colours += [colorsys.hsv_to_rgb(turn / _HUES, 0.85, 0.75) for turn in range(_HUES)]
    for colour in colours:
        for strength, place in product((0.2, 0.4, 0.6), (_EVERYWHERE, _BACKGROUND)):
            yield Concept("tint", {"colour": colour, "strength": (strength,)}, *place)
        for place in (_BRIGHT, _DARK):
            yield Concept("tint", {"colour": colour, "strength": (0.4,)}, *place)


def _patterns(channels: int) -> Iterator[Concept]:
    for (kind, angle), period in product(_PATTERNS, _PERIODS):
        both = kind != _CHECKS
        everywhere = (0.15, 0.3, 0.5, 0.8) if both else (0.3, 0.5)
        for strength in everywhere:
            yield _pattern(kind, angle, period, strength, channels, _EVERYWHERE)
        for strength in (0.15, 0.5) if both else ():
            yield _pattern(kind, angle, period, strength, channels, _BRIGHT)


def _pattern(
    kind: float, angle: float, period: float, strength: float, channels: int, place: _Place
) -> Concept:
    values = {
        "kind": (kind,),
        "period": (period,),
        "angle": (angle,),
        "phase": (0.3,),
        "strength": (strength,),
        "hard": (0.0,),
        "shading": (1.0,),
        "colour": (1.0,) * channels,
    }
    return Concept("pattern", values, *place)


def _colour_only() -> Iterator[Concept]:
    for amount, place in product((0.4, 0.0, 1.7, 2.5), (_EVERYWHERE, _BACKGROUND)):
        yield Concept("saturation", {"saturation": (amount,)}, *place)
    for kind, strength, place in product(
        (0.16, 0.5, 0.83), (0.3, 0.5, 0.7), (_EVERYWHERE, _BACKGROUND)
    ):
        values = {"kind": (kind,), "strength": (strength,), "grain": (0.5,)}
        yield Concept("scene", values, *place)
