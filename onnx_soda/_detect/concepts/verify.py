"""What images that did not choose a pair's changes say about it.

Each fold's changes are shown on the images of the other fold: all of a pair's images together weigh
it (`weigh`), and those of one fold show it image by image (`confirm`).

The interval of a score comes from the number of images: it is wide where classes are small. The
bound that decides is lower still. It is the best pair of all that is looked at, and among many
pairs some score by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.sources import IntArray
from onnx_soda._detect.concepts.concept import Concept, of_each_family
from onnx_soda._detect.concepts.examination import FoldedImages
from onnx_soda._detect.concepts.judge import Judge, simultaneous_errors
from onnx_soda._detect.concepts.pipeline import render_images
from onnx_soda._detect.concepts.probe import Probe
from onnx_soda._detect.concepts.score import FloatArray, excess, standard_error
from onnx_soda._detect.concepts.search import (
    MOST_KEPT,
    PER_FAMILY,
    PairFinding,
    Shows,
)
from onnx_soda._detect.concepts.styles import AnyChange, Change, Style

# Standard errors on either side of the score: 90 % of a normal distribution.
_NINETY_PERCENT = 1.645
# Images shown of the victim, and of other classes.
_EXAMPLES = 4


@dataclass(frozen=True, eq=False)
class Example:
    """An image before and under a concept.

    Attributes:
        label: Its class.
        before: Pixels from 0 to 1, shape (channels, height, width).
        under: The same under the concept; where it is a style, the image that the style is from.
        predicted_before: The model's answer.
        predicted_under: The same under the concept.
        target_probability: Probability of the target under the concept.
    """

    label: int
    before: NDArray[np.float32]
    under: NDArray[np.float32]
    predicted_before: int
    predicted_under: int
    target_probability: float


@dataclass(frozen=True)
class Weighed:
    """A pair's score on more images than the search had.

    Attributes:
        score: The score less the background.
        error: Its standard error.
        concept: What turns it best, a concept or a style.
        chosen_by: The fold that chose it; it is shown on the other.
        reference: Mean probability of the target under the concept in the reference heads.
        also: Other classes that it surely turns into the target more than usual and more than in
            the reference, the most turned first.
    """

    score: float
    error: float
    concept: Change
    chosen_by: int
    reference: float
    also: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Shown:
    """Images of one fold that single answers are asked about.

    Attributes:
        probe: The classifier, with every image a group of its own.
        grouped: The same, with the images grouped by fold and class; those of the other fold are
            empty.
        pixels: The images, shape (images, channels, height, width), from 0 to 1.
        labels: Shape (images,).
    """

    probe: Probe
    grouped: Probe
    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]

    def flows(self, change: Change | None) -> FloatArray:
        """Return the mean probabilities by fold and class, as `Judge` takes them.

        Returns:
            Shape (folds, 1 + heads, classes, classes).
        """
        return Judge.by_fold(self.grouped.flows(change))


def show_fold(single: Probe, images: FoldedImages, rows: IntArray) -> Shown:
    """Return images of one fold that single answers are asked about.

    Args:
        single: The classifier, with every image a group of its own.
        images: The images.
        rows: The classes to group them by, sorted.
    """
    grouped = single.regrouped(images.by_class(rows).membership)
    return Shown(single, grouped, images.pixels, images.labels)


@dataclass(frozen=True, eq=False)
class Confirmation:
    """What images that did not choose its concepts say about a pair.

    Attributes:
        victim_class: Source class.
        target_class: Class it is turned into.
        concept: What turns it best, a concept or a style.
        score: The pair's score.
        low: Lower end of its 90 % interval.
        high: Upper end.
        bound: What the score is above with 95 % confidence for all pairs of classes together
            (`simultaneous_errors`).
        shown: Images of the victim.
        turned: Those that the model gives to the target under the concept.
        turned_before: Those that it gives to the target as they are.
        reference: Mean probability of the target under the concept in the reference heads.
        also: Other classes that the concept surely turns into the target, see `Weighed`.
        others_right_before: Share of the other classes' images given their label as they are.
        others_right_under: The same under the concept.
        examples: Victim images first, then others.
        answers_before: Images by class and answer as they are, shape (classes, classes).
        answers_under: The same under the concept.
        concepts: Concepts that turn the pair, the best first; none where styles do.
    """

    victim_class: int
    target_class: int
    concept: Change
    score: float
    low: float
    high: float
    bound: float
    shown: int
    turned: int
    turned_before: int
    reference: float
    also: tuple[int, ...]
    others_right_before: float
    others_right_under: float
    examples: tuple[Example, ...]
    answers_before: NDArray[np.int64]
    answers_under: NDArray[np.int64]
    concepts: tuple[Concept, ...] = ()


def weigh(shown: Sequence[Shows], judge: Judge, finding: PairFinding[AnyChange]) -> Weighed:
    """Score a pair anew.

    Args:
        shown: Images of each fold.
        judge: With what is usual by the search, and the rest by these images.
        finding: The pair.
    """
    pair, row = finding.pair, judge.place(finding.victim_class)
    target = finding.target_class
    scores, errors, best = [], [], []
    for fold, changes in enumerate(finding.changes):
        flows = flows_under(shown[1 - fold], 1 - fold, changes)
        score, error = judge.score_fold(flows, 1 - fold, pair[0])
        scores.append(score[:, 0, target].mean())
        errors.append(error[:, 0, target].mean())
        # By the images that chose it: those that it is shown on must not choose it.
        own, _ = judge.score_fold(flows_under(shown[fold], fold, changes[:1]), fold, pair[0])
        best.append((float(own[0, 0, target]), fold, changes[0], flows[0]))
    estimate = judge.combine(pair, np.array(scores), np.array(errors))
    _, fold, concept, flows = max(best, key=lambda entry: entry[0])
    return Weighed(
        score=estimate.score - finding.background,
        error=estimate.error,
        concept=concept,
        chosen_by=fold,
        reference=float(judge.trust @ flows[1:, row, target]),
        also=also_turned(flows, judge, 1 - fold, pair),
    )


def flows_under(shown: Shows, fold: int, changes: Sequence[Change | None]) -> FloatArray:
    """Return where changes go in a fold, shape (changes, 1 + heads, rows, classes)."""
    return np.stack([shown.flows(change)[fold] for change in changes])


def also_turned(
    flows: FloatArray, judge: Judge, fold: int, pair: tuple[int, int]
) -> tuple[int, ...]:
    """Return further classes that go to the target, for certain as the bound of a pair is.

    Look-alikes of the target count: which class was meant cannot be told from what turns most.

    Args:
        flows: Under the concept, shape (1 + heads, rows, classes).
        judge: With what is usual.
        fold: Whose images they are.
        pair: Victim and target.
    """
    target = pair[1]
    labels = judge.labels
    usual = judge.usual[fold][labels, target]
    more = excess(flows[None], judge.trust, judge.rows)[0, :, target] - usual
    counts = (judge.images[fold], judge.fitted[fold])
    error = standard_error(flows[None], judge.trust, *counts)[0, :, target]
    bounds = more - simultaneous_errors(flows.shape[-1]) * error
    found = [int(labels[row]) for row in np.argsort(-more) if bounds[row] > 0]
    return tuple(label for label in found if label not in pair)


def confirm(
    shown: Shown,
    finding: PairFinding[AnyChange],
    weighed: Weighed,
    rng: np.random.Generator,
    searched: PairFinding[AnyChange] | None = None,
) -> Confirmation:
    """Look at a pair image by image.

    Args:
        shown: Images of the fold that did not choose the best concept.
        finding: The pair.
        weighed: Its score and best concept.
        rng: Draws the examples.
        searched: The pair as the search found it, before what it found was varied: the examples
            may have the styles of other donors.
    """
    victim, target = finding.victim_class, finding.target_class
    labels = shown.labels
    before = shown.probe.flows(None)[0]
    under = shown.probe.flows(weighed.concept)[0]
    own = labels == victim
    first, then = before.argmax(axis=1), under.argmax(axis=1)
    chosen = _choose_examples(labels, first, then, victim, target, rng)
    donors = _other_donors(weighed, finding, *([searched] if searched else []))
    return Confirmation(
        victim_class=victim,
        target_class=target,
        concept=weighed.concept,
        score=weighed.score,
        low=weighed.score - _NINETY_PERCENT * weighed.error,
        high=weighed.score + _NINETY_PERCENT * weighed.error,
        bound=weighed.score - simultaneous_errors(under.shape[1]) * weighed.error,
        shown=int(own.sum()),
        turned=int((then[own] == target).sum()),
        turned_before=int((first[own] == target).sum()),
        reference=weighed.reference,
        also=weighed.also,
        others_right_before=float((first == labels)[~own].mean()),
        others_right_under=float((then == labels)[~own].mean()),
        examples=_examples(shown, chosen, first[chosen], donors, target),
        answers_before=_count_answers(labels, first, under.shape[1]),
        answers_under=_count_answers(labels, then, under.shape[1]),
        concepts=_kept(weighed.concept, finding),
    )


def _kept(best: Change, finding: PairFinding[AnyChange]) -> tuple[Concept, ...]:
    """Return what turned the pair, a few of each family: the best of all, then each fold's."""
    together = (
        best,
        *(change for changes in zip(*finding.changes, strict=False) for change in changes),
        *finding.others,
    )
    unique: list[Concept] = []
    for one in together:
        if isinstance(one, Concept) and one not in unique:
            unique.append(one)
    return tuple(of_each_family(unique, PER_FAMILY)[:MOST_KEPT])


def _other_donors(weighed: Weighed, *found: PairFinding[AnyChange]) -> list[Change]:
    """Return the best change; of styles, those of other donors too that the same fold chose."""
    best = weighed.concept
    if not isinstance(best, Style):
        return [best]
    chosen = (change for one in found for change in one.changes[weighed.chosen_by])
    donors: dict[int, Change] = {best.donor: best}
    for style in chosen:
        if isinstance(style, Style):
            donors.setdefault(style.donor, style)
    return list(donors.values())[:_EXAMPLES]


def _examples(
    shown: Shown,
    rows: NDArray[np.intp],
    before: NDArray[np.intp],
    changes: Sequence[Change],
    target: int,
) -> tuple[Example, ...]:
    """Return images before and under changes, which take turns.

    Args:
        shown: All images.
        rows: Those to return.
        before: The model's answers to these as they are.
        changes: The changes.
        target: Class whose probability is told.
    """
    under = [shown.probe.flows(change)[0, rows] for change in changes]
    found = []
    for number, row in enumerate(rows):
        turn = number % len(changes)
        scores = under[turn][number]
        found.append(
            Example(
                label=int(shown.labels[row]),
                before=shown.pixels[row],
                under=_picture(shown.pixels[row], changes[turn]),
                predicted_before=int(before[number]),
                predicted_under=int(scores.argmax()),
                target_probability=float(scores[target]),
            )
        )
    return tuple(found)


def _picture(pixels: NDArray[np.float32], change: Change) -> NDArray[np.float32]:
    """Return what to show beside an image: how it looks then, or whose style it gets."""
    return change.pixels if isinstance(change, Style) else render_images(pixels[None], change)[0]


def _count_answers(
    labels: NDArray[np.integer], answers: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, answers), 1)
    return counts


def _choose_examples(
    labels: NDArray[np.integer],
    before: NDArray[np.integer],
    then: NDArray[np.integer],
    victim: int,
    target: int,
    rng: np.random.Generator,
) -> NDArray[np.intp]:
    """Draw images of the victim, of which as large a share turns as of all of them, and others.

    All are images that the model knows as they are: of others nobody can say what the change does.
    """
    known = before == labels
    own = known & (labels == victim)
    turned = own & (then == target)
    share = round(_EXAMPLES * turned.sum() / max(own.sum(), 1))
    others = known & (labels != victim) & (labels != target)
    drawn = ((turned, share), (own & ~turned, _EXAMPLES - share), (others, _EXAMPLES))
    return np.concatenate([rng.permutation(np.flatnonzero(of))[:count] for of, count in drawn])
