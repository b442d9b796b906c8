"""What a search does in the time that it has: it measures, plans, and looks at the clock.

The time is an aim. How fast the changed model runs is measured on a few images, and the largest
plan that fits is taken; the whole one where it fits, never more. While the search goes on, `Pace`
tells whether there is time for what comes next.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from math import prod

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.sources import IntArray
from onnx_soda._detect.concepts.battery import Budget, concept_battery, varied
from onnx_soda._detect.concepts.examination import (
    PANEL_BYTES,
    Examination,
    Reader,
    count_by_fold,
)
from onnx_soda._detect.concepts.folds import FOLDS, LEAST_SCREEN, Folds
from onnx_soda._detect.concepts.layers import StyleLayer
from onnx_soda._detect.concepts.plan import (
    BESIDE,
    FEWEST_VICTIMS,
    Ground,
    Plan,
    kept_passes,
    planned_passes,
    plans,
    spread,
)
from onnx_soda._detect.concepts.probe import KEPT_BYTES, Probe, names_read
from onnx_soda._detect.concepts.styles import STRENGTHS
from onnx_soda._model.parts import share_behind
from onnx_soda._model.runtime import CPU, Meter
from onnx_soda._numbers import CoveredPart
from onnx_soda._results import Halted
from onnx_soda._suspect import READING, FloatPixels, Suspect, of_each_that_fit
from onnx_soda._words import duration

# Share of the time left that is planned. The rest is for looking closer at the pairs that deserve
# it, about a seventh of the whole search for each, and for a machine that gets slower.
PLANNED = 0.8
# Share of the time for the search that is kept for its end, at most. Where the end takes longer,
# something to look at is worth more than the looks.
_KEPT = 0.5
# Share of the memory for a batch that the images of the screen may take. What is read to look
# closer at pairs takes about as much again, and the batch its own.
SCREEN_MEMORY = 0.5
# Fewest images of each class and fold that reading features is cut to where it would take more than
# its share of the time left: with fewer, a reference head knows nothing.
FEWEST_FITTED = 8
# Images that the speed is measured on: about as many as a panel has.
TRIAL_IMAGES = 16
# Time to aim at for the whole beyond what it takes by what is known, as a factor, and the least
# step that it is rounded up to, as a share.
_SURELY, _STEP = 1.1, 0.1
# Share of the time left in which the speed is measured; less where it is so many times as fast as
# it has to be.
_MEASURING, _SURE = 0.02, 3
# Concepts of the battery that take turns then: some cost more than others.
_TRIED = 8
# Seconds from which on it is told what is going to be done.
_LONG = 60.0
# Images in a second from which on a figure behind the point says nothing.
_WHOLE_FIGURES = 10
# No work takes less, as far as the clock tells.
_TICK = 1e-6


@dataclass(frozen=True)
class Outlook:
    """A plan, and what it was made from.

    Attributes:
        plan: What is done.
        whole: What would be done with time enough.
        passes: Planned from here on.
        whole_passes: The same of the whole, as far as it fits into memory.
        before: Passes that there were before.
        rate: Images that go through the changed model in a second.
        gone: Seconds that were gone before.
        limit: Seconds that the scan aims at in all.
        unread: Images that there was no time to read features from.
        largest: What there is room for in memory; None where there is for the whole.
    """

    plan: Plan
    whole: Plan
    passes: int
    whole_passes: int
    before: int
    rate: float
    gone: float
    limit: float
    unread: int = 0
    largest: Plan | None = None

    @property
    def seconds(self) -> float:
        """Planned for the whole scan."""
        return self.gone + self.passes / self.rate

    @property
    def whole_seconds(self) -> float:
        """What the scan would take with time enough."""
        return self.gone + (self.whole_passes + self.unread) / self.rate

    @property
    def enough(self) -> int:
        """Seconds to aim at for the whole, in steps of half a minute or of about a tenth."""
        needed = self.gone + (self.whole_passes + self.unread) / self.rate / PLANNED
        step = 30
        while step < _STEP * needed:
            step *= 2
        return step * math.ceil(_SURELY * needed / step)

    def describe(self, suspect: Suspect) -> str:
        """Return a sentence on what is going to be done."""
        threads = suspect.options.runtime.thread_count
        on_cpu = suspect.body.providers[0] == CPU
        where = f"with {threads} thread{'s' * (threads > 1)}" if on_cpu else "on CUDA"
        told = (
            f"{suspect.model.file}, {suspect.classes} classes, {_figure(self.rate)} images/s "
            f"{where}: {self.passes:,} passes in about {duration(self.seconds)}"
        )
        return " ".join((f"{told}.", *self.left_out(), *self.advice()))

    def left_out(self) -> Iterator[str]:
        """Say what there is no time for, in words."""
        parts = replace(self, whole=self.largest or self.whole).parts()
        cut = [f"{part.name} ({part.done} of {part.whole})" for part in parts if part.cut]
        if cut:
            yield f"There is no time for all: {', '.join(cut)}."

    def advice(self, halted: bool = False) -> Iterator[str]:
        """Say what the whole takes, where it is not done.

        Args:
            halted: The time was over before what was planned was done.
        """
        if self.largest:
            yield (
                f"Memory has room for {self.largest.victims} of {self.whole.victims} classes as "
                f"victims, with {self.largest.screen} images of each class and half: for more, "
                "raise `memory_limit`."
            )
        if self.plan != (self.largest or self.whole):
            whole = f"The whole takes about {duration(self.whole_seconds)} here"
            yield f"{whole}: `time_limit={self.enough}`."
        elif halted:
            yield f"Give it more time: `time_limit={2 * math.ceil(self.limit)}`."

    def parts(self, concepts: int | None = None, styles: int | None = None) -> list[CoveredPart]:
        """Return what is done of each part of the whole.

        Args:
            concepts: Concepts that were tried; as planned where not given.
            styles: Styles that were tried; the same.
        """
        plan, whole = self.plan, self.whole
        tried = plan.concepts if concepts is None else concepts
        battery = min(tried, plan.battery)
        draws = min(tried - battery, plan.budget.draws)
        donors = plan.budget.donors
        # Each strength goes over all donors.
        styled = (plan.styles if styles is None else styles) - (len(STRENGTHS) - 1) * donors
        return [
            CoveredPart("classes as victims", plan.victims, whole.victims),
            CoveredPart("concepts of the battery", battery, whole.battery),
            CoveredPart("images of each class and half", plan.screen, whole.screen),
            CoveredPart("random concepts", draws, whole.budget.draws),
            CoveredPart(
                "images that styles are from", min(max(styled, 0), donors), whole.budget.donors
            ),
            CoveredPart("variations", tried - battery - draws, FOLDS * varied(whole.budget.rounds)),
            CoveredPart("pairs looked at", plan.looks, whole.looks),
        ]


def _figure(rate: float) -> str:
    return f"{rate:.0f}" if rate >= _WHOLE_FIGURES else f"{rate:.1f}"


def choose(ground: Ground, largest: Plan, most: float) -> Plan:
    """Return the largest plan that costs no more passes than there may be, or the least.

    Args:
        ground: What there is.
        largest: What is done where there is time.
        most: Passes.
    """
    *larger, least = plans(largest)
    return next((plan for plan in larger if planned_passes(plan, ground) <= most), least)


def in_memory(ground: Ground, whole: Plan, images: float) -> Plan:
    """Return as much of a plan as there is room for.

    Time would not help there: so images of the screen are given up, then victims, and nothing else.

    Args:
        ground: What there is.
        whole: What is done where there is room.
        images: Images that the screen may have.
    """
    plan = whole
    while ground.on_screen(plan) > images and plan.screen > LEAST_SCREEN:
        plan = replace(plan, screen=plan.screen - 1)
    over = ground.on_screen(plan) / max(images, 1)
    if over <= 1:
        return plan
    return replace(plan, victims=max(int(plan.victims / over), FEWEST_VICTIMS))


def thinned(folds: Folds, labels: IntArray, plan: Plan, rng: np.random.Generator) -> Folds:
    """Return folds with the images of the screen, and the classes, that a plan has.

    Args:
        folds: Of all classes.
        labels: Of their images.
        plan: What is done.
        rng: Draws the classes, those of a smaller plan among those of a larger one.
    """
    classes, others = rng.permutation(np.unique(labels)), np.unique(labels[folds.others])
    wanted: NDArray[np.bool_] = np.isin(labels, classes[: plan.victims])
    if plan.victims < len(classes):
        # Victims are looked at beside each other, and where they are few, beside further classes.
        others = classes[: min(max(plan.victims, 1 + BESIDE), len(others))]
    return replace(
        folds,
        confirm=folds.confirm & wanted,
        others=folds.confirm & np.isin(labels, others),
        search=folds.search & wanted,
        screen=folds.search & wanted & (folds.turn < plan.screen),
    )


def readable(suspect: Suspect, folds: Folds) -> Folds:
    """Return folds whose images the model reads in a share of the time; halved until it does.

    Args:
        suspect: The classifier; its speed is that with the first images.
        folds: Of all images.
    """
    rate = _rate(suspect, partial(suspect.observe, folds.rows[:TRIAL_IMAGES]))
    left = suspect.options.aim - suspect.stopwatch.seconds
    each = of_each_that_fit(
        int(folds.turn.max()) + 1,
        FEWEST_FITTED,
        READING * left * rate,
        lambda some: int((folds.turn < some).sum()),
    )
    return folds.of(folds.turn < each)


def _rate(suspect: Suspect, work: Callable[[], object]) -> float:
    """Return how many images go through the model in a second of some work."""
    begin, before = time.monotonic(), suspect.meter.passes
    work()
    return (suspect.meter.passes - before) / max(time.monotonic() - begin, _TICK)


def _speed(probe: Probe, suspect: Suspect, passes: int) -> float:
    """Return how many images go through the changed model in a second.

    Where so many passes surely fit, the first run tells enough. Otherwise it is a mean over a
    while: other programs may hold the machine at a moment.
    """
    changes = cycle(spread(concept_battery(probe.shape[0]), _TRIED))
    probe.flows(None)  # the first run is slower
    begin, before = time.monotonic(), suspect.meter.passes
    left = suspect.options.aim - suspect.stopwatch.seconds
    while True:
        probe.flows(next(changes))
        seconds = max(time.monotonic() - begin, _TICK)
        rate = (suspect.meter.passes - before) / seconds
        if seconds > _MEASURING * left or _SURE * passes < rate * left:
            return rate


class Pace:
    """Tells whether there is time for so many passes, by how fast they have been.

    Args:
        meter: Counts passes.
        rate: How many there are in a second, measured before.
        left: Seconds left.
    """

    def __init__(self, meter: Meter, rate: float, left: float) -> None:
        self._meter, self._first, self._rate = meter, meter.passes, rate
        self._begin, self._given = time.monotonic(), max(left, 0.0)
        self._end = self._begin + left

    @property
    def rate(self) -> float:
        """Images in a second, so far."""
        # What was measured before counts as the images that it was measured on.
        known = TRIAL_IMAGES / self._rate
        done = self._meter.passes - self._first
        return (TRIAL_IMAGES + done) / (known + time.monotonic() - self._begin)

    def affords(self, passes: float, most: float | None = None) -> bool:
        """Tell whether there is time for so many.

        Args:
            passes: How many.
            most: Share of the time that there was at first; no more is asked for, where given.
        """
        needed = passes / self.rate
        if most is not None:
            needed = min(needed, most * self._given)
        return time.monotonic() + needed <= self._end


@dataclass(frozen=True, eq=False)
class Ahead:
    """What is going to be done, and how much time there is.

    Attributes:
        outlook: The plan.
        pace: Tells whether there is time.
        kept: Passes that are kept for the end.
    """

    outlook: Outlook
    pace: Pace
    kept: int

    def counting(
        self, advance: Callable[[int, int], None] | None, before: int, total: int
    ) -> Callable[[int], None]:
        """Return what a search tells how many it has tried; it ends the search in time.

        Args:
            advance: Called with the number tried, and the number in all.
            before: Number tried by other searches.
            total: Number in all.
        """

        def count(tried: int) -> None:
            if not self.pace.affords(self.kept, _KEPT):
                raise Halted("aim")
            if advance:
                advance(before + tried, total)

        return count


def look_ahead(
    examination: Examination,
    reader: Reader,
    budget: Budget,
    style_layer: StyleLayer | None,
    unread: int,
) -> Ahead:
    """Measure how fast the changed model is, and plan; tell where it takes long.

    Args:
        examination: The classifier.
        reader: Of the images of all classes.
        budget: What is tried where there is time.
        style_layer: Where styles may be changed; None where the model has no such layer.
        unread: Images that there was no time to read features from.
    """
    suspect, folds = examination.suspect, reader.folds
    trial = reader.read(folds.screen & (folds.screen.cumsum() <= TRIAL_IMAGES))
    probe = examination.probe(trial.by_class(trial.present))
    ground = _survey(examination, reader, trial.pixels, style_layer)
    whole = ground.whole(budget, int(folds.turn[folds.screen].max()) + 1)
    limit = suspect.options.aim
    rate = _speed(probe, suspect, planned_passes(whole, ground))
    gone = suspect.stopwatch.seconds
    room = SCREEN_MEMORY * suspect.options.runtime.memory_limit / trial.pixels[0].nbytes
    largest = in_memory(ground, whole, room)
    plan = choose(ground, largest, PLANNED * (limit - gone) * rate)
    outlook = Outlook(
        plan,
        whole,
        planned_passes(plan, ground),
        planned_passes(largest, ground),
        suspect.meter.passes,
        rate,
        gone,
        limit,
        unread,
        largest if largest != whole else None,
    )
    if plan != whole or outlook.seconds > _LONG:
        suspect.progress(outlook.describe(suspect), 0, 0)
    pace = Pace(suspect.meter, rate, limit - gone)
    return Ahead(outlook, pace, kept_passes(plan, ground))


def _survey(
    examination: Examination, reader: Reader, pixels: FloatPixels, style_layer: StyleLayer | None
) -> Ground:
    folds, labels = reader.folds, reader.labels
    present, place = np.unique(labels[folds.rows], return_inverse=True)

    def count(chosen: NDArray[np.bool_]) -> IntArray:
        return count_by_fold(place[chosen], folds.fold[chosen], len(present))

    search, kept = count(folds.search), PANEL_BYTES // pixels[0].nbytes
    ground = Ground(search, count(folds.confirm), pixels.shape[1], style_layer is not None, kept)
    if style_layer is None:
        return ground
    view = examination.suspect.anatomy.view
    layer = view.values[style_layer.name]
    share = share_behind(view, layer, names_read(examination.suspect, examination.heads))
    sizes = view.shape(layer) or ()
    each = pixels.itemsize * prod(size or 1 for size in sizes[1:])
    return replace(ground, style_pass=share, halves=KEPT_BYTES // each)
