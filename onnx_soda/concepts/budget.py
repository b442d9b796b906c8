"""How many interventions a scan tries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx_soda.concepts.battery import concept_battery
from onnx_soda.concepts.folds import FOLDS
from onnx_soda.concepts.styles import STRENGTHS
from onnx_soda.options import BudgetName

__all__ = ["BUDGETS", "Budget"]

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

    def concepts(self, channels: int) -> int:
        """Return the number of concepts tried in all."""
        return len(concept_battery(channels)) + self.draws + FOLDS * _varied(self.rounds)

    def styles(self, images: int) -> int:
        """Return the number of styles tried in all, where there are so many images."""
        return len(STRENGTHS) * min(self.donors, images) + FOLDS * _varied(self.style_rounds)


def _varied(rounds: Rounds) -> int:
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
