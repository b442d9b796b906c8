"""The search for interventions, and the pair of classes, that the clean data does not support.

Some interventions are tried first, which nothing has chosen: a fixed battery and random concepts,
or styles of clean images. Then those that do best for the most promising pairs are varied, in
rounds. Each fold of the images chooses, and the other fold scores, so that a score is no luck of
the choice.

Look-alikes count among styles: in clean models of known truth no style confused them beyond the
reference, as changes of the image do (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_soda._detect.concepts.battery import BUDGETS, Budget, Rounds, concept_battery
from onnx_soda._detect.concepts.concept import (
    Concept,
    ConceptVariations,
    Donor,
    draw_concept,
    of_each_family,
)
from onnx_soda._detect.concepts.folds import FOLDS
from onnx_soda._detect.concepts.judge import Judge
from onnx_soda._detect.concepts.probe import Probe
from onnx_soda._detect.concepts.score import STYLE_SCORING, FloatArray, background
from onnx_soda._detect.concepts.styles import STRENGTHS, AnyChange, Style, StyleLibrary
from onnx_soda._results import Halted, StopCause

# Pairs that are looked at on more images: found by concepts, found by styles.
_FINDINGS, _STYLE_FINDINGS = 5, 3
# Concepts of one family, and in all, that are kept for a pair beside those that its score is from:
# different ways to the target show more of it. A repair makes infected images with them.
PER_FAMILY, MOST_KEPT = 2, 6
# What the score of such a concept must be over.
_LEAST_KEPT = 0.05
# Interventions that a pair's score is the mean over: one alone may be luck.
_BEST = 3
# Standard errors that a score is lowered by where interventions and pairs to vary are chosen.
_CAUTION = 0.5
# Interventions of a pair that its best ones are joined with, half of the time; else any is drawn.
_PARTNERS = 12
# Marks what no fold has chosen: the battery and random draws.
_UNCHOSEN = -1
# Pairs that are looked at on more images, whether or not they score.
_LEAST_PAIRS = 2


Leading = Callable[[int, int], None]
"""Called with victim and target of the best pair so far."""


@dataclass(frozen=True)
class PairFinding(Generic[AnyChange]):
    """A pair, with the interventions that show it best.

    Attributes:
        victim_class: Source class.
        target_class: Class it is turned into.
        background: Score of the best pair with another victim and target; see `background`.
        changes: For each fold those that it chose, the best one first.
        others: Further ones that turn the pair, the best one first.
    """

    victim_class: int
    target_class: int
    background: float
    changes: tuple[tuple[AnyChange, ...], ...]
    others: tuple[AnyChange, ...] = ()


@dataclass(frozen=True)
class Lead(Generic[AnyChange]):
    """What to vary: an intervention, and those that are best for the same pair."""

    change: AnyChange
    partners: tuple[AnyChange, ...]


class Variations(Protocol[AnyChange]):
    """Makes variations of interventions; concepts and styles have their own."""

    def vary(
        self,
        change: AnyChange,
        partners: Sequence[AnyChange],
        join: bool,
        width: float,
        rng: np.random.Generator,
        /,
    ) -> AnyChange:
        """Return a variation of a change, or one joined with a partner."""
        ...


@dataclass(frozen=True, eq=False)
class SearchResult(Generic[AnyChange]):
    """What a search found.

    Attributes:
        findings: The pairs with the highest scores, highest first.
        judge: What scores are made from, for images that were not searched on.
        tried: Number of interventions tried.
        halted: Why it ended early; None where it did not.
        screened: All that nothing has chosen was tried: what is usual is known.
    """

    findings: tuple[PairFinding[AnyChange], ...]
    judge: Judge
    tried: int
    halted: StopCause | None = None
    screened: bool = True


class Trials(Generic[AnyChange]):
    """Interventions tried, with their flows on both folds and the fold that chose to try them.

    Args:
        probe: The classifier, with images grouped by `group_by_fold`.
        judge: Scores what the probe says.
        advance: Called after each with the number tried.
        leading: Called with the best pair so far, where one scores.
    """

    def __init__(
        self,
        probe: Probe,
        judge: Judge,
        advance: Callable[[int], None] | None,
        leading: Leading | None = None,
    ) -> None:
        self._probe = probe
        self._judge = judge
        self._advance = advance
        self._leading = leading
        self._changes: list[AnyChange] = []
        self._origins: list[int] = []
        self._scores: list[NDArray[np.float32]] = []
        self._errors: list[NDArray[np.float32]] = []
        self._waiting: list[FloatArray] = []
        self._screened = False

    def add(self, change: AnyChange, chosen_by: int = _UNCHOSEN) -> None:
        """Try one.

        Args:
            change: The intervention.
            chosen_by: The fold that wants it; without it, none does.
        """
        self._changes.append(change)
        self._origins.append(chosen_by)
        self._waiting.append(self._judge.by_fold(self._probe.flows(change)))
        if self._advance:
            self._advance(len(self._changes))

    def close_screening(self) -> None:
        """Take what is usual from all tried so far, which nothing has chosen."""
        flows = np.stack(self._waiting)
        self._judge = self._judge.with_usual(flows)
        self._screened = True

    def _settle(self) -> None:
        """Score what was tried since the last time."""
        if self._waiting:
            scores, errors = self._judge.score(np.stack(self._waiting))
            self._scores.extend(scores.astype(np.float32))
            self._errors.extend(errors.astype(np.float32))
            self._waiting.clear()

    def _cautious(self, fold: int) -> tuple[NDArray[np.intp], FloatArray]:
        """Return what a fold may choose from, and what it thinks of each."""
        self._settle()
        own = np.flatnonzero([origin in (_UNCHOSEN, fold) for origin in self._origins])
        scores = [self._scores[i][fold] - _CAUTION * self._errors[i][fold] for i in own]
        return own, np.stack(scores)

    def _leaders(self, fold: int) -> tuple[NDArray[np.intp], FloatArray]:
        """Return each pair's best ones by one fold, and their mean score, a little lowered."""
        own, cautious = self._cautious(fold)
        best = np.argpartition(-cautious, range(_BEST), axis=0)[:_BEST]
        return own[best], np.take_along_axis(cautious, best, axis=0).mean(axis=0)

    def leads(self, fold: int, pairs: int, moves: int) -> list[Lead[AnyChange]]:
        """Return what to vary next: the best ones of the best pairs, in turn."""
        own, cautious = self._cautious(fold)
        chosen = self._leaders(fold)[1]
        found: list[Lead[AnyChange]] = []
        discounted = self._judge.discount(chosen)
        best_pairs = _top_pairs(discounted, pairs)
        if self._leading and discounted[best_pairs[0]] > 0:
            self._leading(*best_pairs[0])
        for victim, target in best_pairs:
            order = own[np.argsort(-cautious[:, victim, target], kind="stable")[:_PARTNERS]]
            best = tuple(self._changes[i] for i in order)
            found.extend(Lead(best[i % _BEST], best) for i in range(moves))
        return found

    def best_for(self, victim: int, target: int, least: float) -> list[AnyChange]:
        """Return all that score for a pair, the best first, by both folds together.

        Args:
            victim: Source class.
            target: Class it is turned into.
            least: What a score must be over.
        """
        self._settle()
        means = np.array([scores[:, victim, target].mean() for scores in self._scores])
        return [self._changes[i] for i in np.argsort(-means, kind="stable") if means[i] > least]

    def result(self, most: int) -> SearchResult[AnyChange]:
        """Score each fold's choices on the other fold, take the mean, and keep the best pairs.

        By their score, however uncertain: a weak sign is worth a closer look, and there what is
        certain decides. Pairs that do not score are kept up to `_LEAST_PAIRS`.

        Where it is asked before the screening is closed, what is usual is told by what was tried.

        Args:
            most: Pairs to keep.
        """
        screened = self._screened
        if not screened:
            if len(self._changes) < _BEST:
                return SearchResult((), self._judge, len(self._changes), screened=False)
            self.close_screening()
        leaders = [self._leaders(fold)[0] for fold in range(FOLDS)]
        scores, errors = np.stack(self._scores), np.stack(self._errors)
        means, deviations = [], []
        for fold, best in enumerate(leaders):
            other = 1 - fold
            means.append(np.take_along_axis(scores[:, other], best, axis=0).mean(axis=0))
            deviations.append(np.take_along_axis(errors[:, other], best, axis=0).mean(axis=0))
        final = self._judge.combine(np.stack(means), np.stack(deviations))
        ranked = _top_pairs(final.score, most)
        findings = tuple(
            PairFinding(
                victim,
                target,
                background(final.cautious, victim, target),
                tuple(tuple(self._changes[i] for i in best[:, victim, target]) for best in leaders),
            )
            for place, (victim, target) in enumerate(ranked)
            if place < _LEAST_PAIRS or final.score[victim, target] > 0
        )
        return SearchResult(findings, self._judge, len(self._changes), screened=screened)

    def as_far_as(self, work: Callable[[], None], most: int) -> SearchResult[AnyChange]:
        """Do what tries interventions, and return what was found when it is done or halted.

        Args:
            work: Adds interventions, and closes the screening.
            most: Pairs to keep.
        """
        halted: StopCause | None = None
        try:
            work()
        except Halted as halt:
            halted = halt.why
        return replace(self.result(most), halted=halted)


def _top_pairs(scores: FloatArray, count: int) -> list[tuple[int, int]]:
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    victims, targets = np.unravel_index(order, scores.shape)
    return list(zip(victims.tolist(), targets.tolist(), strict=True))


def explore(
    trials: Trials[AnyChange],
    variations: Variations[AnyChange],
    rounds: Rounds,
    rng: np.random.Generator,
    join_last: bool = False,
) -> None:
    """Vary what does best, in rounds; wide steps first, narrow ones to finish.

    Args:
        trials: What was tried so far; takes the variations.
        variations: Makes them; every other one is joined with a partner.
        rounds: Pairs and variations of each, by round.
        rng: Draws.
        join_last: Join in the last round too.
    """
    for turn, (pairs, moves) in enumerate(rounds):
        joining = join_last or turn < len(rounds) - 1
        for fold in range(FOLDS):
            for number, lead in enumerate(trials.leads(fold, pairs, moves)):
                join = joining and number % 2 == 1
                made = variations.vary(lead.change, lead.partners, join, 1 / (1 + turn), rng)
                trials.add(made, fold)


def search(
    probe: Probe,
    judge: Judge,
    rng: np.random.Generator,
    budget: Budget | None = None,
    advance: Callable[[int], None] | None = None,
    donors: Sequence[Donor] = (),
    leading: Leading | None = None,
) -> SearchResult[Concept]:
    """Search for concepts under which one class turns into another without support.

    Args:
        probe: The classifier, with images grouped by `group_by_fold`.
        judge: Scores what the probe says.
        rng: Source of randomness; the same state gives the same result.
        budget: How many concepts to try.
        advance: Called with the number of concepts tried.
        donors: Clean images whose style may be carried over.
        leading: See `Trials`.
    """
    budget = budget or BUDGETS["default"]
    channels = probe.shape[0]
    trials = Trials[Concept](probe, judge, advance, leading)

    def work() -> None:
        for concept in concept_battery(channels):
            trials.add(concept)
        for _ in range(budget.draws):
            trials.add(draw_concept(rng, channels, donors))
        trials.close_screening()
        explore(trials, ConceptVariations(channels, donors), budget.rounds, rng)

    found = trials.as_far_as(work, _FINDINGS)
    return replace(found, findings=tuple(_with_others(one, trials) for one in found.findings))


def _with_others(finding: PairFinding[Concept], trials: Trials[Concept]) -> PairFinding[Concept]:
    best = trials.best_for(finding.victim_class, finding.target_class, _LEAST_KEPT)
    return replace(finding, others=tuple(of_each_family(best, PER_FAMILY)[:MOST_KEPT]))


def search_styles(
    probe: Probe,
    judge: Judge,
    library: StyleLibrary,
    rng: np.random.Generator,
    budget: Budget,
    advance: Callable[[int], None] | None = None,
    leading: Leading | None = None,
) -> SearchResult[Style]:
    """Search for styles under which one class turns into another without support.

    Args:
        probe: The classifier with a style layer, and images grouped by `group_by_fold`.
        judge: Scores what the probe says.
        library: Donors.
        rng: Source of randomness; the same state gives the same result.
        budget: How many styles to try.
        advance: Called with the number of styles tried.
        leading: See `Trials`.
    """
    trials = Trials[Style](probe, replace(judge, scoring=STYLE_SCORING), advance, leading)
    donors = library.donors(budget.donors, rng)

    def work() -> None:
        for strength in STRENGTHS:
            for donor in donors:
                trials.add(library.take(donor, strength))
        trials.close_screening()
        explore(trials, library, budget.style_rounds, rng, join_last=True)

    return trials.as_far_as(work, _STYLE_FINDINGS)
