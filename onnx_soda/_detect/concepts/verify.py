"""A closer look at the pairs that a search found: on more images, and on all of the victim's.

Each pair is first weighed on more images of its victim, with a few of the other classes. Most end
there: even if better changes and more images did all they could, they would not be reported. Some
end after their changes were varied, where even the images that chose these promise too little.

The search chooses on a few images of each class, where luck decides between changes that are nearly
as good. So each fold of a pair that is left varies its own changes on all of its images (`refine`).
Each fold's changes are then shown on the images of the other fold (`weigh`, `confirm`).

The interval of a score comes from the number of images: it is wide where classes are small. The
bound that decides is lower still. It is the best pair of all that is looked at, and among many
pairs some score by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.sources import IntArray
from onnx_soda._detect.concepts.concept import Concept, of_each_family
from onnx_soda._detect.concepts.examination import Examination, FoldedImages, Reader
from onnx_soda._detect.concepts.folds import FOLDS, LEAST_CONFIRM, LEAST_SCREEN
from onnx_soda._detect.concepts.judge import BEST, Judge, simultaneous_errors
from onnx_soda._detect.concepts.layers import StyleLayer
from onnx_soda._detect.concepts.pipeline import render_images
from onnx_soda._detect.concepts.probe import Probe
from onnx_soda._detect.concepts.score import FloatArray, excess, standard_error, usual_of
from onnx_soda._detect.concepts.search import (
    DISTURBING,
    MOST_KEPT,
    PER_FAMILY,
    PairFinding,
    SearchResult,
    Shows,
    Variations,
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
        flows = _flows(shown[1 - fold], 1 - fold, changes)
        score, error = judge.score_fold(flows, 1 - fold, pair[0])
        scores.append(score[:, 0, target].mean())
        errors.append(error[:, 0, target].mean())
        # By the images that chose it: those that it is shown on must not choose it.
        own, _ = judge.score_fold(_flows(shown[fold], fold, changes[:1]), fold, pair[0])
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


def _flows(shown: Shows, fold: int, changes: Sequence[Change | None]) -> FloatArray:
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


# Variations that each fold tries in each round, and how far they move.
_ROUNDS = ((8, 0.5), (8, 0.25))


@dataclass(frozen=True)
class Refined(Generic[AnyChange]):
    """A pair after its changes were varied.

    Attributes:
        finding: The pair, with interventions at least as good on the fold that chooses them.
        scores: What each fold thinks of its own, shape (folds,): more than they are worth, since
            they are the best of many there.
    """

    finding: PairFinding[AnyChange]
    scores: FloatArray


def refine(
    shown: Sequence[Shows],
    judge: Judge,
    finding: PairFinding[AnyChange],
    variations: Variations[AnyChange],
    rng: np.random.Generator,
) -> Refined[AnyChange]:
    """Vary the interventions of a pair; each fold keeps as many as it had, the best by its images.

    Args:
        shown: Images of each fold.
        judge: As for `weigh`.
        finding: The pair, with what the search chose.
        variations: Makes them.
        rng: Draws the variations.
    """

    def scored(fold: int, changes: Sequence[AnyChange]) -> list[tuple[float, AnyChange]]:
        flows = _flows(shown[fold], fold, changes)
        scores, _ = judge.score_fold(flows, fold, finding.victim_class)
        return list(zip(scores[:, 0, finding.target_class].tolist(), changes, strict=True))

    kept = [scored(fold, own) for fold, own in enumerate(finding.changes)]
    for moves, width in _ROUNDS:
        for fold, before in enumerate(kept):
            own = [change for _, change in before]
            tried = scored(fold, _varied(own, variations, moves, width, rng))
            kept[fold] = sorted((*before, *tried), key=itemgetter(0), reverse=True)[: len(before)]
    changes = tuple(tuple(change for _, change in own) for own in kept)
    means = np.array([np.mean([score for score, _ in own]) for own in kept])
    return Refined(replace(finding, changes=changes), means)


def _varied(
    own: Sequence[AnyChange],
    variations: Variations[AnyChange],
    moves: int,
    width: float,
    rng: np.random.Generator,
) -> list[AnyChange]:
    """Return variations of each in turn; every other one is joined."""
    return [
        variations.vary(own[number % len(own)], own, number % 2 == 1, width, rng)
        for number in range(moves)
    ]


# What variations may multiply a score by; a pair whose bound would even then be under 0 is spared.
# The score that is multiplied is what it may be: one standard error more than it is.
_MOST_GAIN = 2.0
# Pairs looked at after a search that was halted.
_HURRIED = 2


def passes_of_look(images: int) -> int:
    """Return how often images go through the model in a first look at a pair by a concept.

    Unchanged; then each fold's under what the other has chosen, and under the best of its own. One
    fold's in the end one by one, unchanged and under the best of all.
    """
    return images * (1 + BEST + 1 + 1)


def _passes_of_closer_look(images: int, all_images: int, own: int) -> int:
    """Return the same of a closer look.

    Args:
        images: Those that variations are shown on: each fold's own, in both rounds.
        all_images: Those that the pair is then shown on.
        own: Those of the victim that tell what is usual.
    """
    tried = BEST + sum(moves for moves, _ in _ROUNDS)
    return images * (1 + tried) + own * (1 + DISTURBING) + passes_of_look(all_images)


@dataclass(frozen=True, eq=False)
class CloserLook:
    """What pairs are looked at with.

    Attributes:
        examination: The classifier.
        images: Images of the classes that stand for all others.
        screen: Which of them stand for the other classes until a pair is worth more.
        reader: Decodes more of a victim.
        rng: Draws variations and examples.
        affords: Tells whether there is time for so many passes.
        spared: Pairs that there was no time for, or none to look closer.
    """

    examination: Examination
    images: FoldedImages
    screen: NDArray[np.bool_]
    reader: Reader
    rng: np.random.Generator
    affords: Callable[[int], bool]
    spared: list[tuple[int, int]] = field(default_factory=list)

    def at(
        self,
        found: SearchResult[AnyChange],
        variations: Variations[AnyChange],
        style_layer: StyleLayer | None = None,
        settled: Collection[tuple[int, int]] = (),
    ) -> list[Confirmation]:
        """Look at the pairs that a search found.

        Args:
            found: What it found.
            variations: Makes variations of what it found for a pair.
            style_layer: Where styles are changed, if it was a search for styles.
            settled: Pairs that are sure already; another way to turn them is shown as it is.
        """
        # After a search that was halted there is time for few.
        chosen = found.findings[: _HURRIED if found.halted else None]
        return [
            self._look(
                finding,
                found,
                variations,
                style_layer,
                quick=bool(found.halted) or finding.pair in settled,
            )
            for finding in chosen
            if self._can_look(finding)
        ]

    def _can_look(self, finding: PairFinding[AnyChange]) -> bool:
        """Tell whether there is time for a first look at a pair."""
        own = self.reader.count_confirmed(finding.victim_class)
        return self._has_time(finding, passes_of_look(int(self.screen.sum()) + own))

    def _has_time(self, finding: PairFinding[AnyChange], passes: int) -> bool:
        enough = self.affords(passes)
        if not enough:
            self.spared.append(finding.pair)
        return enough

    def _look(
        self,
        finding: PairFinding[AnyChange],
        found: SearchResult[AnyChange],
        variations: Variations[AnyChange],
        style_layer: StyleLayer | None,
        quick: bool,
    ) -> Confirmation:
        victim = finding.victim_class
        beside, screen = self._beside(victim)
        others = beside.of(screen)
        own = self.reader.confirmed(victim)
        shown, judge = self._show(own + others, found.judge, style_layer)
        weighed = weigh(shown, judge, finding)
        if quick or not self._worth_more(finding, weighed, len(own.labels)):
            return self._confirm(shown, finding, weighed)
        more = self.reader.more_of(victim)
        every = beside + own + more
        counts = (len(part.labels) for part in (own + more + others, every, own))
        if not self._has_time(finding, _passes_of_closer_look(*counts)):
            return self._confirm(shown, finding, weighed)
        refined = self._refined(finding, own + more + others, found.judge, variations, style_layer)
        if not self._worth_all(refined, weighed, judge, len(own.labels)):
            return self._confirm(shown, finding, weighed)
        shown, judge = self._show(every, found.judge, style_layer)
        judge = self._with_usual(judge, finding, own, style_layer)
        weighed = weigh(shown, judge, refined.finding)
        return self._confirm(shown, refined.finding, weighed, finding)

    def _beside(self, victim: int) -> tuple[FoldedImages, NDArray[np.bool_]]:
        """Return images of the classes that a victim is looked at beside.

        Returns:
            The images, and which of them stand for all until a pair is worth more.
        """
        if self.examination.kinds is None:
            others = self.images.labels != victim
            return self.images.of(others), self.screen[others]
        labels, turn = self.reader.labels[self.reader.folds.rows], self.reader.folds.turn
        chosen = self.examination.is_beside(victim, labels) & (turn < LEAST_CONFIRM)
        return self.reader.read(chosen), turn[chosen] < LEAST_SCREEN

    def _with_usual(
        self,
        judge: Judge,
        finding: PairFinding[AnyChange],
        own: FoldedImages,
        style_layer: StyleLayer | None,
    ) -> Judge:
        """Return a judge that knows what is usual for the victim by many of its images.

        The search knows it by the few of the screen. Where these are less easily turned than the
        others, a score that counts all images would be too high, in one fold as in the other.
        """
        usual = judge.usual.copy()
        for fold, changes in enumerate(finding.disturbing):
            shown = self._fold(own, own.of(own.fold == fold), style_layer)
            flows = _flows(shown, fold, (None, *changes))
            more = np.maximum(excess(flows, judge.trust, own.present)[:, 0], 0)
            usual[fold, finding.victim_class] = usual_of(more[0], more[1:])
        return replace(judge, usual=usual)

    def _confirm(
        self,
        shown: Sequence[Shown],
        finding: PairFinding[AnyChange],
        weighed: Weighed,
        searched: PairFinding[AnyChange] | None = None,
    ) -> Confirmation:
        """Look at a pair on the images that did not choose its best change."""
        return confirm(shown[1 - weighed.chosen_by], finding, weighed, self.rng, searched)

    def _worth_more(self, finding: PairFinding[AnyChange], weighed: Weighed, images: int) -> bool:
        """Tell whether a pair might be reported, if all that is left went well."""
        hoped = _MOST_GAIN * (weighed.score + weighed.error)
        return hoped > self._least_margin(finding, weighed, images)

    def _worth_all(
        self, refined: Refined[AnyChange], weighed: Weighed, judge: Judge, images: int
    ) -> bool:
        """Tell whether a pair might be reported by what the folds think of their own choices."""
        finding = refined.finding
        hoped = judge.combine(finding.pair, refined.scores, np.zeros(FOLDS)).score
        margin = self._least_margin(finding, weighed, images)
        return hoped - finding.background + weighed.error > margin

    def _least_margin(
        self, finding: PairFinding[AnyChange], weighed: Weighed, images: int
    ) -> float:
        """Return what all images of the victim may leave between a score and its bound."""
        every = self.reader.count(finding.victim_class)
        least_error = weighed.error * float(np.sqrt(images / max(every, images)))
        return simultaneous_errors(self.examination.classes) * least_error

    def _refined(
        self,
        finding: PairFinding[AnyChange],
        images: FoldedImages,
        known: Judge,
        variations: Variations[AnyChange],
        style_layer: StyleLayer | None,
    ) -> Refined[AnyChange]:
        """Let each fold vary what it has chosen, on its own images."""
        shown, judge = self._show(images, known, style_layer)
        return refine(shown, judge, finding, variations, self.rng)

    def _show(
        self, images: FoldedImages, known: Judge, style_layer: StyleLayer | None
    ) -> tuple[list[Shown], Judge]:
        """Put images before the classifier, each fold by itself; say what scores them."""
        shown = [
            self._fold(images, images.of(images.fold == fold), style_layer) for fold in range(FOLDS)
        ]
        unchanged = np.stack([half.flows(None)[fold] for fold, half in enumerate(shown)])
        judge = self.examination.judge(unchanged, images)
        return shown, replace(judge, usual=known.usual, scoring=known.scoring)

    def _fold(
        self, images: FoldedImages, own: FoldedImages, style_layer: StyleLayer | None
    ) -> Shown:
        single = self.examination.probe(own.one_by_one(), style_layer)
        return show_fold(single, own, images.present)
