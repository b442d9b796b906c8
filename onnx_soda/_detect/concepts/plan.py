"""Plans: how much of a search is done, and what that costs.

Costs are counted in passes: an image that goes through the model once. Through half of it is the
share of a pass that this half has of the multiplications. There are few plans, from
the whole to the least, and each costs clearly less than the one before. So the same file gives the
same report on machines that are about as fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from onnx_soda._data.sources import IntArray
from onnx_soda._detect.concepts.battery import Budget, Rounds, concept_battery, varied
from onnx_soda._detect.concepts.closer import passes_of_look
from onnx_soda._detect.concepts.examination import classes_beside, few_of_each_class
from onnx_soda._detect.concepts.folds import FOLDS, LEAST_SCREEN, MOST_OF_ONE_KIND
from onnx_soda._detect.concepts.judge import BEST
from onnx_soda._detect.concepts.search import (
    FINDINGS,
    LEAST_PAIRS,
    PROMOTED,
    STYLE_FINDINGS,
    finalists,
    racing,
)
from onnx_soda._detect.concepts.styles import STRENGTHS

# Variations of a pair in the only round of the least plans: one of each of the two kinds.
_LEAST_MOVES = 2
# Share of the pairs left in the end of a race that both folds have; halfway between all and none.
_AGREED = 0.5
# With many classes, share of the panels and changes that pairs which race do not have in common:
# the network of 203 classes took two thirds of the passes that were planned without it.
_ALONE_OF_MANY = 0.5
# Fewest classes that are victims: with one, nothing shows whether a change turns it alone.
FEWEST_VICTIMS = 2
# Classes that a victim is looked at beside, where fewer are victims themselves: with two images of
# each in either half they are the thirty that a panel has. Without them nothing shows what else a
# change does.
BESIDE = 15
# Multiples of the golden ratio, less whole numbers, are spread evenly, however many are taken.
_GOLDEN = (math.sqrt(5) - 1) / 2
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Plan:
    """How much of a search is done.

    Attributes:
        budget: Random draws, donors of styles (0: styles are not tried), and rounds.
        battery: Concepts of the battery; see `spread`.
        screen: Images of each class and fold that all changes are shown on.
        victims: Classes that are victims.
        looks: Pairs of each search that are looked at on more images.
    """

    budget: Budget
    battery: int
    screen: int
    victims: int
    looks: int

    @property
    def concepts(self) -> int:
        """Concepts tried in all."""
        return self.battery + self.budget.draws + FOLDS * varied(self.budget.rounds)

    @property
    def styles(self) -> int:
        """Styles tried in all."""
        return self.budget.styles(self.budget.donors) if self.budget.donors else 0

    def covers(self, whole: Plan) -> bool:
        """Tell whether a model may be called clean: nothing that decides was left out.

        Draws, donors, rounds and images of the screen beyond the least make a find likelier, as the
        budget does. Without a concept of the battery or a class, something was not looked for.
        """
        screen = min(LEAST_SCREEN, whole.screen)
        return (
            self.battery >= whole.battery
            and self.victims >= whole.victims
            and self.screen >= screen
            and self.looks >= whole.looks
        )


@dataclass(frozen=True, eq=False)
class Ground:
    """What a plan is made for.

    Attributes:
        search: Images that pairs are searched on, shape (folds, classes with images).
        confirm: Images that the best pairs are looked at with, same shape.
        channels: Of the images.
        styled: The model has a layer with styles.
        kept: Images of panels that are kept; panels with more are opened anew each time.
        style_pass: What another style costs of a pass, while the first half of the network is kept.
        halves: Images that it is kept of.
    """

    search: IntArray
    confirm: IntArray
    channels: int
    styled: bool
    kept: float = math.inf
    style_pass: float = 1.0
    halves: float = math.inf

    def restyled(self, images: int) -> float:
        """Return what another style costs of a pass, shown to so many images in turn."""
        return self.style_pass if images <= self.halves else 1.0

    def whole(self, budget: Budget, screen: int) -> Plan:
        """Return the plan of a budget where there is time for all."""
        battery = len(concept_battery(self.channels))
        donors = min(budget.donors, int(self.search.sum())) if self.styled else 0
        there = replace(budget, donors=donors)
        return Plan(there, battery, screen, self.search.shape[1], FINDINGS)

    def on_screen(self, plan: Plan) -> int:
        """Return the images of the screen; exact where all classes are victims."""
        most = int(np.minimum(self.search, plan.screen).sum())
        return round(most * plan.victims / len(self.search[0]))

    def panel(self, plan: Plan) -> int:
        """Return the images of the largest panel: those of a victim, and a few of the others."""
        few = min(few_of_each_class(plan.victims), plan.screen)
        return int(self.search.max()) + few * classes_beside(plan.victims)

    def look(self, plan: Plan) -> int:
        """Return the images of the largest first look at a pair."""
        classes = len(self.search[0])
        others = max(plan.victims, min(1 + BESIDE, classes)) - 1
        every = self.on_screen(replace(plan, victims=classes))
        return int(self.confirm.sum(axis=0).max()) + round(others * every / classes)


def screening_passes(plan: Plan, ground: Ground) -> int:
    """Return what showing the screen all that nothing has chosen costs; this is what it will be."""
    shown, images = 1.0 + plan.battery + plan.budget.draws, ground.on_screen(plan)
    if plan.budget.donors:
        shown += 1 + len(STRENGTHS) * plan.budget.donors * ground.restyled(images)
    return round(images * shown)


def racing_passes(
    rounds: Rounds, plan: Plan, ground: Ground, agreed: float = _AGREED, styles: bool = False
) -> int:
    """Return what the race of one search may cost, the crossing of folds included.

    Pairs of one victim share its panel, and what was shown is not shown again: with other pairs in
    either fold (`agreed` of 0) this is the most.

    Args:
        rounds: Of the race.
        plan: What is done.
        ground: What there is.
        agreed: Share of the pairs left in the end that are the same in both folds.
        styles: It is the search for styles.
    """
    starters = min(racing(rounds, plan.victims), plan.victims * (int(ground.search.shape[1]) - 1))
    size = ground.panel(plan)
    each = ground.restyled(FOLDS * starters * size) if styles else 1.0
    shown = FOLDS * starters * (1 + PROMOTED * each)
    if plan.victims > MOST_OF_ONE_KIND and agreed:
        shown *= _ALONE_OF_MANY
    shown += FOLDS * varied(rounds) * each
    # Panels that do not fit into memory together are opened again when their turn comes.
    again = (pairs for pairs, _ in rounds if FOLDS * pairs * size > ground.kept)
    shown += FOLDS * sum(again)
    return round((shown + _closing(min(finalists(plan.victims), starters), agreed, each)) * size)


def _closing(pairs: int, agreed: float, each: float = 1.0) -> float:
    """Return how often panels are shown something in the crossing of folds.

    Each pair is shown what either fold has chosen. Where one fold alone has it, the other opens a
    panel and chooses for it, too.

    Args:
        pairs: Of each fold, in the end.
        agreed: Share of them that are the same in both.
        each: What another change costs of a pass; opening a panel costs a whole one.
    """
    alone = FOLDS * pairs * (1 - agreed)
    return (alone + pairs * agreed) * FOLDS * BEST * each + alone * (1 + PROMOTED * each)


def looking_passes(looks: float, plan: Plan, ground: Ground) -> int:
    """Return what first looks at pairs cost at most; closer looks are not planned."""
    return round(looks * passes_of_look(ground.look(plan)))


def planned_passes(plan: Plan, ground: Ground, most: bool = False) -> int:
    """Return what a plan costs: the screening to the pass, the rest as an estimate.

    Args:
        plan: What is done.
        ground: What there is.
        most: Return what it costs at most; closer looks are not planned either way.
    """
    agreed = 0.0 if most else _AGREED
    searches = [(plan.budget.rounds, plan.looks, False)]
    if plan.budget.donors:
        searches.append((plan.budget.style_rounds, min(plan.looks, STYLE_FINDINGS), True))
    passes = screening_passes(plan, ground)
    for rounds, looks, styles in searches:
        # Some are looked at in any case, more where there is something to be seen.
        looked_at = looks if most else (looks + LEAST_PAIRS) / 2
        passes += racing_passes(rounds, plan, ground, agreed, styles)
        passes += looking_passes(looked_at, plan, ground)
    return passes


def kept_passes(plan: Plan, ground: Ground) -> int:
    """Return what is kept to end a search that is out of time: what to report is asked last."""
    closing = _closing(LEAST_PAIRS, agreed=0.0) * ground.panel(plan)
    return round(closing) + looking_passes(LEAST_PAIRS, plan, ground)


def plans(whole: Plan) -> Iterator[Plan]:
    """Yield plans from the whole to the least; each covers no more than the one before.

    What is given up first is what adds least to what is seen without it:

    1. Random draws: the battery has each family in steps.
    2. Donors of styles: they are drawn at random, and any quarter of them is like the rest.
    3. Images of the screen: it only chooses what is shown more images.
    4. Rounds: what they vary was found before.
    5. Concepts of the battery, evenly, and with them styles: images can be judged by eye, and more
       pairs than two are worth no look where so little was tried. From here on nothing is clean.
    6. Classes as victims: what a class that is left out does is not known at all.
    """
    yield whole
    before = whole
    for plan in _steps(whole):
        if plan != before:
            yield plan
        before = plan


def _steps(whole: Plan) -> Iterator[Plan]:
    """Yield what a plan is cut to, one thing after the other."""
    budget, plan = whole.budget, whole
    for draws in (budget.draws // 2, 0):
        plan = replace(plan, budget=replace(plan.budget, draws=draws))
        yield plan
    for share in (2, 4):
        donors = math.ceil(budget.donors / share)
        plan = replace(plan, budget=replace(plan.budget, donors=donors))
        yield plan
    for screen in (LEAST_SCREEN + 1, LEAST_SCREEN):
        plan = replace(plan, screen=min(screen, whole.screen))
        yield plan
    # With many classes there are four times as many pairs to begin with.
    for share in (2, 4, 8, 16) if whole.victims > MOST_OF_ONE_KIND else (2, 4):
        rounds = _fewer(budget.rounds, share), _fewer(budget.style_rounds, share)
        plan = replace(plan, budget=replace(plan.budget, rounds=rounds[0], style_rounds=rounds[1]))
        yield plan
    plan = replace(plan, budget=replace(plan.budget, donors=0), looks=LEAST_PAIRS)
    for share in (2, 4, 8):
        plan = replace(plan, battery=math.ceil(whole.battery / share))
        yield plan
    pairs = min(plan.budget.rounds[0][0], LEAST_PAIRS)
    plan = replace(plan, budget=replace(plan.budget, rounds=((pairs, _LEAST_MOVES),)))
    yield plan
    while plan.victims > FEWEST_VICTIMS:
        plan = replace(plan, victims=max(plan.victims // 2, FEWEST_VICTIMS))
        yield plan


def _fewer(rounds: Rounds, share: int) -> Rounds:
    return tuple((max(pairs // share, 1), moves) for pairs, moves in rounds)


def spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """Return so many of a sequence, evenly spread, in its order; fewer are among more."""
    turns = [(place * _GOLDEN) % 1 for place in range(len(items))]
    chosen = sorted(range(len(items)), key=turns.__getitem__)[:count]
    return [items[place] for place in sorted(chosen)]
