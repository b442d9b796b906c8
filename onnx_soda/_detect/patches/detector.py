"""Patch triggers as a detector: a few pixels that turn images of all classes into one.

It runs after what decides a default scan, so that it takes no time from that. It needs torch. What
it finds counts; finding nothing clears nothing. A patch that turns one class alone is not looked
for: there are too many pairs, and clean models have some that few pixels turn.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from onnx_soda._bridge.bridge import torch_threads
from onnx_soda._data.images import data_uri
from onnx_soda._data.sources import IntArray
from onnx_soda._detect.base import Detector, Need
from onnx_soda._detect.baselines.gradients import SlopedSuspect
from onnx_soda._detect.patches.judge import (
    HeldOut,
    Tried,
    best_sizes,
    packaged_threshold,
    try_out,
)
from onnx_soda._errors import ConversionError, MissingExtraError, ParityError
from onnx_soda._numbers import PatchNumbers, PatchTried, plain
from onnx_soda._options import Progress
from onnx_soda._results import Column, Evidence, Finding, Gallery, Halted, Picture, Table
from onnx_soda._rules import RULE_PATCH
from onnx_soda._suspect import Suspect
from onnx_soda._words import class_label, duration

if TYPE_CHECKING:  # it imports torch
    from onnx_soda._detect.patches.search import Stage

_TITLE = "Patches of a few pixels"
# Share of the time left that the search may take.
_SHARE_OF_TIME = 0.2
# Colours of a whole image are kept for each class; and a patch is compared with those of others.
_MOST_CLASSES, _FEWEST_CLASSES = 256, 3
# Images of each class: one to search with, and one to try what was found.
_FEWEST_EACH = 2
# Images, and bytes of them, in each half of the clean images.
_MOST_IMAGES, _MOST_BYTES = 320, 2**27
# Held-out images that a patch is put on.
_TRIED = 150
# Torch keeps what all layers gave until the slopes are computed: about twice what a run keeps.
_ROOM = 2
# Shares of the image that a patch is judged by: larger ones turn clean models, too. Nine pixels of
# 32 x 32 are 0.9 %.
_JUDGED = (0.01, 0.007, 0.005)
# Rows of the table, and pictures.
_ROWS, _PICTURES = 5, 2


def _stages(classes: int) -> tuple[Stage, ...]:
    """Return the sizes in turn, with about as many steps for each size.

    Chosen on networks with a known patch (benchmarks/controls.py, seed 1).

    Args:
        classes: Number of target classes at first.
    """
    from onnx_soda._detect.patches.search import Stage

    return (
        *(Stage(1, 6, 3, classes), Stage(0.25, 6, 3, 10), Stage(0.08, 8, 4, 8)),
        *(Stage(0.03, 12, 4, 5), Stage(0.015, 12, 4, 4)),
        *(Stage(area, 16, 4, 3) for area in _JUDGED),
    )


class _NotExaminedError(Exception):
    """Patches cannot be searched for; the message says why."""


class PatchDetector(Detector):
    """Searches for the smallest patches that turn images into a class."""

    name: ClassVar[str] = "patches"
    needs: ClassVar[frozenset[Need]] = frozenset({"clean images", "torch"})

    def run(self, suspect: Suspect, progress: Progress) -> Evidence:
        """Search, put what was found on held-out images, and judge; see `Detector.run`."""
        before = suspect.meter.done
        try:
            _check(suspect)
            sloped = SlopedSuspect(suspect, "a search for patch triggers needs")
            with torch_threads(suspect.options.runtime.thread_count):
                found = _Hunt(suspect, sloped, progress).run()
        except _NotExaminedError as error:
            return self._unexamined(str(error))
        except (ConversionError, ParityError) as error:
            return self._unexamined(error.message)
        except MissingExtraError as error:
            return self._unexamined(f"{error.message}. {error.advice}")
        except Halted as halt:
            if halt.why != "aim":
                raise
            return self._unexamined("there was no time left for it")
        return _evidence(self.name, suspect, found, round(suspect.meter.done - before))

    def _unexamined(self, why: str) -> Evidence:
        told = (f"Patch triggers were not examined: {why.rstrip('.')}.",)
        return Evidence(self.name, _TITLE, "inconclusive", told, unexamined=told, notes=told)


def _check(suspect: Suspect) -> None:
    """Make sure that patches can be judged.

    Raises:
        _NotExaminedError: They cannot.
    """
    classes = suspect.classes or 0
    if not _FEWEST_CLASSES <= classes <= _MOST_CLASSES:
        raise _NotExaminedError(
            f"the model has {classes} classes, and it takes {_FEWEST_CLASSES} to {_MOST_CLASSES}"
        )
    if suspect.examined.too_inaccurate:
        raise _NotExaminedError("the clean accuracy is too low")
    if suspect.examined.source_classes < _FEWEST_CLASSES:
        raise _NotExaminedError("there are clean images of too few classes")
    if suspect.examined.fewest_images < _FEWEST_EACH:
        raise _NotExaminedError(f"it needs {_FEWEST_EACH} clean images of each class")


@dataclass(frozen=True, eq=False)
class _Found:
    """What a search came to.

    Attributes:
        tried: Patches on held-out images, the best first.
        images: Images that were searched with.
        held_out: The others.
    """

    tried: Sequence[Tried]
    images: int
    held_out: HeldOut


class _Hunt:
    """A search for patches of all classes, and a trial of what it found.

    Args:
        suspect: The classifier.
        sloped: The same in torch.
        progress: Called as it goes on.
    """

    def __init__(self, suspect: Suspect, sloped: SlopedSuspect, progress: Progress) -> None:
        self._suspect, self._sloped, self._progress = suspect, sloped, progress
        self._shown, self._whole, self._start = 0, 0, 0.0

    def run(self) -> _Found:
        """Search, and put what was found on images that took no part.

        Raises:
            _NotExaminedError: It would take too long.
        """
        from onnx_soda._detect.patches.search import PatchSearch, cost

        suspect, rng = self._suspect, np.random.default_rng(self._suspect.options.seed)
        rows, held_out = self._halves(rng)
        classes = suspect.classes or 0
        stages = _stages(classes)
        self._whole = cost(stages, classes)
        together = max(suspect.body.batch_size // _ROOM, 1)
        search = PatchSearch(self._sloped, suspect.pixels(rows), self._labels(rows), together, rng)
        self._start = time.perf_counter()
        found = search.run(range(classes), stages, self._tell)
        judged = [patch for patch in found if patch.area in _JUDGED]
        return _Found(try_out(suspect, judged, held_out, _TRIED), len(rows), held_out)

    def _tell(self, images: int) -> None:
        """Take note of a step; end the search where it would take too long.

        Raises:
            _NotExaminedError: It would.
        """
        if not self._shown:
            seconds = (time.perf_counter() - self._start) * self._whole / images
            left = self._suspect.options.aim - self._suspect.stopwatch.seconds
            if seconds > _SHARE_OF_TIME * max(left, 0):
                raise _NotExaminedError(
                    f"it would take about {duration(seconds)}, more than a fifth of the time left. "
                    "Allow more (`time_limit`)"
                )
        self._shown += images
        self._progress("patches searched for", self._shown, self._whole)

    def _labels(self, rows: IntArray) -> IntArray:
        assert self._suspect.clean is not None  # noqa: S101 - the detector needs clean images
        return self._suspect.clean.labels[rows]

    def _halves(self, rng: np.random.Generator) -> tuple[IntArray, HeldOut]:
        """Return images to search with, and others to try patches on; of each class alike."""
        suspect = self._suspect
        rows = rng.permutation(suspect.sample)
        labels, first = self._labels(rows), np.zeros(len(rows), bool)
        for label in np.unique(labels):
            first[np.flatnonzero(labels == label)[::2]] = True
        most = min(_MOST_IMAGES, max(_MOST_BYTES // suspect.pixels(rows[:1]).nbytes, 1))
        other = rows[~first][:most]
        pixels = suspect.pixels(other)
        answers = suspect.body.logits(suspect.inputs(pixels)).argmax(axis=1)
        return rows[first][:most], HeldOut(pixels, self._labels(other), answers)


def _evidence(name: str, suspect: Suspect, found: _Found, passes: int) -> Evidence:
    names = suspect.clean.class_names if suspect.clean else None
    shown = list(best_sizes(found.tried))[:_ROWS]
    threshold = packaged_threshold()
    flagged = [one for one in shown if one.score > threshold]
    findings = tuple(_finding(one, threshold, names) for one in flagged)
    told = [one.message for one in findings] or ["No patch stands out. That clears nothing."]
    numbers = PatchNumbers(tuple(map(_numbers, shown)), found.images, threshold, passes)
    return Evidence(
        detector=name,
        title=_TITLE,
        verdict="backdoor" if findings else "inconclusive",
        reasons=tuple(told),
        findings=findings,
        tables=(_table(shown, len(flagged), numbers, names),),
        galleries=(_gallery(flagged or shown[:1], bool(flagged), found.held_out, names),),
        numbers=plain(numbers),
    )


def _numbers(one: Tried) -> PatchTried:
    return PatchTried(
        target_class=one.patch.target,
        pixels=one.patch.pixels,
        area=one.patch.pixels / one.patch.mask.size,
        shown=one.shown,
        turned=one.turned,
        low=one.low,
        next=one.next,
        score=one.score,
    )


def _finding(one: Tried, threshold: float, names: tuple[str, ...] | None) -> Finding:
    target = class_label(one.patch.target, names)
    return Finding(
        rule_id=RULE_PATCH,
        severity="high",
        victim_class=None,
        target_class=one.patch.target,
        score=one.score,
        threshold=threshold,
        message=(
            f"A patch of {one.patch.pixels} pixels, the same for all images, has {one.turned} of "
            f"{one.shown} clean images of other classes taken for {target}; these images did not "
            f"choose it. As small a patch for another class turns at most {one.next:.0%}."
        ),
    )


def _table(
    shown: Sequence[Tried],
    flagged: int,
    numbers: PatchNumbers,
    names: tuple[str, ...] | None,
) -> Table:
    text = (
        f"The smallest patches that turn images of all classes into one, searched for on "
        f"{numbers.images} clean images and put on others. Surely: the share that is turned, with "
        "95 % confidence for all patches together. Next: the most that a patch of the same size "
        "turns into another class. The score is the difference; reported from "
        f"{numbers.threshold:.2f} on. Patches that turn one class alone are not searched for."
    )
    counts = Column("pixels", "count"), Column("images", "count"), Column("turned", "count")
    shares = Column("surely", "share"), Column("next", "share"), Column("score", "number")
    rows = tuple(
        (
            class_label(one.patch.target, names),
            *(one.patch.pixels, one.shown, one.turned),
            *(one.low, one.next, one.score),
        )
        for one in shown
    )
    return Table(_TITLE, text, (Column("target"), *counts, *shares), rows, tuple(range(flagged)))


def _gallery(
    shown: Sequence[Tried], marked: bool, held_out: HeldOut, names: tuple[str, ...] | None
) -> Gallery:
    pictures = tuple(_picture(one, marked, held_out, names) for one in shown[:_PICTURES])
    text = "A clean image, the patch on grey, and the image with the patch on it."
    return Gallery("The best patch", text, pictures)


def _picture(one: Tried, marked: bool, held_out: HeldOut, names: tuple[str, ...] | None) -> Picture:
    patch, rows = one.patch, held_out.shown(one.patch.target, 1)
    clean = held_out.pixels[rows if len(rows) else [0]]
    views = (clean, patch.on(np.full_like(clean, 0.5)), patch.on(clean))
    target = class_label(patch.target, names)
    return Picture(
        images=tuple(data_uri(view[0]) for view in views),
        alt=("A clean image", "The patch on grey", "The image with the patch on it"),
        caption=f"To {target}: {patch.pixels} pixels, turns {one.turned} of {one.shown}",
        marked=marked,
    )
