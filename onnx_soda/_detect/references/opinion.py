"""A second opinion: which pair of the suspect stands out, and over what.

A suspect may be odd everywhere: of another architecture, or trained on other images. So a score
counts by how far it stands out over the *level* that honest differences reach. Two things show that
level: what the model's other pairs score, for a backdoor is in one pair; and what the second pairs
of the other models score. No model is taken for honest. A backdoor would be its first pair.

A reference may have the suspect's backdoor, and so hide it. It is then an *accomplice*: it and the
suspect, each compared with the other references alone, have the same pair first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda._detect.references.flows import Flows
from onnx_soda._detect.references.score import FloatArray, pair_scores

# How much of a model's own other pairs counts for the level. Chosen with the numbers in `score`.
_OWN_WEIGHT = 1.5
# The first pair of a model, and two others.
_APART = 3
# An accomplice needs others: two models that agree with each other and not with it.
_FEWEST_OTHERS = 2

Pair = tuple[int, int]


@dataclass(frozen=True)
class Outstanding:
    """The pair of a model that stands out most.

    Attributes:
        pair: Victim and target.
        score: Its score, 0 at least.
        others: The next scores of pairs that share no class with it or with each other, 0 at least.
    """

    pair: Pair
    score: float
    others: tuple[float, float]

    @property
    def oddity(self) -> float:
        """What the model's other pairs score: a backdoor is in one pair, and so not in these."""
        return _OWN_WEIGHT * sum(self.others) / len(self.others)


@dataclass(frozen=True, eq=False)
class Accomplice:
    """A reference that sends the same pair as the suspect, as none of the others does.

    Attributes:
        place: Of the reference, from 0.
        pair: Victim and target.
        beyond: How far the pair stands out in the one of the two in which it does less.
        concepts: As in `SecondOpinion`, without this reference.
    """

    place: int
    pair: Pair
    beyond: float
    concepts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SecondOpinion:
    """Scores of all pairs.

    Attributes:
        scores: By victim and target, shape (classes, classes); the diagonal is far below.
        concepts: Place in the bank of the best concept of each pair, on either fold, shape (folds,
            classes, classes).
        models: What stands out in the suspect, and then in each reference, asked as if it were the
            suspect with all others as its references.
        accomplice: The reference that most clearly has the suspect's first pair, too; None where
            none has.
    """

    scores: FloatArray
    concepts: NDArray[np.int64]
    models: tuple[Outstanding, ...]
    accomplice: Accomplice | None = None

    def ranked(self) -> list[Pair]:
        """Return all pairs of victim and target, the highest score first."""
        return _ranked(self.scores)

    def level(self, model: int = 0) -> float:
        """Return what honest differences reach in a model, 0 at least.

        Args:
            model: 0 is the suspect, 1 the first reference.
        """
        seconds = [one.others[0] for place, one in enumerate(self.models) if place != model]
        return max(self.models[model].oddity, float(np.median(seconds)))

    def beyond(self, pair: Pair) -> float:
        """Return how far a pair of the suspect stands out over the level."""
        return float(self.scores[pair]) - self.level()


def second_opinion(suspect: Flows, references: Sequence[Flows]) -> SecondOpinion:
    """Compare a suspect with references, and these with each other.

    Args:
        suspect: Flows of the suspect.
        references: Flows of the references, one at least, of the same bank and images.

    Raises:
        ValueError: There is none, or one is of another bank or of other images.
    """
    if not references:
        raise ValueError("there is no reference")
    if not all(map(suspect.comparable, references)):
        raise ValueError("flows of other images or of another bank cannot be compared")
    shares = np.stack([one.shares for one in (suspect, *references)])
    opinions = [
        pair_scores(own, np.delete(shares, place, axis=0)) for place, own in enumerate(shares)
    ]
    outstanding = tuple(_outstanding(scores) for scores, _ in opinions)
    return SecondOpinion(*opinions[0], outstanding, _accomplice(shares))


def _ranked(scores: FloatArray) -> list[Pair]:
    order = np.argsort(-scores, axis=None, kind="stable")
    victims, targets = np.unravel_index(order, scores.shape)
    pairs = zip(victims.tolist(), targets.tolist(), strict=True)
    return [(victim, target) for victim, target in pairs if victim != target]


def _outstanding(scores: FloatArray) -> Outstanding:
    first, *ranked = _ranked(scores)
    apart = [first]
    for victim, target in ranked:
        if all(victim != pair[0] and target != pair[1] for pair in apart):
            apart.append((victim, target))
        if len(apart) == _APART:
            break
    highest, *others = (max(float(scores[pair]), 0.0) for pair in apart)
    second, third = (*others, 0.0, 0.0)[:2]  # two classes have two pairs
    return Outstanding(first, highest, (second, third))


def _accomplice(shares: NDArray[np.float32]) -> Accomplice | None:
    """Return the reference that most clearly has the suspect's first pair, too.

    Args:
        shares: Of the suspect and then the references.
    """
    found = []
    for place in range(1, len(shares)):
        others = np.delete(shares, (0, place), axis=0)
        if len(others) < _FEWEST_OTHERS:
            return None
        scores, concepts = pair_scores(shares[0], others)
        own, other = _outstanding(scores), _outstanding(pair_scores(shares[place], others)[0])
        if own.pair == other.pair:
            beyond = min(one.score - one.oddity for one in (own, other))
            found.append(Accomplice(place - 1, own.pair, beyond, concepts))
    return max(found, key=lambda one: one.beyond, default=None)
