"""The search for interventions, and the pair of classes, that the clean data does not support.

It is a race: what plainly does nothing is shown few images (successive halving, Jamieson and
Talwalkar 2016, https://proceedings.mlr.press/v51/jamieson16.html).

1. Interventions that nothing has chosen, a fixed battery and random concepts or styles of clean
   images, are shown on the screen: a few images of each class.
2. Of the most promising pairs the best interventions are shown on all images of the victim that are
   searched on, with a few of each other class.
3. Those that do best there are varied, in rounds, for fewer and fewer pairs.
4. What each fold has chosen for the few pairs that are left is shown on the other fold, which
   scores it. So a score is no luck of the choice.

A pair is lost where it is not among the most promising on the screen; how many are kept is far more
than are looked at in the end. What is usual for a pair is known from the screen.

Look-alikes count among styles: in clean models of known truth no style confused them beyond the
reference, as changes of the image do (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol

import numpy as np

from onnx_soda._detect.concepts.battery import BUDGETS, Budget, Rounds, concept_battery
from onnx_soda._detect.concepts.concept import (
    Concept,
    ConceptVariations,
    Donor,
    draw_concept,
    of_each_family,
)
from onnx_soda._detect.concepts.folds import FOLDS, MOST_OF_ONE_KIND
from onnx_soda._detect.concepts.judge import (
    BEST,
    CAUTION,
    Estimate,
    Judge,
    Pair,
    Standings,
)
from onnx_soda._detect.concepts.score import CONCEPT_SCORING, STYLE_SCORING, FloatArray, Scoring
from onnx_soda._detect.concepts.styles import STRENGTHS, AnyChange, Change, Style, StyleLibrary
from onnx_soda._results import Halted, StopCause

# Pairs that are looked at on more images: found by concepts, found by styles.
FINDINGS, STYLE_FINDINGS = 5, 3
# Concepts of one family, and in all, that are kept for a pair beside those that its score is from:
# different ways to the target show more of it. A repair makes infected images with them.
PER_FAMILY, MOST_KEPT = 2, 6
# What the score of such a concept must be over.
_LEAST_KEPT = 0.05
# Interventions of a pair that its best ones are joined with, half of the time; else any is drawn.
_PARTNERS = 12
# Interventions by which what is usual for a pair is told in the end, on the images that score it.
DISTURBING = 24
# Marks what no fold has chosen: the battery and random draws.
_UNCHOSEN = -1
# Pairs that are looked at on more images, whether or not they score.
LEAST_PAIRS = 2
# Pairs of each fold that race at least; interventions of each that the panel of its victim is shown
# first; and pairs of each fold that the other scores in the end.
LEAST_RACING, PROMOTED, _FINALISTS = 8, 4, 4
# The same with many classes: pairs that race for each that is varied, and pairs in the end.
_RACING_OF_MANY, _FINALISTS_OF_MANY = 6, 32


Leading = Callable[[int, int], None]
"""Called with victim and target of the best pair so far."""


@dataclass(frozen=True)
class PairFinding(Generic[AnyChange]):
    """A pair, with the interventions that show it best.

    Attributes:
        victim_class: Source class.
        target_class: Class it is turned into.
        background: Score of the best pair with another victim and target; see `score`.
        changes: For each fold those that it chose, the best one first.
        others: Further ones that turn the pair, the best one first.
        disturbing: For each fold some that nothing has chosen and that disturb the other classes:
            what is usual for the victim is told by them.
    """

    victim_class: int
    target_class: int
    background: float
    changes: tuple[tuple[AnyChange, ...], ...]
    others: tuple[AnyChange, ...] = ()
    disturbing: tuple[tuple[AnyChange, ...], ...] = ()

    @property
    def pair(self) -> Pair:
        """Victim and target."""
        return self.victim_class, self.target_class


@dataclass(frozen=True)
class Lead(Generic[AnyChange]):
    """What to vary: an intervention, and those that are best for the same pair, of a victim."""

    victim_class: int
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


class Shows(Protocol):
    """Images that interventions are shown on."""

    def flows(self, change: Change | None, /) -> FloatArray:
        """Return where they go, shape (folds, 1 + heads, classes, classes)."""
        ...


class Judged(Shows, Protocol):
    """The same, with what scores where they go; `Panel` is one."""

    @property
    def judge(self) -> Judge:
        """What scores where they go."""
        ...


class PanelSet(Protocol):
    """The images of a race; `Panels` is one."""

    @property
    def screen(self) -> Judged:
        """Return a few images of each class."""
        ...

    def of(self, victim: int, fold: int, /) -> Judged:
        """Return all images of a victim in a fold, and a few of each other class."""
        ...


@dataclass(frozen=True, eq=False)
class _Row:
    """What a panel says of an intervention: scores of its victim with each target, and errors."""

    score: FloatArray
    error: FloatArray

    def cautious(self, target: int) -> float:
        """Return the score, a little lowered."""
        return float(self.score[target] - CAUTION * self.error[target])


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
    """Interventions tried, and how each pair of classes stands after them.

    Args:
        panels: The classifier, with the images that interventions are shown on.
        scoring: What differs between concepts and styles.
        advance: Called after each with the number tried.
        leading: Called with the best pair so far, where one scores.
    """

    def __init__(
        self,
        panels: PanelSet,
        scoring: Scoring = CONCEPT_SCORING,
        advance: Callable[[int], None] | None = None,
        leading: Leading | None = None,
    ) -> None:
        self._panels = panels
        self._judge = replace(panels.screen.judge, scoring=scoring)
        self._advance = advance
        self._leading = leading
        self._changes: list[AnyChange] = []
        self._origins: list[int] = []
        self._standings = Standings(self._judge)
        self._screened = False
        # By fold and victim, for interventions that its panel was shown: a row of pairs.
        self._rows: dict[tuple[int, int], dict[int, _Row]] = {}
        self._racing: list[list[Pair]] = [[] for _ in range(FOLDS)]

    @property
    def victims(self) -> int:
        """Number of classes that are victims."""
        return len(self._judge.labels)

    def add(self, change: AnyChange) -> None:
        """Show the screen one that nothing has chosen."""
        self._changes.append(change)
        self._origins.append(_UNCHOSEN)
        self._standings.add(self._panels.screen.flows(change))
        self._tell()

    def _tell(self) -> None:
        if self._advance:
            self._advance(len(self._changes))

    def close_screening(self) -> None:
        """Take what is usual from all tried so far."""
        self._judge = self._standings.close()
        self._screened = True

    def start(self, pairs: int) -> None:
        """Let the most promising pairs race.

        Args:
            pairs: How many, of each fold.
        """
        for fold in range(FOLDS):
            self._racing[fold] = self._standings.ranked(fold, pairs)
            for pair in self._racing[fold]:
                self._promote(fold, pair)

    def _promote(self, fold: int, pair: Pair) -> None:
        """Show what does best for a pair on the screen to the panel of its victim."""
        for place in self._standings.best(fold, pair, PROMOTED):
            self._show(place, pair[0], fold)

    def _show(self, place: int, victim: int, fold: int) -> _Row:
        """Return what the panel of a victim says of an intervention; shown once."""
        rows = self._rows.setdefault((fold, victim), {})
        if place not in rows:
            panel = self._panels.of(victim, fold)
            judge = replace(panel.judge, usual=self._judge.usual, scoring=self._judge.scoring)
            flows = panel.flows(self._changes[place])[fold]
            score, error = judge.score_fold(flows[None], fold, victim)
            rows[place] = _Row(score[0, 0], error[0, 0])
            self._tell()
        return rows[place]

    def vary(self, change: AnyChange, fold: int, victim: int) -> None:
        """Show a variation that a fold has chosen to the panel of a victim."""
        self._changes.append(change)
        self._origins.append(fold)
        self._show(len(self._changes) - 1, victim, fold)

    def _ordered(self, fold: int, pair: Pair) -> tuple[list[int], list[float]]:
        """Return what a fold may choose from for a pair, the best first, and what it thinks."""
        rows = self._rows.get((fold, pair[0]), {})
        own = [place for place in rows if self._origins[place] in (_UNCHOSEN, fold)]
        worth = [rows[place].cautious(pair[1]) for place in own]
        order = np.argsort(-np.array(worth), kind="stable")
        return [own[i] for i in order], [worth[i] for i in order]

    def _standing(self, fold: int) -> list[Pair]:
        """Return the pairs that race in a fold, the best first."""
        stands = [np.mean(self._ordered(fold, pair)[1][:BEST]) for pair in self._racing[fold]]
        order = np.argsort(-np.array(stands), kind="stable")
        return [self._racing[fold][place] for place in order]

    def leads(self, fold: int, pairs: int, moves: int) -> list[Lead[AnyChange]]:
        """Return what to vary next: the best ones of the best pairs, in turn."""
        found: list[Lead[AnyChange]] = []
        standing = self._standing(fold)
        if self._leading and self._ordered(fold, standing[0])[1][0] > 0:
            self._leading(*standing[0])
        for pair in standing[:pairs]:
            order = self._ordered(fold, pair)[0][:_PARTNERS]
            best = tuple(self._changes[place] for place in order)
            found.extend(Lead(pair[0], best[i % min(BEST, len(best))], best) for i in range(moves))
        return found

    def best_for(self, victim: int, target: int, least: float) -> list[AnyChange]:
        """Return all that score for a pair, the best first, by the panels that were shown them.

        Args:
            victim: Source class.
            target: Class it is turned into.
            least: What a score must be over.
        """
        told: dict[int, list[float]] = {}
        for fold in range(FOLDS):
            for place, row in self._rows.get((fold, victim), {}).items():
                told.setdefault(place, []).append(float(row.score[target]))
        means = {place: float(np.mean(scores)) for place, scores in told.items()}
        ranked = sorted(means, key=lambda place: -means[place])
        return [self._changes[place] for place in ranked if means[place] > least]

    def result(self, most: int, finalists: int) -> SearchResult[AnyChange]:
        """Score each fold's choices on the other fold, take the mean, and keep the best pairs.

        By their score, however uncertain: a weak sign is worth a closer look, and there what is
        certain decides. Pairs that do not score are kept up to `LEAST_PAIRS`.

        Where it is asked before the screening is closed, what is usual is told by what was tried.

        Args:
            most: Pairs to keep.
            finalists: Pairs of each fold that the other fold scores.
        """
        screened = self._screened
        if not screened:
            if len(self._changes) < BEST:
                return SearchResult((), self._judge, len(self._changes), screened=False)
            self.close_screening()
        if not any(self._racing):
            self.start(finalists)
        chosen = dict.fromkeys(
            pair for fold in range(FOLDS) for pair in self._standing(fold)[:finalists]
        )
        leaders = {pair: self._leaders(pair) for pair in chosen}
        final = {pair: self._cross(pair, best) for pair, best in leaders.items()}
        ranked = sorted(final, key=lambda pair: -final[pair].score)[:most]
        findings = tuple(
            PairFinding(
                *pair,
                background(final, pair),
                tuple(tuple(self._changes[i] for i in best) for best in leaders[pair]),
                disturbing=tuple(self._disturbing(fold, pair[0]) for fold in range(FOLDS)),
            )
            for place, pair in enumerate(ranked)
            if place < LEAST_PAIRS or final[pair].score > 0
        )
        return SearchResult(findings, self._judge, len(self._changes), screened=screened)

    def _disturbing(self, fold: int, victim: int) -> tuple[AnyChange, ...]:
        """Return some of the unchosen ones that disturb the other classes, evenly spread."""
        places = self._standings.disturbing(fold, victim)
        count = min(DISTURBING, len(places))
        chosen = np.linspace(0, len(places) - 1, count).round().astype(int) if count else ()
        return tuple(self._changes[places[number]] for number in chosen)

    def _leaders(self, pair: Pair) -> list[list[int]]:
        """Return what each fold has chosen for a pair."""
        for fold in range(FOLDS):
            if pair not in self._racing[fold]:
                self._promote(fold, pair)
        return [self._ordered(fold, pair)[0][:BEST] for fold in range(FOLDS)]

    def _cross(self, pair: Pair, leaders: Sequence[Sequence[int]]) -> Estimate:
        """Score a pair, by what each fold has chosen, on the other fold."""
        victim, target = pair
        rows = [
            [self._show(place, victim, 1 - fold) for place in places]
            for fold, places in enumerate(leaders)
        ]
        scores = np.array([np.mean([row.score[target] for row in own]) for own in rows])
        errors = np.array([np.mean([row.error[target] for row in own]) for own in rows])
        return self._judge.combine(pair, scores, errors)

    def as_far_as(self, work: Callable[[], None], most: int) -> SearchResult[AnyChange]:
        """Do what tries interventions, and return what was found when it is done or halted.

        Args:
            work: Adds interventions, closes the screening, and lets pairs race.
            most: Pairs to keep.
        """
        halted: StopCause | None = None
        try:
            work()
        except Halted as halt:
            halted = halt.why
        # What is asked last is not halted: without it nothing is known.
        self._advance = None
        if halted:
            return replace(self.result(most, LEAST_PAIRS), halted=halted)
        return self.result(most, finalists(self.victims))


def background(scored: Mapping[Pair, Estimate], pair: Pair) -> float:
    """Return the largest score of a pair without these classes in these roles; not under 0."""
    victim, target = pair
    others = (
        one.cautious for other, one in scored.items() if other[0] != victim and other[1] != target
    )
    return max([0.0, *others])


def racing(rounds: Rounds, victims: int) -> int:
    """Return how many pairs of each fold race.

    Args:
        rounds: Of the race.
        victims: Classes that are victims. Of many, more pairs race than are varied, since two
            images of a class on the screen tell little among so many pairs.
    """
    first = max(pairs for pairs, _ in rounds) if rounds else 0
    return max(LEAST_RACING, first * (_RACING_OF_MANY if victims > MOST_OF_ONE_KIND else 1))


def finalists(victims: int) -> int:
    """Return how many pairs of each fold the other scores in the end.

    Args:
        victims: Classes that are victims.
    """
    return _FINALISTS_OF_MANY if victims > MOST_OF_ONE_KIND else _FINALISTS


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
    trials.start(racing(rounds, trials.victims))
    for turn, (pairs, moves) in enumerate(rounds):
        joining = join_last or turn < len(rounds) - 1
        for fold in range(FOLDS):
            for number, lead in enumerate(trials.leads(fold, pairs, moves)):
                join = joining and number % 2 == 1
                made = variations.vary(lead.change, lead.partners, join, 1 / (1 + turn), rng)
                trials.vary(made, fold, lead.victim_class)


def search(
    panels: PanelSet,
    channels: int,
    rng: np.random.Generator,
    budget: Budget | None = None,
    advance: Callable[[int], None] | None = None,
    donors: Sequence[Donor] = (),
    leading: Leading | None = None,
    battery: Sequence[Concept] | None = None,
) -> SearchResult[Concept]:
    """Search for concepts under which one class turns into another without support.

    Args:
        panels: The classifier, with images.
        channels: Of the images.
        rng: Source of randomness; the same state gives the same result.
        budget: How many concepts to try.
        advance: Called with the number of concepts tried.
        donors: Clean images whose style may be carried over.
        leading: See `Trials`.
        battery: Concepts that are always tried; all of `concept_battery` where not given.
    """
    budget = budget or BUDGETS["default"]
    trials = Trials[Concept](panels, advance=advance, leading=leading)

    def work() -> None:
        for concept in concept_battery(channels) if battery is None else battery:
            trials.add(concept)
        for _ in range(budget.draws):
            trials.add(draw_concept(rng, channels, donors))
        trials.close_screening()
        explore(trials, ConceptVariations(channels, donors), budget.rounds, rng)

    found = trials.as_far_as(work, FINDINGS)
    return replace(found, findings=tuple(_with_others(one, trials) for one in found.findings))


def _with_others(finding: PairFinding[Concept], trials: Trials[Concept]) -> PairFinding[Concept]:
    best = trials.best_for(finding.victim_class, finding.target_class, _LEAST_KEPT)
    return replace(finding, others=tuple(of_each_family(best, PER_FAMILY)[:MOST_KEPT]))


def search_styles(
    panels: PanelSet,
    library: StyleLibrary,
    rng: np.random.Generator,
    budget: Budget,
    advance: Callable[[int], None] | None = None,
    leading: Leading | None = None,
) -> SearchResult[Style]:
    """Search for styles under which one class turns into another without support.

    Args:
        panels: The classifier with a style layer, and images.
        library: Donors.
        rng: Source of randomness; the same state gives the same result.
        budget: How many styles to try.
        advance: Called with the number of styles tried.
        leading: See `Trials`.
    """
    trials = Trials[Style](panels, STYLE_SCORING, advance, leading)
    donors = library.donors(budget.donors, rng)

    def work() -> None:
        for strength in STRENGTHS:
            for donor in donors:
                trials.add(library.take(donor, strength))
        trials.close_screening()
        explore(trials, library, budget.style_rounds, rng, join_last=True)

    return trials.as_far_as(work, STYLE_FINDINGS)
