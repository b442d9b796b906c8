"""The odd one out: models of one task are each other's references.

What every model makes of the bank of concepts is found out once. Each is then compared with all
others, as a suspect with its references (`onnx_soda._detect.references.opinion`). Many models of a
fleet may have the same backdoor, and so hide it from each other. So for each pair and concept the
quarter of the others that turns most is left out, and of how well a class is kept the quarter that
keeps it least. What is left out is chosen pair by pair: no model is taken for honest or guilty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda._detect.references.flows import Flows
from onnx_soda._detect.references.opinion import SecondOpinion, outstanding, pair_scores

FEWEST = 3
"""Models that a consensus needs: of two it cannot be told which is the odd one."""
# One of so many others is left out.
_LEFT_OUT = 4


@dataclass(frozen=True)
class Odd:
    """A model beside the others of its task.

    Attributes:
        name: Of the model.
        pair: Victim and target that stand out most.
        beyond: By how much, over what honest differences between these models reach.
        concept: Place in the bank of the change that shows it.
    """

    name: str
    pair: tuple[int, int]
    beyond: float
    concept: int


def consensus(models: Mapping[str, Flows]) -> tuple[Odd, ...]:
    """Compare each model with all others; return them, what stands out most first.

    Args:
        models: What each makes of the same bank and images, by its name; `FEWEST` at least.

    Raises:
        ValueError: There are too few, or they were shown different images or banks.
    """
    names, flows = list(models), list(models.values())
    if len(flows) < FEWEST:
        raise ValueError(f"a consensus needs {FEWEST} models, not {len(flows)}")
    if not all(map(flows[0].comparable, flows)):
        raise ValueError("flows of other images or of another bank cannot be compared")
    shares = np.stack([one.shares for one in flows])
    scored = [
        pair_scores(own, without_extremes(np.delete(shares, place, axis=0)))
        for place, own in enumerate(shares)
    ]
    found = tuple(outstanding(scores) for scores, _ in scored)
    opinion = SecondOpinion(*scored[0], found)
    odd = [
        Odd(
            name,
            found[place].pair,
            found[place].score - opinion.level(place),
            int(scored[place][1][0][found[place].pair]),
        )
        for place, name in enumerate(names)
    ]
    return tuple(sorted(odd, key=lambda one: -one.beyond))


def without_extremes(shares: NDArray[np.float32]) -> NDArray[np.float32]:
    """Leave out, for each pair and concept, the quarter of the models that turns most.

    Args:
        shares: Shape (models, 1 + concepts, folds, classes, classes).

    Returns:
        The same with fewer models; which ones differs from place to place.
    """
    kept = len(shares) - len(shares) // _LEFT_OUT
    ordered = np.sort(shares, axis=0)
    lowest, highest = ordered[:kept], ordered[len(shares) - kept :]
    classes = np.arange(shares.shape[-1])
    lowest[..., classes, classes] = highest[..., classes, classes]
    return lowest
