"""Searches for the style and the pair that the clean data does not support.

Some donors first, then variations of the styles that do best for the most
promising pairs. Look-alikes count here: in clean models of known truth no style confused them
beyond the reference, as changes of the image do (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from onnx_soda.concepts.budget import Budget
from onnx_soda.concepts.estimate import Judge
from onnx_soda.concepts.folds import FOLDS
from onnx_soda.concepts.probe import Probe
from onnx_soda.concepts.score import STYLE_SCORING
from onnx_soda.concepts.styles import STRENGTHS, Style, StyleLibrary
from onnx_soda.concepts.trials import SearchResult, Trials

__all__ = ["search_styles"]

# Pairs that are looked at on more images.
_FINDINGS = 3


def search_styles(
    probe: Probe,
    judge: Judge,
    library: StyleLibrary,
    rng: np.random.Generator,
    budget: Budget,
    advance: Callable[[int], None] | None = None,
) -> SearchResult[Style]:
    """Search for styles under which one class turns into another without support.

    Args:
        probe: The classifier with a style layer, and images grouped by `group_by_fold`.
        judge: Scores what the probe says.
        library: Donors.
        rng: Source of randomness; the same state gives the same result.
        budget: How many styles to try.
        advance: Called with the number of styles tried.
    """
    trials = Trials[Style](probe, replace(judge, scoring=STYLE_SCORING), advance)
    donors = library.donors(budget.donors, rng)
    for strength in STRENGTHS:
        for donor in donors:
            trials.add(library.take(donor, strength))
    trials.close_screening()
    for turn, (pairs, moves) in enumerate(budget.style_rounds):
        for fold in range(FOLDS):
            leaders = [style for style, _ in trials.promising(fold, pairs, moves)]
            for style in library.vary(leaders, len(leaders), 1 / (1 + turn), rng):
                trials.add(style, fold)
    return trials.result(_FINDINGS)
