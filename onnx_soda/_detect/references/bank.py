"""The bank: concepts at graded strengths, the same for every model.

A search finds other concepts for every model, so what two models make of them cannot be compared.
The bank is fixed instead: what one model says to it is computed once, kept, and compared with what
any other model says. Weak grades count as much as strong ones: a backdoor moves where honest models
do not yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from onnx_soda._detect.concepts.battery import (
    BACKGROUND,
    BRIGHT,
    DARK,
    EVERYWHERE,
    QUARTER,
    plain_colours,
    shading,
)
from onnx_soda._detect.concepts.concept import Concept

BANK_VERSION = 1
"""Raised with any change of the concepts: flows under two banks are not compared."""

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
_PATTERNS = ((0.16, 0.0), (0.16, QUARTER / 2), (0.16, QUARTER), (0.5, 0.0), (0.83, 0.0))
_PERIODS, _CHECKS = (0.1, 0.15, 0.22, 0.32), 0.83


# Of each family the number that tells its strength, and at which nothing would change.
_STRENGTHS = {
    "brightness": ("factor", 1.0),
    "gamma": ("gamma", 1.0),
    "contrast": ("factor", 1.0),
    "saturation": ("saturation", 1.0),
    "sharpen": ("amount", 0.0),
    "blur": ("sigma", 0.0),
}
_STRENGTH = ("strength", 0.0)


def grades_of(bank: Sequence[Concept], place: int) -> list[int]:
    """Return the places of the concepts that differ from one in strength alone, weak to strong.

    Args:
        bank: See `concept_bank`.
        place: Of the one, which is among them.
    """
    knob, nothing = _STRENGTHS.get(bank[place].family, _STRENGTH)

    def kind(concept: Concept) -> tuple[object, ...]:
        other = {name: value for name, value in concept.values.items() if name != knob}
        more = concept.values[knob][0] > nothing
        return (concept.mask, concept.mask_values, other, more)

    same = [
        number
        for number, concept in enumerate(bank)
        if concept.family == bank[place].family and kind(concept) == kind(bank[place])
    ]
    return sorted(same, key=lambda number: abs(bank[number].values[knob][0] - nothing))


def strength_of(concept: Concept) -> float:
    """Return the number that tells a concept's strength."""
    return concept.values[_STRENGTHS.get(concept.family, _STRENGTH)[0]][0]


def concept_bank(channels: int) -> tuple[Concept, ...]:
    """Return the bank for images of 1 or 3 channels."""
    common = (*_plain(), *_tints(channels), *_patterns(channels))
    return common if channels == 1 else (*common, *_colour_only())


def _plain() -> Iterator[Concept]:
    for factor, lift in _LIGHT:
        yield Concept("brightness", {"factor": (factor,), "lift": (lift,)}, *EVERYWHERE)
    for family, knob, grades in _GRADES:
        for grade in grades:
            yield Concept(family, {knob: (grade,)}, *EVERYWHERE)
    for strength in (0.05, 0.1, 0.2):
        yield Concept("noise", {"strength": (strength,), "grain": (0.5,)}, *EVERYWHERE)


def _tints(channels: int) -> Iterator[Concept]:
    for colour in plain_colours(channels):
        for strength, place in product((0.2, 0.4, 0.6), (EVERYWHERE, BACKGROUND)):
            yield Concept("tint", {"colour": colour, "strength": (strength,)}, *place)
        for place in (BRIGHT, DARK):
            yield Concept("tint", {"colour": colour, "strength": (0.4,)}, *place)


def _patterns(channels: int) -> Iterator[Concept]:
    for (kind, angle), period in product(_PATTERNS, _PERIODS):
        both = kind != _CHECKS
        everywhere = (0.15, 0.3, 0.5, 0.8) if both else (0.3, 0.5)
        for strength in everywhere:
            yield shading(kind, angle, period, strength, EVERYWHERE, channels)
        for strength in (0.15, 0.5) if both else ():
            yield shading(kind, angle, period, strength, BRIGHT, channels)


def _colour_only() -> Iterator[Concept]:
    for amount, place in product((0.4, 0.0, 1.7, 2.5), (EVERYWHERE, BACKGROUND)):
        yield Concept("saturation", {"saturation": (amount,)}, *place)
    for kind, strength, place in product(
        (0.16, 0.5, 0.83), (0.3, 0.5, 0.7), (EVERYWHERE, BACKGROUND)
    ):
        values = {"kind": (kind,), "strength": (strength,), "grain": (0.5,)}
        yield Concept("scene", values, *place)
