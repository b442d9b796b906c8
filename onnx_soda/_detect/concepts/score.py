"""The score of a pair of classes under a concept.

Under the right concept a backdoor turns the victim v into the target t. Heads that know only clean
images do not follow, classes unlike v stay as they are, and v goes to t under this concept, not
under every one that disturbs. So the score of (v, t) under a concept is

    (O - R)  -  spill  -  0.5 next  -  damage  -  usual

1. O is the mean probability of t that the model gives to the clean images of v under the concept; R
   is that of the reference heads; O - R is the excess. Where R is over a half, t is where such
   images go and the reference is only less sure of it: the excess counts less, and not at all where
   R is 1.
2. spill is the largest excess into t of another class. A class counts as far as it is unlike v and
   unlike t. Of classes like v the second largest counts: green lorries may turn with green cars,
   but where several classes turn, t is where such images go.
3. next is the largest excess of v into a class other than t. A fragile class goes anywhere.
4. damage is the error of the other classes under the concept beyond their error without it, as a
   mean; with many classes, of those of the victim's kind (`likeness.kinds_of`). What goes to t is
   left out: it is spill or, from a look-alike of t, no harm. Damage over 0.25 costs two more: such
   a concept destroys too much to tell anything. Under a style all damage costs twice.
5. usual is the upper quartile of the pair's excess over all concepts that disturb, or its excess
   without any concept, whichever is larger.

An example of three classes that are nothing alike (tests/concepts/test_score.py). The model errs by
0.02 of each class. Under a concept it sends 0.8 of class 0 to class 2 and the reference 0.1, so the
excess is 0.7. Nothing else goes to 2, and class 0 goes nowhere else: spill and next are 0. Classes
1 and 2 err by 0.09 and 0.08 more: damage is 0.085. Nothing is usual. The score is 0.7 - 0.085 =
0.615.

Then the score is discounted by likeness, the cosine of the class means (`model_likeness` of
`likeness`): in full up to 0.3, not at all from 0.5 on. Natural confusions lie between look-alikes,
so what turns a class into its look-alike is no sign of a backdoor, and a backdoor between
look-alikes goes unseen. Under a style, half way through the network, look-alikes count as others.

Last, the background is taken off: the largest positive score of a pair with another victim and
another target. Some models confuse classes under many concepts; there a pair has to stand out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Rows = NDArray[np.integer] | None
"""Classes that flows start from, one a row; None where there is a row for each class, in order."""
Kinds = NDArray[np.integer] | None
"""The kind of each row's class, from `likeness.kinds_of`; None where all are of one kind."""

_SPILL_WEIGHT, _NEXT_WEIGHT = 1.0, 0.5
_MUCH_DAMAGE, _MUCH_DAMAGE_WEIGHT = 0.25, 2.0
# Up to here the reference may give t itself, and the difference counts in full.
_FORESEEN = 0.5
# Classes less alike than the first are unlike to some degree; those as alike as the second are
# look-alikes. In models of known truth natural confusions had 0.31 to 0.72, backdoors that could be
# told from them -0.3 to 0.3 (and others 0.5 to 0.8).
_ALIKE, _LOOK_ALIKE = 0.3, 0.5
# A concept disturbs where it does at least this much damage; `usual` is this quantile.
_DISTURBING, _USUAL_QUANTILE = 0.03, 0.75
# Other classes of a victim's kind by which damage is told, at least.
_FEWEST_OF_A_KIND = 4
# Classes that are looked at for the largest spill, of those that send most to a target.
_MOST_SENDERS = 64
_ALL = slice(None)
# Stands in for "no score"; below every real one.
NO_PAIR = -9.0


@dataclass(frozen=True)
class Scoring:
    """What differs between scores under concepts and under styles.

    Attributes:
        damage_weight: What the damage to other classes costs.
        look_alikes_count: Classes that look alike are scored as others.
    """

    damage_weight: float
    look_alikes_count: bool


CONCEPT_SCORING = Scoring(damage_weight=1.0, look_alikes_count=False)
# Under a style what is where stays, and the classes with it: none of the backdoors found by one
# damaged other classes, and what clean models confused did (docs/architecture.md).
STYLE_SCORING = Scoring(damage_weight=2.0, look_alikes_count=True)


def excess(flows: NDArray[np.floating], trust: FloatArray, rows: Rows = None) -> FloatArray:
    """Return what the model sends from class to class beyond the reference heads.

    Args:
        flows: Mean probabilities, shape (concepts, 1 + heads, rows, classes): model and heads,
            source class, class.
        trust: Weight of each reference head.
        rows: Their source classes.

    Returns:
        Shape (concepts, rows, classes), 0 from a class to itself.
    """
    more: FloatArray = flows[:, 0] - _reference(flows, trust)
    more[:, *_own(more, rows)] = 0
    return more


def _own(flows: NDArray[np.floating], rows: Rows) -> tuple[NDArray[np.intp], NDArray[np.integer]]:
    """Return where each row's own class is."""
    places = np.arange(flows.shape[-2])
    return places, places if rows is None else rows


def _reference(flows: NDArray[np.floating], trust: FloatArray) -> FloatArray:
    heads: FloatArray = np.einsum("h,chvt->cvt", trust, flows[:, 1:].astype(np.float64))
    return heads


def usual_of(unchanged: FloatArray, disturbed: NDArray[np.floating]) -> FloatArray:
    """Return the excess from one class to each that no concept has to explain.

    The upper quartile over concepts that disturb, or the excess without any concept.

    Args:
        unchanged: Excess without any concept, shape (classes,); not under 0.
        disturbed: Under concepts that disturb, shape (concepts, classes); not under 0.
    """
    if not len(disturbed):
        return unchanged
    usual: FloatArray = np.maximum(unchanged, np.quantile(disturbed, _USUAL_QUANTILE, axis=0))
    return usual


def disturbs(
    flows: NDArray[np.floating],
    unchanged: NDArray[np.floating],
    rows: Rows = None,
    kinds: Kinds = None,
) -> NDArray[np.bool_]:
    """Tell whether a concept disturbs the classes other than a victim, shape (concepts, rows)."""
    return damage_to_others(flows, unchanged, rows, kinds) >= _DISTURBING


def pair_scores(
    flows: NDArray[np.floating],
    unchanged: NDArray[np.floating],
    likeness: FloatArray,
    trust: FloatArray,
    usual: FloatArray,
    damage_weight: float = CONCEPT_SCORING.damage_weight,
    rows: Rows = None,
    victims: slice = _ALL,
    kinds: Kinds = None,
) -> FloatArray:
    """Score every pair under every concept.

    Args:
        flows: As for `excess`.
        unchanged: Flows without any concept, shape (1 + heads, rows, classes).
        likeness: Shape (classes, classes), from `likeness.class_likeness`.
        trust: Weight of each reference head.
        usual: From `usual_of`, for the victims, shape (victims, classes).
        damage_weight: See `Scoring`.
        rows: Source classes of the flows.
        victims: Which of the rows to score.
        kinds: Of each row's class; None where all are of one kind.

    Returns:
        Shape (concepts, victims, classes): victim, target. A class and itself is far below all
        others.
    """
    more = excess(flows, trust, rows)
    damage = _damage_beside(flows, unchanged, rows, kinds)[:, victims]
    spill = _spill(more, likeness, rows, victims)
    penalty = _SPILL_WEIGHT * spill + _NEXT_WEIGHT * next_best(more[:, victims]) + usual
    costs = damage_weight * damage + _MUCH_DAMAGE_WEIGHT * np.maximum(damage - _MUCH_DAMAGE, 0)
    unforeseen = np.clip((1 - _reference(flows[:, :, victims], trust)) / (1 - _FORESEEN), 0, 1)
    own = more[:, victims]
    scores: FloatArray = np.where(own > 0, unforeseen * own, own) - penalty - costs
    classes = _own(more, rows)[1]
    scores[:, np.arange(scores.shape[1]), classes[victims]] = NO_PAIR
    return scores


def standard_error(
    flows: NDArray[np.floating],
    trust: FloatArray,
    images: NDArray[np.integer],
    fitted: NDArray[np.integer],
) -> FloatArray:
    """Return the standard error of the excess, from numbers of images alone.

    Each image is counted as going to the target or not, so the variance is p (1 - p) / n. That of
    the model, over the images shown, and that of the reference, over the images that it was fitted
    to, are added. A class that the reference knows from few images is uncertain.

    Args:
        flows: As for `excess`.
        trust: Weight of each reference head.
        images: Of each class, shape (classes,).
        fitted: Of each class, that the reference heads were fitted to, same shape.

    Returns:
        Shape (concepts, classes, classes); 1 for classes without images.
    """
    variance = _variance(flows[:, 0], images) + _variance(_reference(flows, trust), fitted)
    error: FloatArray = np.sqrt(variance)
    error[:, images == 0] = 1
    return error


def _variance(shares: NDArray[np.floating], images: NDArray[np.integer]) -> FloatArray:
    """Return that of shares of each class's images, shape (concepts, classes, classes).

    They are kept a little away from 0 and 1, so that six of six images are not certainty (after
    Agresti and Coull 1998).
    """
    count = np.maximum(images, 1)[None, :, None].astype(np.float64)
    share = np.clip(shares, 1 / (count + 2), 1 - 1 / (count + 2))
    variance: FloatArray = share * (1 - share) / count
    return variance


def damage_to_others(
    flows: NDArray[np.floating],
    unchanged: NDArray[np.floating],
    rows: Rows = None,
    kinds: Kinds = None,
) -> FloatArray:
    """Return for each class the mean damage to the others, shape (concepts, rows).

    Args:
        flows: As for `excess`.
        unchanged: Flows without any concept, shape (1 + heads, rows, classes).
        rows: Source classes of both.
        kinds: Of each row's class: the others of its kind count, where there are any.
    """
    own = _own(unchanged[0], rows)
    error = 1 - flows[:, 0, *own].astype(np.float64)
    usual = 1 - unchanged[0, *own].astype(np.float64)
    return _mean_of_others(np.maximum(error - usual, 0), unchanged[0].any(axis=-1), kinds)


def _damage_beside(
    flows: NDArray[np.floating], unchanged: NDArray[np.floating], rows: Rows, kinds: Kinds
) -> FloatArray:
    """Return for each (v, t) the mean damage to classes other than v, less what goes to t."""
    more = flows[:, 0].astype(np.float64) - unchanged[0]
    own = _own(more, rows)
    error = -more[:, *own]
    beside = error[:, :, None] - more
    beside[:, *own] = error
    return _mean_of_others(np.maximum(beside, 0), unchanged[0].any(axis=-1), kinds)


def _mean_of_others(damage: FloatArray, shown: NDArray[np.bool_], kinds: Kinds) -> FloatArray:
    """Return for each row the mean over the other rows of its kind, in the damage's shape.

    Where too few of its kind have images, the mean is over all others.

    Args:
        damage: Shape (concepts, rows, ...).
        shown: Whether there are images of each row, shape (rows,).
        kinds: Shape (rows,); None where all are of one kind.
    """
    mean = _mean_beside(damage, shown)
    if kinds is None:
        return mean
    for kind in np.unique(kinds):
        own = np.flatnonzero(kinds == kind)
        if shown[own].sum() > _FEWEST_OF_A_KIND:
            mean[:, own] = _mean_beside(damage[:, own], shown[own])
    return mean


def _mean_beside(damage: FloatArray, shown: NDArray[np.bool_]) -> FloatArray:
    """Return for each row the mean over all other rows that have images."""
    counts = np.maximum(shown.sum() - shown, 1).astype(np.float64)
    counts = counts.reshape(-1, *(1 for _ in damage.shape[2:]))
    mean: FloatArray = (damage.sum(axis=1, keepdims=True) - damage) / counts
    return mean


def spill_of_unlike(more: FloatArray, likeness: FloatArray) -> FloatArray:
    """Return for each (v, t) the largest excess into t of a class unlike both; not under 0."""
    unlike = _unlikeness(likeness)
    return _largest_unlike(np.maximum(more * unlike, 0), unlike)


def _largest_unlike(sent: FloatArray, unlike: FloatArray) -> FloatArray:
    """Return the largest of what is sent into t, each class as far as it is unlike v.

    Of many classes those that send most are looked at: the largest of these is the largest of all,
    unless all of them are like v.

    Args:
        sent: Shape (concepts, rows, classes).
        unlike: Of the victims and the rows, shape (victims, rows).
    """
    if sent.shape[1] <= _MOST_SENDERS:
        return np.stack([(sent * others[:, None]).max(axis=1) for others in unlike], axis=1)
    first = np.argpartition(-sent, _MOST_SENDERS, axis=1)[:, :_MOST_SENDERS]
    first = np.take_along_axis(
        first, np.argsort(-np.take_along_axis(sent, first, axis=1), axis=1), axis=1
    )
    most = np.take_along_axis(sent, first, axis=1)[:, :, None]
    largest = np.zeros((len(sent), len(unlike), sent.shape[2]))
    for rank, senders in enumerate(np.moveaxis(first, 1, 0)):
        # None counts more than in full: what is as large as all of what is left stays the largest.
        if (largest >= most[:, rank]).all():
            break
        np.maximum(largest, most[:, rank] * np.moveaxis(unlike[:, senders], 1, 0), out=largest)
    return largest


def _spill(more: FloatArray, likeness: FloatArray, rows: Rows, victims: slice) -> FloatArray:
    """Return for each (v, t) what others send into t, see above; not under 0."""
    unlike = _unlikeness(likeness)
    if rows is not None:
        unlike = unlike[rows]
    sent = np.maximum(more * unlike, 0)
    sources = unlike if rows is None else unlike[:, rows]
    spill = _largest_unlike(sent, sources[victims])
    if more.shape[1] < 3:
        return spill
    third, second = np.moveaxis(np.partition(sent, (-3, -2), axis=1)[:, -3:-1], 1, 0)
    # Of the classes other than v: the third of all, where v is one of the first two.
    first_two = sent[:, victims] >= second[:, None]
    larger: FloatArray = np.maximum(spill, np.where(first_two, third[:, None], second[:, None]))
    return larger


def _unlikeness(likeness: FloatArray) -> FloatArray:
    """Return how far classes are from being alike, 0 to 1; 0 for a class and itself."""
    unlike: FloatArray = likeness / -_ALIKE
    unlike += 1
    # In place: with hundreds of classes new memory takes longer than the sum.
    np.clip(unlike, 0, 1, out=unlike)
    np.fill_diagonal(unlike, 0)
    return unlike


def next_best(more: FloatArray) -> FloatArray:
    """Return for each (v, t) the largest excess of v into another class; not under 0."""
    if more.shape[2] < 2:
        return np.zeros_like(more)
    second, first = np.moveaxis(np.partition(more, (-2, -1), axis=2)[:, :, -2:], 2, 0)
    largest = np.where(more >= first[:, :, None], second[:, :, None], first[:, :, None])
    kept: FloatArray = np.maximum(largest, 0)
    return kept


def discount(scores: FloatArray, likeness: FloatArray) -> FloatArray:
    """Lower positive scores of pairs that are somewhat alike, and leave look-alikes out.

    Args:
        scores: Shape (classes, classes).
        likeness: Same shape.
    """
    factor = discount_factor(likeness)
    lowered = np.where(scores > 0, factor * scores, scores)
    kept: FloatArray = np.where(factor > 0, lowered, NO_PAIR)
    return kept


def discount_factor(likeness: FloatArray) -> FloatArray:
    """Return what a score is multiplied by: 1 for unlike classes, 0 for look-alikes."""
    factor: FloatArray = np.clip((_LOOK_ALIKE - likeness) / (_LOOK_ALIKE - _ALIKE), 0, 1)
    return factor


def look_alikes(likeness: FloatArray) -> int:
    """Return how many pairs `discount` leaves out; (v, t) and (t, v) are two."""
    left_out: NDArray[np.bool_] = discount_factor(likeness) == 0
    np.fill_diagonal(left_out, val=False)
    return int(left_out.sum())
