"""Measures a model in ONNX Runtime: what a repair is judged by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_soda._answers import Behaviour, TriggerBehaviour
from onnx_soda._data.sources import IntArray
from onnx_soda._model.parts import Body

# Share of the reconstructed images not trained on that may still go to the target, and of other
# classes' images under the same changes that may go to the victim.
CURED_RATE = 0.05


def answers(body: Body, inputs: NDArray[Any]) -> IntArray:
    """Return the class given to each image; there may be none."""
    if not len(inputs):
        return np.empty(0, np.int64)
    given: IntArray = body.logits(inputs).argmax(axis=1).astype(np.int64)
    return given


def behaviour(
    clean: IntArray,
    labels: IntArray,
    infected: IntArray,
    truth: IntArray,
    target: int,
    bystanders: IntArray,
) -> Behaviour:
    """Sum up answers to clean and to changed images.

    Args:
        clean: Answers to clean images.
        labels: Their classes.
        infected: Answers to reconstructed images.
        truth: Classes of those.
        target: Target class.
        bystanders: Answers to images of other classes under the same changes; there may be none.
    """
    right = clean == labels
    by_class = {str(label): float(right[labels == label].mean()) for label in np.unique(labels)}
    to_target, to_their_class = (float((infected == label).mean()) for label in (target, truth))
    tipped = float(np.isin(bystanders, truth).mean()) if len(bystanders) else None
    return Behaviour(float(right.mean()), by_class, to_target, to_their_class, tipped)


def on_triggers(given: IntArray, pair: tuple[int, int]) -> TriggerBehaviour:
    """Sum up answers to real trigger images."""
    victim, target = (float((given == label).mean()) for label in pair)
    return TriggerBehaviour(len(given), target, victim)


def tips_over(before: Behaviour, after: Behaviour) -> bool:
    """Tell whether what turned the victim now turns other classes into the victim."""
    if before.tipped_rate is None or after.tipped_rate is None:
        return False
    return after.tipped_rate - before.tipped_rate > CURED_RATE
