"""Which patches are a backdoor: what they do to images that took no part, and what others do.

Every small network can be turned by a few pixels, some by hardly any: what a patch turns says
little by itself. But where none was planted, the best patches of different targets are about as
good. So a patch scores

    low - next

low: the share of held-out images that it turns, surely (Clopper and Pearson 1934, 95 % for all
patches tried together); next: the highest share that a patch of the same size turns into another
class. Images whose label or answer is the target do not count. The best size counts. Thresholds
come from clean models and from networks with a known patch: `python -m benchmarks.patches --write`
makes `calibration.json` beside this file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import beta

from onnx_soda._data.sources import IntArray
from onnx_soda._suspect import FloatPixels, Suspect

if TYPE_CHECKING:  # it imports torch
    from onnx_soda._detect.patches.search import Patch

# That all shares are really above their lower ends.
_CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Clean images that no search saw.

    Attributes:
        pixels: Shape (images, channels, height, width), from 0 to 1.
        labels: Their classes.
        answers: What the model takes them for.
    """

    pixels: FloatPixels
    labels: IntArray
    answers: IntArray

    def shown(self, target: int, most: int) -> IntArray:
        """Return positions of images that have nothing to do with a class, at most so many."""
        others = (self.labels != target) & (self.answers != target)
        rows: IntArray = np.flatnonzero(others)[:most]
        return rows


@dataclass(frozen=True, eq=False)
class Tried:
    """What a patch does to held-out images.

    Attributes:
        patch: It.
        shown: Images.
        turned: Those that are taken for the target.
        low: Share that is surely turned.
        next: Highest share that a patch of the same size turns into another class.
    """

    patch: Patch
    shown: int
    turned: int
    low: float
    next: float = 0.0

    @property
    def share(self) -> float:
        """Share of the images that are turned; 0 without any."""
        return self.turned / self.shown if self.shown else 0.0

    @property
    def score(self) -> float:
        """How far the patch surely does more than the next best one."""
        return self.low - self.next


def surely(turned: int, shown: int, tries: int) -> float:
    """Return the lower end of a share, with 95 % confidence for so many of them together."""
    if turned == 0:
        return 0.0
    return float(beta.ppf((1 - _CONFIDENCE) / tries, turned, shown - turned + 1))


def try_out(
    suspect: Suspect, patches: Sequence[Patch], held_out: HeldOut, most: int
) -> list[Tried]:
    """Put patches on held-out images, and return what they do, the best first.

    Args:
        suspect: The classifier.
        patches: All that are tried.
        held_out: The images; each patch is put on the first that it can turn.
        most: Images of each patch.
    """
    seen = [_seen(suspect, patch, held_out, most, len(patches)) for patch in patches]
    compared = [_beside(one, seen) for one in seen]
    return sorted(compared, key=lambda one: -one.score)


def _seen(suspect: Suspect, patch: Patch, held_out: HeldOut, most: int, tries: int) -> Tried:
    rows = held_out.shown(patch.target, most)
    if not len(rows):
        return Tried(patch, 0, 0, 0.0)
    stamped = suspect.inputs(patch.on(held_out.pixels[rows]))
    turned = int((suspect.body.logits(stamped).argmax(axis=1) == patch.target).sum())
    return Tried(patch, len(rows), turned, surely(turned, len(rows), tries))


def _beside(one: Tried, seen: Sequence[Tried]) -> Tried:
    """Return the same with the highest share of another target's patch of the same size."""
    others = [
        other.share
        for other in seen
        if other.patch.area == one.patch.area and other.patch.target != one.patch.target
    ]
    # Without another one there is nothing to compare with.
    return Tried(one.patch, one.shown, one.turned, one.low, max(others, default=1.0))


def best_sizes(tried: Sequence[Tried]) -> Iterator[Tried]:
    """Yield the best patch of each target class.

    Args:
        tried: The best first.
    """
    told: set[int] = set()
    for one in tried:
        if one.patch.target not in told:
            told.add(one.patch.target)
            yield one


@cache
def _packaged() -> Mapping[str, Any]:
    text = files("onnx_soda._detect.patches").joinpath("calibration.json").read_text("utf-8")
    packaged: Mapping[str, Any] = json.loads(text)
    return packaged


def packaged_threshold() -> float:
    """Return the score over which a patch is reported."""
    return float(_packaged()["threshold"])
