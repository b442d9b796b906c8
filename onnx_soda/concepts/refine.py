"""Varies the concepts of a pair that shows something on the many images of the closer look.

The search chooses on a few images of each class, where luck decides between concepts that are
nearly as good. Here each fold chooses again, on all of its images of the victim; the other fold
judges.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_soda.concepts.concept import Concept, move_concept
from onnx_soda.concepts.confirm import Shown
from onnx_soda.concepts.estimate import Judge
from onnx_soda.concepts.search import ConceptFinding
from onnx_soda.concepts.vary import join_or_move

__all__ = ["refine"]

# Variations that each fold tries in each round, and how far they move.
_ROUNDS = ((8, 0.5), (8, 0.25))


def refine(
    shown: Shown, judge: Judge, finding: ConceptFinding, rng: np.random.Generator
) -> ConceptFinding:
    """Return a pair with concepts that are at least as good on the fold that chooses them.

    Args:
        shown: Images.
        judge: As for `weigh`.
        finding: The pair, with what the search chose.
        rng: Draws the variations.
    """
    concepts = finding.concepts
    for moves, width in _ROUNDS:
        concepts = tuple(
            _best(shown, judge, finding, fold, (*own, *_variations(shown, own, moves, width, rng)))
            for fold, own in enumerate(concepts)
        )
    return replace(finding, concepts=concepts)


def _variations(
    shown: Shown,
    leaders: tuple[Concept, ...],
    moves: int,
    width: float,
    rng: np.random.Generator,
) -> list[Concept]:
    channels = shown.pixels.shape[1]
    made = []
    for number in range(moves):
        concept = leaders[number % len(leaders)]
        if number % 2:
            made.append(join_or_move(concept, leaders, rng, channels, width=width))
        else:
            made.append(move_concept(concept, rng, width))
    return made


def _best(
    shown: Shown, judge: Judge, finding: ConceptFinding, fold: int, tried: tuple[Concept, ...]
) -> tuple[Concept, ...]:
    """Return as many concepts as the finding has of a fold, those that the fold scores highest."""
    scores, _ = judge.score(np.stack([shown.flows(concept) for concept in tried]))
    own = scores[:, fold, finding.victim_class, finding.target_class]
    order = np.argsort(-own, kind="stable")[: len(finding.concepts[fold])]
    return tuple(tried[int(place)] for place in order)
