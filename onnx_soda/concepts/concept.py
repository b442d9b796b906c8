"""A concept: a family with its numbers, or two, applied somewhere in the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnx_soda.concepts import knobs
from onnx_soda.concepts.families import FAMILIES, Shape
from onnx_soda.concepts.fields import ProbeFields, compose, identity_fields
from onnx_soda.concepts.knobs import Values
from onnx_soda.concepts.masks import MASKS

__all__ = ["Concept", "Donor", "Step", "draw_concept", "join_concepts", "move_concept"]


# Share of the moves that change where a concept applies.
_ELSEWHERE = 0.15

Donor = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of a clean image, one number per channel each."""


@dataclass(frozen=True)
class Step:
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
    then: Step | None = None

    def render(self, shape: Shape) -> ProbeFields:
        """Return the probe's inputs for images of (channels, height, width)."""
        changes = dict(FAMILIES[self.family].render(self.values, shape))
        if self.then:
            after = FAMILIES[self.then.family].render(self.then.values, shape)
            changes = compose(changes, after, shape[0])
        changes.update(MASKS[self.mask].render(self.mask_values, shape[1], shape[2]))
        return identity_fields(*shape, changes)

    def feeds(self, shape: Shape) -> dict[str, NDArray[np.float32]]:
        """Return the probe's inputs by name."""
        return self.render(shape).as_feeds("")

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
    values = dict(knobs.draw(FAMILIES[family].knobs, rng, channels))
    if family == "donor" and donors:
        values["mean"], values["deviation"] = donors[int(rng.integers(len(donors)))]
    return Concept(
        family,
        values,
        mask,
        knobs.draw(MASKS[mask].knobs, rng, channels),
    )


def move_concept(concept: Concept, rng: np.random.Generator, width: float = 1.0) -> Concept:
    """Return a concept near to another: the same families, every number moved a little.

    Now and then it applies elsewhere in the image.

    Args:
        concept: Where to start.
        rng: Draws.
        width: Of the moves; 1 is usual.
    """
    values = knobs.move(FAMILIES[concept.family].knobs, concept.values, rng, width)
    then = concept.then and Step(
        concept.then.family,
        knobs.move(FAMILIES[concept.then.family].knobs, concept.then.values, rng, width),
    )
    if rng.random() < _ELSEWHERE:
        mask = _choose({name: m.weight for name, m in MASKS.items()}, rng)
        places = knobs.draw(MASKS[mask].knobs, rng, 1)
    else:
        mask = concept.mask
        places = knobs.move(MASKS[mask].knobs, concept.mask_values, rng, width)
    return Concept(concept.family, values, mask, places, then)


def join_concepts(first: Concept, second: Concept) -> Concept:
    """Return a concept that does one and then the other, both where the first applies."""
    return replace(first, then=Step(second.family, second.values))


def _choose(weights: Mapping[str, float], rng: np.random.Generator) -> str:
    shares = np.array(list(weights.values()))
    return str(rng.choice(list(weights), p=shares / shares.sum()))
