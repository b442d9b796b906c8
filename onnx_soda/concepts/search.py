"""Searches for the concept and the pair that the clean data does not support.

A fixed battery and random concepts first, then variations of those that do best for the most
promising pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnx_soda.concepts.battery import concept_battery
from onnx_soda.concepts.budget import BUDGETS, Budget
from onnx_soda.concepts.concept import Concept, Donor, draw_concept, move_concept
from onnx_soda.concepts.estimate import Judge
from onnx_soda.concepts.folds import FOLDS
from onnx_soda.concepts.probe import Probe
from onnx_soda.concepts.trials import SearchResult, Trials
from onnx_soda.concepts.vary import join_or_move

__all__ = ["search"]

# Pairs that are looked at on more images.
_FINDINGS = 5


def search(
    probe: Probe,
    judge: Judge,
    rng: np.random.Generator,
    budget: Budget | None = None,
    advance: Callable[[int], None] | None = None,
    donors: Sequence[Donor] = (),
) -> SearchResult[Concept]:
    """Search for concepts under which one class turns into another without support.

    Args:
        probe: The classifier, with images grouped by `group_by_fold`.
        judge: Scores what the probe says.
        rng: Source of randomness; the same state gives the same result.
        budget: How many concepts to try.
        advance: Called with the number of concepts tried.
        donors: Clean images whose style may be carried over.
    """
    budget = budget or BUDGETS["default"]
    channels = probe.shape[0]
    trials = Trials[Concept](probe, judge, advance)
    for concept in concept_battery(channels):
        trials.add(concept)
    for _ in range(budget.draws):
        trials.add(draw_concept(rng, channels, donors))
    trials.close_screening()
    for turn, (pairs, moves) in enumerate(budget.rounds):
        # Wide steps first, narrow ones to finish.
        width, joining = 1 / (1 + turn), turn < len(budget.rounds) - 1
        for fold in range(FOLDS):
            for number, (concept, kin) in enumerate(trials.promising(fold, pairs, moves)):
                if joining and number % 2:
                    trials.add(join_or_move(concept, kin, rng, channels, donors, width), fold)
                else:
                    trials.add(move_concept(concept, rng, width), fold)
    return trials.result(_FINDINGS)
