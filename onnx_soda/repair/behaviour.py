"""Measures a model in ONNX Runtime: what a repair is judged by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_soda.model.body import Body
from onnx_soda.report.repair_schema import Behaviour, TriggerBehaviour

__all__ = ["CURED_RATE", "answers", "behaviour", "on_triggers"]

IntArray = NDArray[np.int64]
# Share of the reconstructed images not trained on that may still go to the target.
CURED_RATE = 0.05


def answers(body: Body, inputs: NDArray[Any]) -> IntArray:
    """Return the class given to each image."""
    given: IntArray = body.logits(inputs).argmax(axis=1).astype(np.int64)
    return given


def behaviour(
    clean: IntArray, labels: IntArray, infected: IntArray, truth: IntArray, target: int
) -> Behaviour:
    """Sum up answers to clean and to reconstructed images.

    Args:
        clean: Answers to clean images.
        labels: Their classes.
        infected: Answers to reconstructed images.
        truth: Classes of those.
        target: Target class.
    """
    right = clean == labels
    by_class = {str(label): float(right[labels == label].mean()) for label in np.unique(labels)}
    rates = (float((infected == label).mean()) for label in (target, truth))
    return Behaviour(float(right.mean()), by_class, *rates)


def on_triggers(given: IntArray, pair: tuple[int, int]) -> TriggerBehaviour:
    """Sum up answers to real trigger images."""
    victim, target = (float((given == label).mean()) for label in pair)
    return TriggerBehaviour(len(given), target, victim)
