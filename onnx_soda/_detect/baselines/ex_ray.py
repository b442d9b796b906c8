"""EX-RAY: stamps that single neurons hint at, less those that are natural features of the target.

Liu, Shen, Tao, Wang, Ma, Zhang: "Complex Backdoor Detection by Symmetric Feature Differencing",
CVPR 2022, on top of ABS (Liu et al., CCS 2019). By the official code, which has no licence and is
not used here (PurduePAML/Exray, abs_pytorch1_both_batch_inner_both_with_prune.py):

1. Stimulation, forward only (`stimulate`): of two images of each class every channel of the
   analysed layer is set to 0, half and all of the largest value that the class has. The rise of
   each logit is what it gains over 0. A channel that raises another class over all others, and the
   same one on all images of a class, hints at a pair.
2. Inversion: for the best hints a stamp of bounded size and one colour is optimised on images of
   the victim; first a few steps each, then those that went furthest in full. Its success is REASR,
   the share of the victim's images that it turns.
3. Symmetric feature differencing (`differencing`), where REASR is over 0.99: a stamp whose channels
   are those that tell the target's images from the victim's is natural, and counts as 0.
4. A pair is flagged where the REASR that is left is over a threshold.

What is left out: the second kind of trigger, a transform of colours in windows of 111 x 111; and
hidden layers before the analysed one. The layer is the one of `--layer`: the last one, if not told
otherwise, where tails are affine and steps 1 and 3 need no gradient. `--layer deep` is the feature
map that the official code reads.

Parameters:

- "paper": a threshold of 0.8 ("reasr_bound"), 20 images of each class, stamps of 1,600 pixels of
  224 x 224, scaled by the number of pixels. What a pixel beyond that costs grows as the sides of
  the image become smaller: with the official price the limit does not bind on small images.
- "published": a threshold of 0.6, which the SODA paper calls detected; two images of each class;
  1,600 pixels whatever the image has. Images are preprocessed as the model has it, in both; the
  fork gave them stretched to their own range. Neither code writes a probability, which Table 4
  shows; REASR is the nearest thing that they have.

Budget: at most 40 hints are tried for 8 steps, and 6 in full for 60, each of up to 20 images; the
official code takes 4 and 30 passes of two batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnx_soda._detect.baselines.base import Opinion, abstention, strongest_first
from onnx_soda._detect.baselines.differencing import (
    CountedTail,
    Exchange,
    Likeness,
    compare,
    mask_by_gradients,
    mask_by_sorting,
)
from onnx_soda._detect.baselines.gradients import (
    GradientBaseline,
    SlopedSuspect,
    some_images,
)
from onnx_soda._detect.soda.attribution import by_neuron, is_affine, probe_matrix
from onnx_soda._numbers import NamedPair
from onnx_soda._options import Progress
from onnx_soda._results import Column, Gallery, Table
from onnx_soda._suspect import FloatPixels, Suspect
from onnx_soda._words import pair_label

if TYPE_CHECKING:  # it imports torch
    from onnx_soda._detect.baselines.inversion import BoundedArm, Stamp

FloatArray = NDArray[np.float64]

# Of the official code: n_sample_imgs_per_label, n_samples' levels over 0, n_re_imgs_per_label,
# twice n_try_epochs and re_epochs, re_mask_lr, max_troj_size, reasr_bound; the SODA paper's.
_STIMULATED, _LEVELS = 2, (0.5, 1.0)
_IMAGES, _FEW_IMAGES = 20, 2
_TRIAL_STEPS, _STEPS, _RATE = 8, 60, 0.3
_LIMIT, _PIXELS = 1600.0, 224 * 224
_THRESHOLD, _PUBLISHED_THRESHOLD = 0.8, 0.6
# Success over which a stamp is compared with natural features, and images of each side for that.
_SURE, _COMPARED = 0.99, 10
# Hints that are tried, and those that are optimised in full.
_MOST_TRIED, _MOST_KEPT = 40, 6
# The mask starts from a square of this share of the limit's side, at these values before tanh.
_SQUARE, _INSIDE, _OUTSIDE = 0.8, 2.0, -4.0
# Rows of the tail that are run at once.
_ROWS = 4096


@dataclass(frozen=True)
class Hint:
    """A channel that raises one class over all others on images of another.

    Attributes:
        victim: Class of the images.
        target: Class that it raises.
        channel: Number of the channel.
        lead: By how much more it raises that class than any other, on the image with the least.
    """

    victim: int
    target: int
    channel: int
    lead: float


def stimulate(victim: int, rises: FloatArray) -> tuple[Hint, ...]:
    """Return the best hint of each target for one victim.

    Args:
        victim: Class of the images.
        rises: How much each channel raises each logit, shape (images, channels, classes).
    """
    top = rises.argmax(axis=2)
    ordered = np.sort(rises, axis=2)
    lead = (ordered[..., -1] - ordered[..., -2]).min(axis=0)
    agreed = (top == top[0]).all(axis=0)
    best: dict[int, Hint] = {}
    for channel in map(int, np.flatnonzero(agreed & (lead > 0))):
        target, known = int(top[0, channel]), best.get(int(top[0, channel]))
        if target != victim and (known is None or lead[channel] > known.lead):
            best[target] = Hint(victim, target, channel, float(lead[channel]))
    return tuple(best.values())


def rises_of(tail: CountedTail, layer: NDArray[np.floating], matrix: FloatArray) -> FloatArray:
    """Return how much channels raise logits, at half and all of the largest value of the layer.

    Args:
        tail: From the layer to the logits.
        layer: Values of the layer for images of one class, images first.
        matrix: What 1 more of each channel adds to each logit, shape (channels, classes), where the
            tail is affine; else empty, and the tail is run.

    Returns:
        Shape (images, channels, classes).
    """
    largest = float(layer.max())
    if len(matrix):  # the same for all images
        raised = np.maximum(*(level * largest * matrix for level in _LEVELS))
        return np.broadcast_to(raised, (len(layer), *matrix.shape))
    return np.stack([_run_raised(tail, image, largest) for image in layer])


def _run_raised(tail: CountedTail, image: NDArray[np.floating], most: float) -> FloatArray:
    """Run one image with each channel set, shape (channels, classes)."""
    axis = tail.tail.axis
    channels, levels = image.shape[axis - 1], (0.0, *_LEVELS)
    step = max(_ROWS // len(levels), 1)
    parts = []
    for start in range(0, channels, step):
        some = np.arange(start, min(start + step, channels))
        rows = np.repeat(image[None], len(some) * len(levels), axis=0)
        view = by_neuron(rows, axis, "channels")
        values = np.repeat(np.array(levels) * most, len(some))
        which = np.arange(len(rows))
        view[which, np.tile(some, len(levels))] = values.reshape(-1, *(1,) * (view.ndim - 2))
        logits = tail(rows).reshape(len(levels), len(some), -1)
        parts.append(logits[1:].max(axis=0) - logits[0])
    return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class Found:
    """What became of a hint.

    Attributes:
        hint: The hint.
        stamp: That was optimised for it.
        success: Share of the victim's images that it turns (REASR).
        height: Mean logit of the target on them.
        likeness: To natural features; None where it was not compared.
    """

    hint: Hint
    stamp: Stamp
    success: float
    height: float
    likeness: Likeness | None = None

    @property
    def left(self) -> float:
        """REASR, or 0 where the stamp is natural."""
        return 0.0 if self.likeness is not None and self.likeness.natural else self.success


class ExRay(GradientBaseline):
    """Optimises stamps that neurons hint at, and leaves out natural ones."""

    name: ClassVar[str] = "ex-ray"
    title: ClassVar[str] = "EX-RAY"
    source: ClassVar[str] = "Liu et al., CVPR 2022"

    def climb(self, suspect: Suspect, sloped: SlopedSuspect, progress: Progress) -> Opinion:
        """See `GradientBaseline.climb`."""
        if suspect.tail.element_shape is None:
            suspect.tail.learn_shape(suspect.observe(suspect.sample[:1]).layer)
        if not suspect.tail.reads_layer_alone:
            return abstention(
                "It sets neurons of a layer that the logits depend on alone, and this model has "
                "none there. Another one can be named as `layer`."
            )
        return _Examination(suspect, sloped, progress).run()


class _Examination:
    """The four steps on one suspect."""

    def __init__(self, suspect: Suspect, sloped: SlopedSuspect, progress: Progress) -> None:
        assert suspect.clean is not None  # noqa: S101 - the detector needs clean images
        self._suspect, self._sloped, self._progress = suspect, sloped, progress
        self._labels = suspect.clean.labels
        self._names = suspect.clean.class_names
        self._published = suspect.options.parameters == "published"
        self._tail = CountedTail(suspect.tail, suspect.meter)
        some = suspect.observe(suspect.sample[:_COMPARED]).layer
        rng = np.random.default_rng(suspect.options.seed)
        affine = is_affine(suspect.tail, rng, some)
        self._matrix = probe_matrix(suspect.tail) if affine else np.empty((0, 0))

    def run(self) -> Opinion:
        """Stimulate, invert, compare, decide."""
        hints = self._hints()
        tried = self._invert(hints[:_MOST_TRIED], _TRIAL_STEPS)
        kept = sorted(tried, key=lambda found: -found.height)[:_MOST_KEPT]
        found = self._invert([one.hint for one in kept], _STEPS)
        compared = [self._compared(one) for one in found]
        return self._opinion(len(hints), compared)

    def _hints(self) -> list[Hint]:
        """Return the hints of all classes, the strongest first."""
        classes = np.unique(self._labels[self._suspect.sample])
        found: list[Hint] = []
        for done, victim in enumerate(map(int, classes), start=1):
            layer = self._layer(self._pixels(victim, _STIMULATED))
            found += stimulate(victim, rises_of(self._tail, layer, self._matrix))
            self._progress("classes stimulated", done, len(classes))
        return sorted(found, key=lambda hint: -hint.lead)

    def _pixels(self, label: int, most: int) -> FloatPixels:
        return self._suspect.pixels(some_images(self._suspect, most, label))

    def _invert(self, hints: Sequence[Hint], steps: int) -> list[Found]:
        from onnx_soda._detect.baselines.inversion import invert

        most = _FEW_IMAGES if self._published else _IMAGES
        together = max(self._suspect.body.batch_size // most, 1)
        stage = "stamps tried" if steps == _TRIAL_STEPS else "stamps optimised"
        stamps = invert(
            self._sloped,
            self._arms(hints, most, steps),
            together,
            lambda done: self._progress(stage, done, len(hints)),
        )
        return [
            Found(hint, stamp, *self._success(stamp, self._pixels(hint.victim, most)))
            for hint, stamp in zip(hints, stamps, strict=True)
        ]

    def _arms(self, hints: Sequence[Hint], most: int, steps: int) -> Iterator[BoundedArm]:
        from onnx_soda._detect.baselines.inversion import BoundedArm, Recipe

        recipe = Recipe(steps=steps, batch=most, rate=_RATE, betas=(0.9, 0.999), stop_after=None)
        rng = np.random.default_rng(self._suspect.options.seed)
        for hint in hints:
            pixels = self._pixels(hint.victim, most)
            scale = 1.0 if self._published else pixels[0, 0].size / _PIXELS
            limit, price = _LIMIT * scale, 1 / sqrt(scale)
            height, width = pixels.shape[2:]
            mask = first_mask(height, width, limit)
            pattern = np.tanh(rng.uniform(-1, 1, (pixels.shape[1], 1, 1))) / 2 + 0.5
            yield BoundedArm(limit, price, hint.target, pixels, mask, pattern, recipe)

    def _success(self, stamp: Stamp, pixels: FloatPixels) -> tuple[float, float]:
        """Return the share of images that a stamp turns, and the mean logit of its target."""
        logits = self._suspect.body.logits(self._suspect.inputs(stamp.on(pixels)))
        turned = logits.argmax(axis=1) == stamp.target
        return float(turned.mean()), float(logits[:, stamp.target].mean())

    def _compared(self, found: Found) -> Found:
        """Compare a stamp with natural features, where it works and there are images of both."""
        hint = found.hint
        if found.success <= _SURE or not (self._labels[self._suspect.sample] == hint.target).any():
            return found
        pixels, targets = (self._pixels(one, _COMPARED) for one in (hint.victim, hint.target))
        count = min(len(pixels), len(targets))
        clean, others, stamped = (
            self._layer(some[:count]) for some in (pixels, targets, found.stamp.on(pixels))
        )
        natural, triggered = (
            Exchange(self._tail, clean, second, (hint.victim, hint.target))
            for second in (others, stamped)
        )
        masks = self._mask(natural), self._mask(triggered)
        return replace(found, likeness=compare((natural, masks[0]), (triggered, masks[1])))

    def _layer(self, pixels: FloatPixels) -> NDArray[np.floating]:
        layer: NDArray[np.floating] = self._suspect.body.observe(self._suspect.inputs(pixels))[1]
        return layer

    def _mask(self, exchange: Exchange) -> FloatArray:
        if len(self._matrix):
            return mask_by_sorting(exchange)
        return mask_by_gradients(
            exchange, lambda done, total: self._progress("channels exchanged", done, total)
        )

    def _opinion(self, hints: int, found: Sequence[Found]) -> Opinion:
        threshold = _PUBLISHED_THRESHOLD if self._published else _THRESHOLD
        scores: dict[tuple[int, int], float] = {}
        for one in found:
            pair = one.hint.victim, one.hint.target
            scores[pair] = max(one.left, scores.get(pair, 0.0))
        named = strongest_first(
            [NamedPair(*pair, score) for pair, score in scores.items()], threshold
        )
        flagged = any(pair.flagged for pair in named)
        failed = bool(found) and not any(one.success for one in found)
        natural = sum(one.left < one.success for one in found)
        return Opinion(
            outcome="flagged" if flagged else "not optimised" if failed else "nothing flagged",
            named=named,
            threshold=threshold,
            score_is="success of the stamp, 0 where it is natural",
            statement=_statement(hints, len(found), natural),
            details=_details(hints, found, bool(len(self._matrix))),
            tables=(_table(found, self._names),) if found else (),
            galleries=self._pictures(found),
        )

    def _pictures(self, found: Sequence[Found]) -> tuple[Gallery, ...]:
        from onnx_soda._detect.baselines.inversion import gallery

        if not found:
            return ()
        best = sorted(found, key=lambda one: -one.left)
        shown = [(_label(one.hint, self._names), one.stamp) for one in best]
        text = "Mask, stamp, and a clean image with it; those that are no natural features first."
        example = self._pixels(best[0].hint.victim, 1)
        return (gallery("Stamps of EX-RAY", text, shown, example),)


def first_mask(height: int, width: int, limit: float) -> FloatArray:
    """Return the mask that a stamp starts from: a square from the middle on.

    Args:
        height: Pixels.
        width: Pixels.
        limit: Pixels that it may have; the side of the square is 0.8 of its root.
    """
    side = max(int(_SQUARE * sqrt(limit)), 1)
    free = np.full((height, width), _OUTSIDE)
    free[height // 2 : height // 2 + side, width // 2 : width // 2 + side] = _INSIDE
    mask: FloatArray = np.tanh(free) / 2 + 0.5
    return mask


def _label(hint: Hint, names: Sequence[str] | None) -> str:
    return pair_label(hint.victim, hint.target, names)


def _statement(hints: int, optimised: int, natural: int) -> str:
    return (
        f"Single neurons hint at {hints} pairs. Stamps of bounded size were optimised for the best "
        f"{optimised}. Natural features of the target, which count as 0: {natural} of them. Only "
        f"stamps that turn over {_SURE:.0%} are compared. No changes of colour are tried."
    )


def _details(hints: int, found: Sequence[Found], affine: bool) -> Mapping[str, object]:
    return {
        "hints": hints,
        "affine": affine,
        "candidates": [
            {
                "victim_class": one.hint.victim,
                "target_class": one.hint.target,
                "channel": one.hint.channel,
                "size": one.stamp.size,
                "success": one.success,
                "overlap": one.likeness.overlap if one.likeness else None,
                "natural": one.likeness.natural if one.likeness else None,
            }
            for one in found
        ],
    }


def _table(found: Sequence[Found], names: tuple[str, ...] | None) -> Table:
    rows = [
        (
            _label(one.hint, names),
            one.hint.channel,
            one.stamp.size,
            one.success,
            one.likeness.overlap if one.likeness else None,
            None if one.likeness is None else "yes" if one.likeness.natural else "no",
        )
        for one in found
    ]
    return Table(
        "Candidates of EX-RAY",
        "Stamps that were optimised in full. Overlap is that of the channels that tell stamped "
        "images from clean ones with those that tell the target's images from them.",
        (
            Column("pair"),
            Column("channel", "count"),
            Column("pixels", "number"),
            Column("images turned", "share"),
            Column("overlap", "share"),
            Column("natural"),
        ),
        tuple(rows),
    )
