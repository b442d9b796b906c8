"""Concepts: what is done to an image and where, as numbers that can be drawn, moved and told.

A concept is one or two effects, each of a family (`families.py`), at a place in the image (the
masks here). It renders the numbers of the probe graph (`fields.py`) and says in words what it does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from onnx_soda._detect.concepts.families import (
    FAMILIES,
    Knob,
    Shape,
    Values,
    draw_values,
    move_values,
)
from onnx_soda._detect.concepts.fields import ProbeFields, changed_fields, compose, identity_fields
from onnx_soda._errors import OptionError
from onnx_soda._numbers import ConceptValues, EffectValues

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


# Share of the moves that change where a concept applies.
_ELSEWHERE = 0.15

Donor = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of a clean image, one number per channel each."""


@dataclass(frozen=True)
class Effect:
    """A family with its numbers.

    Attributes:
        family: Key of `FAMILIES`.
        values: The family's numbers.
    """

    family: str
    values: Values


@dataclass(frozen=True)
class Concept:
    """Something that the same thing can look like.

    Attributes:
        family: Key of `FAMILIES`.
        values: The family's numbers.
        mask: Key of `MASKS`.
        mask_values: The mask's numbers.
        then: What is done after it, at the same place.
    """

    family: str
    values: Values
    mask: str
    mask_values: Values
    then: Effect | None = None

    def _changes(self, shape: Shape) -> dict[str, Any]:
        """Return what it sets, for images of (channels, height, width)."""
        changes = dict(FAMILIES[self.family].render(self.values, shape))
        if self.then:
            after = FAMILIES[self.then.family].render(self.then.values, shape)
            changes = compose(changes, after, shape[0])
        changes.update(MASKS[self.mask].render(self.mask_values, shape[1], shape[2]))
        return changes

    def render(self, shape: Shape) -> ProbeFields:
        """Return all of the pipeline's numbers for images of (channels, height, width)."""
        return identity_fields(*shape, self._changes(shape))

    def feeds(self, shape: Shape) -> dict[str, NDArray[np.float32]]:
        """Return the pipeline's inputs that it sets, by name; the others change nothing."""
        return changed_fields(*shape, self._changes(shape))

    @property
    def of(self) -> str:
        """What is changed, in words."""
        return "the image"

    def describe(self) -> str:
        """Return the concept in words."""
        words = FAMILIES[self.family].describe(self.values)
        if self.then:
            words += f", then {FAMILIES[self.then.family].describe(self.then.values)}"
        return f"{words}, {MASKS[self.mask].words}"


def draw_concept(rng: np.random.Generator, channels: int, donors: Sequence[Donor] = ()) -> Concept:
    """Draw a concept at random; grey images get the families that make sense for them.

    Args:
        rng: Draws.
        channels: Of the images.
        donors: Clean images whose style may be carried over; any style is drawn without them.
    """
    usable = {name: f for name, f in FAMILIES.items() if channels == 3 or not f.colour}
    family = _choose({name: f.weight for name, f in usable.items()}, rng)
    mask = _choose({name: m.weight for name, m in MASKS.items()}, rng)
    values = dict(draw_values(FAMILIES[family].knobs, rng, channels))
    if family == "donor" and donors:
        values["mean"], values["deviation"] = donors[int(rng.integers(len(donors)))]
    return Concept(
        family,
        values,
        mask,
        draw_values(MASKS[mask].knobs, rng, channels),
    )


def move_concept(concept: Concept, rng: np.random.Generator, width: float = 1.0) -> Concept:
    """Return a concept near to another: the same families, every number moved a little.

    Now and then it applies elsewhere in the image.

    Args:
        concept: Where to start.
        rng: Draws.
        width: Of the moves; 1 is usual.
    """
    values = move_values(FAMILIES[concept.family].knobs, concept.values, rng, width)
    then = concept.then and Effect(
        concept.then.family,
        move_values(FAMILIES[concept.then.family].knobs, concept.then.values, rng, width),
    )
    if rng.random() < _ELSEWHERE:
        mask = _choose({name: m.weight for name, m in MASKS.items()}, rng)
        places = draw_values(MASKS[mask].knobs, rng, 1)
    else:
        mask = concept.mask
        places = move_values(MASKS[mask].knobs, concept.mask_values, rng, width)
    return Concept(concept.family, values, mask, places, then)


def join_concepts(first: Concept, second: Concept) -> Concept:
    """Return a concept that does one and then the other, both where the first applies."""
    return replace(first, then=Effect(second.family, second.values))


def _choose(weights: Mapping[str, float], rng: np.random.Generator) -> str:
    shares = np.array(list(weights.values()))
    return str(rng.choice(list(weights), p=shares / shares.sum()))


@dataclass(frozen=True)
class ConceptVariations:
    """Makes concepts to try: a few at random, and variations of those that do well.

    Attributes:
        channels: Of the images.
        donors: Clean images whose style may be carried over.
    """

    channels: int
    donors: Sequence[Donor] = ()

    def vary(
        self,
        concept: Concept,
        partners: Sequence[Concept],
        join: bool,
        width: float,
        rng: np.random.Generator,
    ) -> Concept:
        """Return a variation: moved, or joined with a partner or with any concept.

        What is joined already is moved; what would be joined with its own family, by a wide step.

        Args:
            concept: Where to start.
            partners: Concepts that do something for the same pair of classes.
            join: Join it, where it is not joined already.
            width: Of the moves; 1 is usual.
            rng: Draws.
        """
        if not join or concept.then:
            return move_concept(concept, rng, width)
        usable = [one for one in partners if one.family != concept.family and not one.then]
        if usable and rng.random() < 0.5:
            partner = usable[int(rng.integers(len(usable)))]
        else:
            partner = draw_concept(rng, self.channels, self.donors)
        if partner.family == concept.family:
            return move_concept(concept, rng)
        pair = (concept, partner) if rng.random() < 0.5 else (partner, concept)
        return join_concepts(*pair)


def of_each_family(concepts: Iterable[Concept], count: int) -> list[Concept]:
    """Return the first few concepts of each family, in the order given."""
    taken: Counter[str] = Counter()
    chosen = []
    for concept in concepts:
        if taken[concept.family] < count:
            chosen.append(concept)
        taken[concept.family] += 1
    return chosen


def concept_values(concept: Concept) -> ConceptValues:
    """Return a concept in numbers, as reports keep it."""
    effects = [EffectValues(concept.family, concept.values)]
    if concept.then:
        effects.append(EffectValues(concept.then.family, concept.then.values))
    return ConceptValues(tuple(effects), EffectValues(concept.mask, concept.mask_values))


def concept_of(values: ConceptValues) -> Concept:
    """Return the concept that a report keeps in numbers.

    Raises:
        OptionError: It is of a family, or of numbers, that this version does not know.
    """
    first, *more = values.effects
    knobs = {name: set(family.knobs) for name, family in FAMILIES.items()}
    places = {name: set(mask.knobs) for name, mask in MASKS.items()}
    entries = [*((knobs, effect) for effect in values.effects), (places, values.place)]
    for known, entry in entries:
        if known.get(entry.family) != set(entry.values):
            raise OptionError(
                f"a report has a concept of the family {entry.family!r}, which is not known here",
                "Scan the model again with this version.",
            )
    then = Effect(more[0].family, more[0].values) if more else None
    return Concept(first.family, first.values, values.place.family, values.place.values, then)
