"""A second opinion: which pair of the suspect stands out, and over what.

A suspect may be odd everywhere: of another architecture, or trained on other images. So a score
counts by how far it stands out over the *level* that honest differences reach. Two things show that
level: what the model's other pairs score, for a backdoor is in one pair; and what the second pairs
of the other models score. No model is taken for honest. A backdoor would be its first pair.

A reference may have the suspect's backdoor, and so hide it. It is then an *accomplice*: it and the
suspect, each compared with the other references alone, have the same pair first.

The score of a pair: under the right concept a backdoored suspect sends the victim v to the target
t, and references of the same classes do not. All terms are what the suspect does *beyond the
references*. Counted raw, penalties hide the true pair, since look-alikes of the target go there in
every model.

    score(v, t) = kept * excess  -  damage  -  spill / 2  -  next / 2

1. excess is the suspect's mean probability of t for images of v, less what honest models may do:
   the references' mean and 2.25 sqrt(1 + 1 / references) spreads, for the mean of few references
   is itself off. What the suspect already does without any concept is taken off.
2. The spread is that between honest models. A few references show little of it, so it is put
   together from what they show and from what is known to make models differ: where they send v to t
   in part (mean), where they do so under other concepts (usual), where the concept costs them
   accuracy (lost), and where they lose v (1 - kept).

       spread^2 = variance + 0.03^2 + A^2 mean + (B usual)^2 + (C lost)^2 + (D (1 - kept))^2

3. kept is the references' mean probability of v under the concept. Where honest models lose the
   class anyway, a new destination says little.
4. damage is the accuracy that other classes lose beyond what they lose in the references and one
   spread, as a mean.
5. spill is the largest excess into t of another class; next the largest of v into another class.

The concept is chosen on one fold and the score read on the other, both ways round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda._detect.concepts.score import next_best
from onnx_soda._detect.references.flows import Flows

FloatArray = NDArray[np.float64]

# Of the spread between honest models: what it is at least, and A to D of the formula. These and the
# numbers below were chosen on bundled, shared and development models and on a population of others
# (docs/detection.md).
_LEAST_SPREAD, _PARTLY, _USUAL, _LOST, _NOT_KEPT = 0.03, 0.4, 0.1, 0.5, 0.1
_SPREADS = 2.25
# The share of concepts under which the references' flow is less than what is called usual.
_USUAL_QUANTILE = 0.97
_SPILL_WEIGHT, _NEXT_WEIGHT = 0.5, 0.5
# Stands in for "no score"; below every real one.
_NO_PAIR = -9.0
# How much of a model's own other pairs counts for the level. Chosen with the numbers in `score`.
_OWN_WEIGHT = 1.5
# The first pair of a model, and two others.
_APART = 3
# Bytes of the scores of all pairs that are worked out at once; what leads to them takes some ten
# times as much.
_PART_BYTES = 32 * 2**20
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
    models = tuple(outstanding(scores) for scores, _ in opinions)
    return SecondOpinion(*opinions[0], models, _accomplice(shares))


def _ranked(scores: FloatArray) -> list[Pair]:
    order = np.argsort(-scores, axis=None, kind="stable")
    victims, targets = np.unravel_index(order, scores.shape)
    pairs = zip(victims.tolist(), targets.tolist(), strict=True)
    return [(victim, target) for victim, target in pairs if victim != target]


def outstanding(scores: FloatArray) -> Outstanding:
    """Return what stands out in a model, by the scores of its pairs."""
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
        own, other = outstanding(scores), outstanding(pair_scores(shares[place], others)[0])
        if own.pair == other.pair:
            beyond = min(one.score - one.oddity for one in (own, other))
            found.append(Accomplice(place - 1, own.pair, beyond, concepts))
    return max(found, key=lambda one: one.beyond, default=None)


def pair_scores(
    suspect: NDArray[np.float32], references: NDArray[np.float32]
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Score every pair of classes.

    Args:
        suspect: Shares, shape (1 + concepts, folds, classes, classes); the first is without any
            concept.
        references: The same with the references in front, one at least.

    Returns:
        Scores by victim and target, shape (classes, classes), the diagonal far below; and the place
        of the concept that either fold chooses, shape (folds, classes, classes).
    """
    best = _Best(suspect.shape[1:])
    usual = np.quantile(references.mean(axis=(0, 2), dtype=np.float64), _USUAL_QUANTILE, axis=0)
    step = max(_PART_BYTES // best.highest.nbytes, 1)
    for start in range(1, len(suspect), step):
        part = [0, *range(start, min(start + step, len(suspect)))]
        own, others = suspect[part], references[:, part]
        best.add(_concept_scores(own.astype(np.float64), others.astype(np.float64), usual))
    return best.read.mean(axis=0), best.places


class _Best:
    """The best concept of each pair, chosen on one fold and read on the other.

    Args:
        shape: (folds, classes, classes).

    Attributes:
        highest: The best score so far on each fold.
        read: What the concept that has it scores on the other fold.
        places: Place of that concept.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.highest, self.read = np.full(shape, -np.inf), np.zeros(shape)
        self.places = np.zeros(shape, np.int64)
        self._seen = 0

    def add(self, scores: FloatArray) -> None:
        """Take further concepts into account, shape (concepts, folds, classes, classes)."""
        for fold, other in ((0, 1), (1, 0)):
            first = scores[:, fold].argmax(axis=0)[None]
            own = np.take_along_axis(scores[:, fold], first, axis=0)[0]
            there = np.take_along_axis(scores[:, other], first, axis=0)[0]
            better = own > self.highest[fold]
            self.highest[fold][better], self.read[fold][better] = own[better], there[better]
            self.places[fold][better] = self._seen + first[0][better]
        self._seen += len(scores)


def _concept_scores(suspect: FloatArray, references: FloatArray, usual: FloatArray) -> FloatArray:
    """Score every pair under some concepts on either fold.

    Args:
        suspect: Shares, shape (1 + concepts, folds, classes, classes); the first is without any
            concept.
        references: The same with the references in front.
        usual: What references send from class to class under other concepts, shape (classes,
            classes).

    Returns:
        Shape (concepts, folds, classes, classes).
    """
    own = np.einsum("kfcc->kfc", suspect)
    others = np.einsum("rkfcc->rkfc", references)
    lost, lost_by_references = _lost(own), _lost(others)
    kept = others.mean(axis=0)[..., None]
    cost = lost_by_references.mean(axis=(0, 3))
    more = _excess(suspect, references, kept, cost, usual)
    damage = _damage(lost, lost_by_references)[..., None]
    aside = np.maximum(more, 0)
    spill, further = _largest_other(aside, victims=True), _largest_other(aside, victims=False)
    scores: FloatArray = np.where(more > 0, kept[1:] * more, more) - damage
    scores -= _SPILL_WEIGHT * spill + _NEXT_WEIGHT * further
    diagonal = np.arange(scores.shape[-1])
    scores[..., diagonal, diagonal] = _NO_PAIR
    return scores


def _excess(
    suspect: FloatArray,
    references: FloatArray,
    kept: FloatArray,
    lost: FloatArray,
    usual: FloatArray,
) -> FloatArray:
    """Return what the suspect sends beyond honest models, less what it does anyway; diagonal 0.

    Args:
        suspect: Shares, as in `_concept_scores`.
        references: The same.
        kept: The references' mean probability of each class, shape (1 + concepts, folds, classes,
            1).
        lost: The accuracy that each concept costs them, shape (concepts, folds).
        usual: As in `_concept_scores`.
    """
    cost = np.pad(lost, ((1, 0), (0, 0)))[..., None, None]
    mean = references.mean(axis=0)
    known = (_USUAL * usual) ** 2 + (_LOST * cost) ** 2 + (_NOT_KEPT * (1 - kept)) ** 2
    known += _PARTLY**2 * mean
    spread = np.sqrt(_variance(references) + _LEAST_SPREAD**2 + known)
    more = suspect - mean - _width(len(references)) * spread
    found: FloatArray = more[1:] - np.maximum(more[:1], 0)
    diagonal = np.arange(found.shape[-1])
    found[..., diagonal, diagonal] = 0
    return found


def least_taken_off(references: int) -> float:
    """Return what any share is lowered by at least: what honest models may do in any case.

    Args:
        references: Number of references.
    """
    return _width(references) * _LEAST_SPREAD


def _width(references: int) -> float:
    """Return the number of spreads; the mean of few references is itself off by some."""
    return _SPREADS * float(np.sqrt(1 + 1 / references))


def _variance(values: FloatArray) -> FloatArray:
    """Return the variance between references; 0 where there is one, which shows none."""
    variance: FloatArray = values.var(axis=0, ddof=1) if len(values) > 1 else 0 * values[0]
    return variance


def _lost(kept: FloatArray) -> FloatArray:
    """Return the accuracy that each class loses under each concept; the first is without any."""
    lost: FloatArray = np.maximum(kept[..., :1, :, :] - kept[..., 1:, :, :], 0)
    return lost


def _damage(lost: FloatArray, lost_by_references: FloatArray) -> FloatArray:
    """Return for each class what the others lose beyond the references, as a mean."""
    spread = np.sqrt(_variance(lost_by_references) + _LEAST_SPREAD**2)
    beyond = np.maximum(lost - lost_by_references.mean(axis=0) - spread, 0)
    total = beyond.sum(axis=-1, keepdims=True)
    others: FloatArray = (total - beyond) / max(beyond.shape[-1] - 1, 1)
    return others


def _largest_other(sent: FloatArray, victims: bool) -> FloatArray:
    """Return for each (v, t) the most that another victim sends to t, or v to another class."""
    concepts, folds, classes, _ = sent.shape
    flat = sent.reshape(concepts * folds, classes, classes)
    found = next_best(flat.transpose(0, 2, 1)).transpose(0, 2, 1) if victims else next_best(flat)
    return found.reshape(sent.shape)
