"""Variations of concepts that do well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_soda.concepts.concept import (
    Concept,
    Donor,
    draw_concept,
    join_concepts,
    move_concept,
)

__all__ = ["join_or_move", "vary_concepts"]


def join_or_move(
    concept: Concept,
    kin: Sequence[Concept],
    rng: np.random.Generator,
    channels: int,
    donors: Sequence[Donor] = (),
    width: float = 1.0,
) -> Concept:
    """Join a concept with one that does something for its pair, or with any, in either order.

    What is joined already is moved; what would be joined with its own family, by a wide step.

    Args:
        concept: Where to start.
        kin: Concepts that do something for the same pair.
        rng: Draws.
        channels: Of the images.
        donors: Clean images whose style may be carried over.
        width: Of the moves.
    """
    if concept.then:
        return move_concept(concept, rng, width)
    usable = [one for one in kin if one.family != concept.family and not one.then]
    if usable and rng.random() < 0.5:
        partner = usable[int(rng.integers(len(usable)))]
    else:
        partner = draw_concept(rng, channels, donors)
    if partner.family == concept.family:
        return move_concept(concept, rng)
    pair = (concept, partner) if rng.random() < 0.5 else (partner, concept)
    return join_concepts(*pair)


def vary_concepts(
    leaders: Sequence[Concept],
    moves: int,
    width: float,
    rng: np.random.Generator,
    channels: int,
) -> list[Concept]:
    """Return variations of each in turn: moved, and joined with another or with any concept.

    Args:
        leaders: Where to start.
        moves: Number of variations.
        width: Of the moves; 1 is usual.
        rng: Draws.
        channels: Of the images.
    """
    made = []
    for number in range(moves):
        concept = leaders[number % len(leaders)]
        if number % 2:
            made.append(join_or_move(concept, leaders, rng, channels, width=width))
        else:
            made.append(move_concept(concept, rng, width))
    return made
