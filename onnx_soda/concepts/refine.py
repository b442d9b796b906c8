"""Varies the interventions of a pair that shows something on the many images of the closer look.

The search chooses on a few images of each class, where luck decides between those that are
nearly as good. Here each fold chooses again, on all of its images of the victim; the other fold
judges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from onnx_soda.concepts.change import AnyChange
from onnx_soda.concepts.confirm import Shown
from onnx_soda.concepts.estimate import Judge
from onnx_soda.concepts.trials import PairFinding

__all__ = ["Vary", "refine"]

Vary = Callable[[Sequence[AnyChange], int, float, np.random.Generator], list[AnyChange]]
"""Returns variations: of what, how many, how far they move, what draws."""

# Variations that each fold tries in each round, and how far they move.
_ROUNDS = ((8, 0.5), (8, 0.25))


def refine(
    shown: Shown,
    judge: Judge,
    finding: PairFinding[AnyChange],
    vary: Vary[AnyChange],
    rng: np.random.Generator,
) -> PairFinding[AnyChange]:
    """Return a pair with interventions at least as good on the fold that chooses them.

    Args:
        shown: Images.
        judge: As for `weigh`.
        finding: The pair, with what the search chose.
        vary: Makes the variations.
        rng: Draws the variations.
    """
    changes = finding.changes
    for moves, width in _ROUNDS:
        changes = tuple(
            _best(shown, judge, finding, fold, (*own, *vary(own, moves, width, rng)))
            for fold, own in enumerate(changes)
        )
    return replace(finding, changes=changes)


def _best(
    shown: Shown,
    judge: Judge,
    finding: PairFinding[AnyChange],
    fold: int,
    tried: tuple[AnyChange, ...],
) -> tuple[AnyChange, ...]:
    """Return as many as the finding has of a fold, those that the fold scores highest."""
    scores, _ = judge.score(np.stack([shown.flows(change) for change in tried]))
    own = scores[:, fold, finding.victim_class, finding.target_class]
    order = np.argsort(-own, kind="stable")[: len(finding.changes[fold])]
    return tuple(tried[int(place)] for place in order)
