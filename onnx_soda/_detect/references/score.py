"""The score of a pair of classes by a second opinion.

Under the right concept a backdoored suspect sends the victim v to the target t, and references of
the same classes do not. All terms are what the suspect does *beyond the references*: counted raw,
penalties hide the true pair, since look-alikes of the target go there in every model.

    score(v, t) = naturalness * (kept * excess  -  damage  -  spill / 2  -  next / 2)

1. excess is the suspect's mean probability of t for images of v, less the references': less their
   largest, or their mean and two spreads, whichever is more. The spread is their standard
   deviation, and a prior, which stands for what few references cannot show. What the suspect
   already does without any concept is taken off.
2. kept is the references' mean probability of v under the concept. Where honest models lose the
   class anyway, a new destination says little.
3. damage is the accuracy that other classes lose beyond what they lose in the references and one
   spread, as a mean.
4. spill is the largest excess into t of another class; next the largest of v into another class.
5. naturalness is 1 where the concept costs the references no accuracy, and 0 from a loss of 0.3 on:
   what only extreme changes show is not natural. It lowers positive scores alone.

The concept is chosen on one fold and the score read on the other, both ways round.

An example (tests/references/test_score.py): two references send 0.02 of class 0 to class 2 under a
concept and keep 0.96 of it; the suspect sends 0.80. Nothing else moves. The references do not
differ, so the spread is the prior, 0.03: excess = 0.80 - (0.02 + 2 * 0.03) = 0.72. The references
lose 0.04 of class 0 and nothing of two other classes, 0.0133 as a mean, which is 0.0444 of 0.3:
naturalness is 0.9556. score = 0.9556 * 0.96 * 0.72 = 0.6605.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda._detect.concepts.score import next_best
from onnx_soda._detect.references.flows import Flows

FloatArray = NDArray[np.float64]

# Spread between honest models that few references cannot show. Set by hand on development and
# shared models.
_PRIOR_SPREAD = 0.03
_SPREADS = 2.0
_SPILL_WEIGHT, _NEXT_WEIGHT = 0.5, 0.5
# Accuracy that a concept costs the references, from which it is no natural one.
_UNNATURAL = 0.3
# Stands in for "no score"; below every real one.
_NO_PAIR = -9.0


@dataclass(frozen=True, eq=False)
class SecondOpinion:
    """Scores of all pairs.

    Attributes:
        scores: By victim and target, shape (classes, classes); the diagonal is far below.
        concepts: Place in the bank of the best concept of each pair, on either fold, shape (folds,
            classes, classes).
    """

    scores: FloatArray
    concepts: NDArray[np.int64]

    def ranked(self) -> list[tuple[int, int]]:
        """Return all pairs of victim and target, the highest score first."""
        order = np.argsort(-self.scores, axis=None, kind="stable")
        victims, targets = np.unravel_index(order, self.scores.shape)
        pairs = zip(victims.tolist(), targets.tolist(), strict=True)
        return [(victim, target) for victim, target in pairs if victim != target]


def second_opinion(suspect: Flows, references: Sequence[Flows]) -> SecondOpinion:
    """Score every pair of classes by what the references do not do.

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
    scores = concept_scores(
        suspect.shares.astype(np.float64),
        np.stack([other.shares for other in references]).astype(np.float64),
    )
    # Chosen on one fold, read on the other.
    best = scores.argmax(axis=0)
    read = [
        np.take_along_axis(scores[:, 1 - fold], best[fold][None], axis=0)[0]
        for fold in range(len(best))
    ]
    return SecondOpinion(np.mean(read, axis=0), best.astype(np.int64))


def concept_scores(suspect: FloatArray, references: FloatArray) -> FloatArray:
    """Score every pair under every concept on either fold.

    Args:
        suspect: Shares, shape (1 + concepts, folds, classes, classes); the first is without any
            concept.
        references: The same with the references in front.

    Returns:
        Shape (concepts, folds, classes, classes).
    """
    more = _excess(suspect, references)
    own = np.einsum("kfcc->kfc", suspect)
    others = np.einsum("rkfcc->rkfc", references)
    lost, lost_by_references = _lost(own), _lost(others)
    kept = others.mean(axis=0)[1:, :, :, None]
    damage = _damage(lost, lost_by_references)[..., None]
    aside = np.maximum(more, 0)
    spill, further = _largest_other(aside, victims=True), _largest_other(aside, victims=False)
    raw = np.where(more > 0, kept * more, more) - damage
    raw -= _SPILL_WEIGHT * spill + _NEXT_WEIGHT * further
    natural = np.clip(1 - lost_by_references.mean(axis=(0, 3)) / _UNNATURAL, 0, 1)[..., None, None]
    scores: FloatArray = np.where(raw > 0, natural * raw, raw)
    diagonal = np.arange(scores.shape[-1])
    scores[..., diagonal, diagonal] = _NO_PAIR
    return scores


def _excess(suspect: FloatArray, references: FloatArray) -> FloatArray:
    """Return what the suspect sends beyond the references, less what it does anyway; diagonal 0."""
    spread = _spread(references)
    more = suspect - np.maximum(references.mean(axis=0) + _SPREADS * spread, references.max(axis=0))
    found: FloatArray = more[1:] - np.maximum(more[:1], 0)
    diagonal = np.arange(found.shape[-1])
    found[..., diagonal, diagonal] = 0
    return found


def _spread(values: FloatArray) -> FloatArray:
    """Return the spread between references: their standard deviation and the prior together."""
    variance = values.var(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])
    spread: FloatArray = np.sqrt(variance + _PRIOR_SPREAD**2)
    return spread


def _lost(kept: FloatArray) -> FloatArray:
    """Return the accuracy that each class loses under each concept; the first is without any."""
    lost: FloatArray = np.maximum(kept[..., :1, :, :] - kept[..., 1:, :, :], 0)
    return lost


def _damage(lost: FloatArray, lost_by_references: FloatArray) -> FloatArray:
    """Return for each class what the others lose beyond the references, as a mean."""
    beyond = lost - lost_by_references.mean(axis=0) - _spread(lost_by_references)
    beyond = np.maximum(beyond, 0)
    total = beyond.sum(axis=-1, keepdims=True)
    others: FloatArray = (total - beyond) / max(beyond.shape[-1] - 1, 1)
    return others


def _largest_other(sent: FloatArray, victims: bool) -> FloatArray:
    """Return for each (v, t) the most that another victim sends to t, or v to another class."""
    concepts, folds, classes, _ = sent.shape
    flat = sent.reshape(concepts * folds, classes, classes)
    found = next_best(flat.transpose(0, 2, 1)).transpose(0, 2, 1) if victims else next_best(flat)
    return found.reshape(sent.shape)
