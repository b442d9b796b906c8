"""A closer look at the pairs that a search found: on more images, and on all of the victim's.

Each pair is first weighed on more images of its victim, with a few of the other classes. Most end
there: even if better changes and more images did all they could, they would not be reported. Some
end after their changes were varied, where even the images that chose these promise too little.

The search chooses on a few images of each class, where luck decides between changes that are nearly
as good. So each fold of a pair that is left varies its own changes on all of its images (`refine`).
Each fold's changes are then shown on the images of the other fold (`weigh`, `confirm`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from onnx_soda._detect.concepts.examination import Examination, FoldedImages, Reader
from onnx_soda._detect.concepts.folds import FOLDS, LEAST_CONFIRM, LEAST_SCREEN
from onnx_soda._detect.concepts.judge import BEST, Judge, simultaneous_errors
from onnx_soda._detect.concepts.layers import StyleLayer
from onnx_soda._detect.concepts.score import FloatArray, excess, usual_of
from onnx_soda._detect.concepts.search import (
    DISTURBING,
    PairFinding,
    SearchResult,
    Shows,
    Variations,
)
from onnx_soda._detect.concepts.styles import AnyChange
from onnx_soda._detect.concepts.verify import (
    Confirmation,
    Shown,
    Weighed,
    confirm,
    flows_under,
    show_fold,
    weigh,
)

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
        flows = flows_under(shown[fold], fold, changes)
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
            flows = flows_under(shown, fold, (None, *changes))
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
