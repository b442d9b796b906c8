"""K-ARM: a bandit shares few steps out among candidate pairs, and asks whether they are one-sided.

Shen, Liu, Tao, An, Xu, Cheng, Ma, Zhang: "Backdoor Scanning for Deep Neural Networks through K-Arm
Optimization", ICML 2021. In four parts, by the official code, K-ARM_Backdoor_Optimization of
PurduePAML on GitHub, and its fork of the same name of sunbing7, which differs in paths and guards:

1. Pre-screening, forward only (`prescreen`): a target is among the few likeliest classes of nearly
   all images, or of nearly all images of a victim.
2. Stamps of the candidates are optimised as in `inversion`, one step of one candidate at a time. A
   bandit chooses the one whose mask shrinks fastest and is smallest (`_choose`). Stamps between two
   classes have one colour and start from a square in the middle; the others start at random.
3. Symmetric check: victim and target change places, for as many steps. Natural pairs are about
   as easy in both directions.
4. A pair is flagged where its mask is under a bound and the way back takes over 10 times as much; a
   target of all classes where its mask is under a bound.

Bounds come from images of 224 x 224. Parameters:

- "paper": bounds are scaled by the number of pixels (1,720 of 50,176 are 35 of 1,024), and the
  square by the sides. Where the way back never works, its mask counts as the whole image.
- "published", as the fork ran on images of 32 x 32: bounds are not scaled, so that each target of
  all classes is flagged there; the square lies where it is in the middle of 224 x 224, so that
  small images start without one; a way back that never works has the size 1e10.

Preprocessing is the model's own in both. The fork gave unnormalised images to models that
were trained on normalised ones. That is a wrong use of them and no property of the method.

Budget: up to 96 clean images of each candidate, at most 300 steps of one batch of 32 in all, and
as many for the way back; in the official code a step is a pass over all images, and there are 1,000
of them. Where that counts, in giving up candidates, passes are counted here, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from onnx_soda._detect.baselines.base import Opinion
from onnx_soda._detect.baselines.gradients import GradientBaseline, SlopedSuspect, some_images
from onnx_soda._numbers import NamedPair
from onnx_soda._options import Progress
from onnx_soda._results import Column, Gallery, Table
from onnx_soda._suspect import FloatPixels, Suspect
from onnx_soda._words import pair_label

if TYPE_CHECKING:  # it imports torch
    from onnx_soda._detect.baselines.inversion import Arm, Recipe, Stamp

# Of the pre-screening: main.py's gamma, global_theta, local_theta; Arm_Pre_Screening.py's others.
_TOP_SHARE, OF_ALL, _OF_VICTIM = 0.25, 0.95, 0.9
_FEW_CLASSES, _TOP_OF_FEW = 8, 2
_LEAST_PROBABILITY = 1e-8
_MOST_VICTIMS = 3
# Images of each candidate, and steps of all of them.
_IMAGES, _STEPS, _BATCH = 96, 300, 32
# Of the bandit (main.py, K_Arm_Scanner.py): improvements of each arm before it chooses, share of
# choices that are random, weight of small masks, and the size that all arms are taken to start at.
_WARM, _RANDOM, _WEIGHT, _FIRST_SIZE = 2, 0.3, 1e4, 2500
_MOST_IMPROVEMENTS = 60
# A pair is given up after so many passes if fewer images ever turned; the way back after the last.
_HOPELESS = ((10, 1 / _BATCH), (20, 0.3), (200, 0.8))
_HOPELESS_BACK = ((200, 1.0),)
# Bounds of the mask in pixels of an image of 224 x 224, and of the ratio of both ways.
_PIXELS, _SIDE = 224 * 224, 224
_BOUND_ALL, _BOUND_PAIR, _RATIO = 1720.0, 1000.0, 10.0
_SQUARE = (87, 137)
# In the official code, the size of a mask that was never found.
_NEVER = 1e10
# Values that a mask starts with, inside the square and, at most, outside of it.
_INSIDE, _OUTSIDE = 0.99, 0.001
_SCORE = "how far within the bounds"
_NO_CANDIDATES = (
    "Pre-screening left no candidate: no class is among the likeliest ones of nearly all images, "
    "or of nearly all images of another class. So no stamp was optimised."
)


Hopeless = Sequence[tuple[int, float]]
"""Passes over the images, and shares of them under which a stamp is given up after so many."""


@dataclass(frozen=True)
class Candidates:
    """What pre-screening leaves.

    Attributes:
        universal: Class that all images may be turned into; None where there is none.
        pairs: For each other target its victims, the likeliest first; empty where there is a class
            for all images.
    """

    universal: int | None
    pairs: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


def prescreen(
    probabilities: NDArray[np.floating],
    top_share: float = _TOP_SHARE,
    of_all: float = OF_ALL,
    of_victim: float = _OF_VICTIM,
) -> Candidates:
    """Choose targets and their victims by what the model finds likely on clean images.

    Args:
        probabilities: Shape (images, classes).
        top_share: Share of the classes, the likeliest of an image, that count for it ("gamma"). Of
            8 classes or fewer the first two do.
        of_all: A class is a target of all where it counts for more than this share of the images,
            its own among them. If there are several the one that counts for most is.
        of_victim: Else a class is a target of a victim where it counts for this share of the images
            that the model gives to the victim.
    """
    counts, given = likeliest(probabilities, top_share), probabilities.argmax(axis=1)
    shares = counts.mean(axis=0)
    if shares.max() > of_all:
        return Candidates(int(shares.argmax()))
    sums: dict[int, dict[int, float]] = {}
    for victim in map(int, np.unique(given)):
        own = given == victim
        for target in map(int, np.flatnonzero(counts[own].mean(axis=0) >= of_victim)):
            seen = probabilities[own & counts[:, target], target]
            middle = np.quantile(seen, 0.5, method="lower")
            if target != victim and min(float(seen.sum()), float(middle)) > _LEAST_PROBABILITY:
                sums.setdefault(target, {})[victim] = float(seen.sum())
    return Candidates(None, {target: _most_likely(sums[target]) for target in sorted(sums)})


def likeliest(
    probabilities: NDArray[np.floating], top_share: float = _TOP_SHARE
) -> NDArray[np.bool_]:
    """Tell which classes count for which image, shape (images, classes); see `prescreen`."""
    classes = probabilities.shape[1]
    top = _TOP_OF_FEW if classes <= _FEW_CLASSES else round(top_share * classes)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    counts = np.zeros(probabilities.shape, bool)
    np.put_along_axis(counts, order[:, :top], True, axis=1)
    return counts


def _most_likely(victims: Mapping[int, float]) -> tuple[int, ...]:
    return tuple(sorted(victims, key=lambda victim: -victims[victim])[:_MOST_VICTIMS])


@dataclass(frozen=True)
class Bounds:
    """Under which sizes of masks, and over which ratio, a candidate is flagged.

    Attributes:
        all_classes: Pixels of a stamp for all classes.
        pair: Pixels of a stamp for a pair.
        ratio: Of the mask for the way back to the mask for the way there.
    """

    all_classes: float
    pair: float
    ratio: float = _RATIO

    def score(self, size: float, ratio: float | None) -> float:
        """Return how far within the bounds a stamp is: 1 on the nearer one, more within.

        Args:
            size: Of its mask.
            ratio: See `Bounds`; None for a stamp for all classes.
        """
        if ratio is None:
            return _times(self.all_classes, size)
        return min(_times(self.pair, size), ratio / self.ratio)


def _times(one: float, other: float) -> float:
    """Return how many times as large one size is as another, which may be 0."""
    return one / max(other, 1 / _NEVER)


def bounds_for(height: int, width: int, scaled: bool) -> Bounds:
    """Return the bounds for images of a size.

    Args:
        height: Pixels.
        width: Pixels.
        scaled: By the number of pixels; else as for 224 x 224.
    """
    factor = height * width / _PIXELS if scaled else 1.0
    return Bounds(_BOUND_ALL * factor, _BOUND_PAIR * factor)


def first_mask(
    height: int, width: int, scaled: bool, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the mask that a stamp for a pair starts from: a square, and next to nothing around it.

    Args:
        height: Pixels.
        width: Pixels.
        scaled: The square lies in the middle; else where the middle of 224 x 224 is, which smaller
            images do not have.
        rng: Draws what is around it.
    """
    mask = _OUTSIDE * rng.random((height, width))
    rows, columns = (
        slice(*(round(edge * side / _SIDE) if scaled else edge for edge in _SQUARE))
        for side in (height, width)
    )
    mask[rows, columns] = _INSIDE
    return mask


class KArm(GradientBaseline):
    """Optimises stamps for the pairs that look likeliest, and compares both directions."""

    name: ClassVar[str] = "k-arm"
    title: ClassVar[str] = "K-ARM"
    source: ClassVar[str] = "Shen et al., ICML 2021"

    def climb(self, suspect: Suspect, sloped: SlopedSuspect, progress: Progress) -> Opinion:
        """See `GradientBaseline.climb`."""
        logits = suspect.observe(suspect.sample, progress=progress).logits
        found = prescreen(softmax(logits.astype(np.float64), axis=1))
        return invert(suspect, sloped, found, progress)


def invert(
    suspect: Suspect, sloped: SlopedSuspect, found: Candidates, progress: Progress
) -> Opinion:
    """Return what stamps for some candidates say.

    Args:
        suspect: The classifier, with its clean images.
        sloped: The same in torch.
        found: The candidates, from `prescreen`.
        progress: Called as it goes on.
    """
    return _Search(suspect, sloped, progress).run(found)


class _Search:
    """Optimises the candidates of a suspect."""

    def __init__(self, suspect: Suspect, sloped: SlopedSuspect, progress: Progress) -> None:
        self._suspect, self._sloped, self._progress = suspect, sloped, progress
        self._scaled = suspect.options.parameters == "paper"
        self._rng = np.random.default_rng(suspect.options.seed)
        self._some = suspect.pixels(some_images(suspect, 1))
        height, width = self._some.shape[2:]
        self._bounds = bounds_for(height, width, self._scaled)

    def run(self, found: Candidates) -> Opinion:
        """Optimise, check the way back, and decide."""
        kept = {target: self._known(victims) for target, victims in found.pairs.items()}
        pairs = {target: victims for target, victims in kept.items() if victims}
        if found.universal is not None:
            pairs = {found.universal: ()}
        if not pairs:
            return Opinion("nothing flagged", (), 1.0, _SCORE, _NO_CANDIDATES)
        arms = {target: self._arm(target, pairs[target], _STEPS) for target in pairs}
        self._play(arms, _HOPELESS if found.universal is None else (), _STEPS)
        stamps = {target: arm.result() for target, arm in arms.items()}
        worked = [target for target in stamps if stamps[target].worked]
        best = min(worked, key=lambda target: stamps[target].size, default=None)
        ratio = None
        if best is not None and found.universal is None:
            ratio = self._ratio(stamps[best], pairs[best][0])
        return self._opinion(stamps, pairs, best, ratio)

    def _arm(self, target: int, victims: Sequence[int], steps: int) -> Arm:
        """Return a stamp to optimise; for all images where there are no victims."""
        from onnx_soda._detect.baselines.inversion import Arm

        height, width = self._some.shape[2:]
        channels = self._some.shape[1]
        if victims:
            mask = first_mask(height, width, self._scaled, self._rng)
            pattern = self._rng.random((channels, 1, 1))
        else:
            mask, pattern = (
                self._rng.random(shape) for shape in ((height, width), (channels, height, width))
            )
        return Arm(target, self._images(victims), mask, pattern, _recipe(steps, bool(victims)))

    def _known(self, labels: Sequence[int]) -> tuple[int, ...]:
        """Return the classes that there are images of."""
        return tuple(one for one in labels if len(some_images(self._suspect, 1, one)))

    def _images(self, victims: Sequence[int]) -> FloatPixels:
        if not victims:
            rows = some_images(self._suspect, _IMAGES)
        else:
            each = _IMAGES // len(victims)
            rows = np.concatenate([some_images(self._suspect, each, label) for label in victims])
        return self._suspect.pixels(self._rng.permutation(rows))

    def _play(self, arms: Mapping[int, Arm], hopeless: Hopeless, steps: int) -> None:
        """Do so many steps in all, each with the arm that the bandit chooses."""
        from onnx_soda._detect.baselines.inversion import advance

        bandit = _Bandit(arms, hopeless, self._rng)
        for step in range(steps):
            self._progress("steps of the bandit", step, steps)
            if bandit.arm is None:
                return
            advance(self._sloped, [arms[bandit.arm]])
            bandit.choose()

    def _ratio(self, stamp: Stamp, victim: int) -> float:
        """Return how many times as large the mask for the way back is."""
        never = float(stamp.mask.size) if self._scaled else _NEVER
        if not self._known((stamp.target,)):
            return _times(never, stamp.size)
        back = {victim: self._arm(victim, (stamp.target,), stamp.steps)}
        self._play(back, _HOPELESS_BACK, stamp.steps)
        found = back[victim].result()
        return _times(found.size if found.worked else never, stamp.size)

    def _opinion(
        self,
        stamps: Mapping[int, Stamp],
        pairs: Mapping[int, tuple[int, ...]],
        best: int | None,
        ratio: float | None,
    ) -> Opinion:
        names = self._suspect.clean.class_names if self._suspect.clean else None
        named: tuple[NamedPair, ...] = ()
        if best is not None:
            score = self._bounds.score(stamps[best].size, ratio)
            victims: tuple[int | None, ...] = pairs[best] or (None,)
            named = tuple(NamedPair(victim, best, score, score > 1) for victim in victims)
        flagged = any(pair.flagged for pair in named)
        return Opinion(
            outcome="flagged" if flagged else "nothing flagged" if named else "not optimised",
            named=named,
            threshold=1.0,
            score_is=_SCORE,
            statement=_statement(len(stamps), self._bounds, () in pairs.values(), ratio),
            details=_details(stamps, best, ratio, self._bounds),
            tables=(_table(stamps, pairs, names),),
            galleries=self._pictures(stamps, pairs, best, names),
        )

    def _pictures(
        self,
        stamps: Mapping[int, Stamp],
        pairs: Mapping[int, tuple[int, ...]],
        best: int | None,
        names: tuple[str, ...] | None,
    ) -> tuple[Gallery, ...]:
        from onnx_soda._detect.baselines.inversion import gallery

        if best is None:
            return ()
        shown = [(_pair_name(pairs[best], best, names), stamps[best])]
        text = "The candidate with the smallest mask: mask, stamp, and a clean image with it."
        return (gallery("Inverted stamp", text, shown, self._images(pairs[best])[:1]),)


def _recipe(steps: int, one_pair: bool) -> Recipe:
    """Return how the official code optimises: see main.py."""
    from onnx_soda._detect.baselines.inversion import Recipe

    stop_after = None if one_pair else 11  # "over 10", K_Arm_Scanner.py
    return Recipe(steps=steps, batch=_BATCH, good_steps=2, up=1.5, down=1.5, stop_after=stop_after)


class _Bandit:
    """Chooses whose turn it is (K_Arm_Scanner.py, `scanning`).

    Args:
        arms: The candidates.
        hopeless: See `Hopeless`.
        rng: For random choices.

    Attributes:
        arm: Whose turn it is; None where it is over.
    """

    def __init__(
        self, arms: Mapping[int, Arm], hopeless: Hopeless, rng: np.random.Generator
    ) -> None:
        self._arms, self._hopeless, self._rng = arms, hopeless, rng
        self._speed = dict.fromkeys(arms, -inf)
        self._seen = dict.fromkeys(arms, 0)
        self._over = set[int]()
        self.arm: int | None = next(iter(arms))

    def choose(self) -> None:
        """Choose again, after a step of the one whose turn it was."""
        if (now := self.arm) is None:
            return
        course = self._arms[now].course
        smaller = course.improvements > self._seen[now]
        self._seen[now] = course.improvements
        if smaller:
            shrunk = _FIRST_SIZE - course.size
            self._speed[now] = shrunk / (course.improvements + course.steps / 2)
        self._over |= self._ending(now)
        live = [arm for arm in self._arms if arm not in self._over]
        never = [arm for arm in live if not self._seen[arm]]
        if now in self._over:
            self.arm = never[0] if never else int(self._rng.choice(live)) if live else None
        elif smaller and self._seen[now] >= _WARM:
            cold = [arm for arm in live if self._seen[arm] < _WARM]
            self.arm = min(cold, key=self._seen.__getitem__) if cold else self._best(live)

    def _best(self, live: Sequence[int]) -> int:
        """Return the arm whose mask shrinks fastest and is smallest; sometimes any."""
        if self._rng.random() < _RANDOM:
            return int(self._rng.choice(live))
        sizes = {arm: self._arms[arm].course.size for arm in live}
        return max(live, key=lambda arm: self._speed[arm] + _times(_WEIGHT, sizes[arm]))

    def _ending(self, arm: int) -> set[int]:
        """Return the arms that end with this step: this one, or with it all."""
        course = self._arms[arm].course
        if course.improvements > _MOST_IMPROVEMENTS:
            smallest = min(other.course.size for other in self._arms.values())
            return set(self._arms) if course.size == smallest else {arm}
        passes = course.steps / self._arms[arm].batches
        given_up = any(passes > most and course.highest < share for most, share in self._hopeless)
        return {arm} if course.done or given_up else set()


def _pair_name(victims: Sequence[int], target: int, names: Sequence[str] | None) -> str:
    if not victims:
        return pair_label(None, target, names)
    return ", ".join(pair_label(victim, target, names) for victim in victims)


def _statement(candidates: int, bounds: Bounds, universal: bool, ratio: float | None) -> str:
    asked = f"under {bounds.all_classes:.0f} pixels for all classes"
    if not universal:
        here = "" if ratio is None else f" (here {ratio:.1f})"
        asked = (
            f"under {bounds.pair:.0f} pixels for a pair, and {bounds.ratio:.0f} times as large for "
            f"the way back{here}"
        )
    return (
        f"Pre-screening left {candidates} target classes, whose stamps were optimised in turn. The "
        f"smallest mask counts; it must be {asked}. Pre-screening loses targets that the model "
        "finds unlikely on clean images."
    )


def _details(
    stamps: Mapping[int, Stamp], best: int | None, ratio: float | None, bounds: Bounds
) -> Mapping[str, Any]:
    worked = {str(target): stamp.size for target, stamp in stamps.items() if stamp.worked}
    return {
        "candidates": sorted(stamps),
        "sizes": worked,
        "steps": {str(target): stamp.steps for target, stamp in stamps.items()},
        "best": best,
        "ratio": ratio,
        "bounds": {"all classes": bounds.all_classes, "pair": bounds.pair, "ratio": bounds.ratio},
    }


def _table(
    stamps: Mapping[int, Stamp], pairs: Mapping[int, tuple[int, ...]], names: Sequence[str] | None
) -> Table:
    measures = Column("pixels", "number"), Column("turned", "share"), Column("steps", "count")
    sizes = {target: stamp.size if stamp.worked else None for target, stamp in stamps.items()}
    return Table(
        "Candidates of K-ARM",
        "Size of the smallest mask that worked, empty where none did; steps that the bandit gave.",
        (Column("pair"), *measures),
        tuple(
            (_pair_name(pairs[target], target, names), sizes[target], stamp.highest, stamp.steps)
            for target, stamp in stamps.items()
        ),
    )
