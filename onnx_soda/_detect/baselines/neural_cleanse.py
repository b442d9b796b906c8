"""Neural Cleanse: a class that images are turned into by an unusually small stamp.

Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao: "Neural Cleanse: Identifying and Mitigating Backdoor
Attacks in Neural Networks", IEEE S&P 2019. Of each class the smallest mask and pattern are found
that turn all images into it, whatever they show (Equations 2 and 3; `inversion`). The masks' sizes
are compared: a class whose size lies below the median by over 2 anomaly indices is flagged (section
IV.C). The index is the paper's, and the one of `onnx_soda._detect.soda.statistic`. It names targets
and no victims: a backdoor between two classes turns few of the images.

Parameters, from the official example (bolunwang/backdoor, gtsrb_visualize_example.py):

- "paper": Adam with a rate of 0.1 and betas of 0.5 and 0.9, a first cost of 1e-3 that doubles after
  5 good steps and falls by 2^1.5 after 5 bad ones, 99 % success, an end after 25 steps without a
  smaller mask; batches of 32. A class whose images never turned has no size and is left out.
- "published": the same as in the comparison of the SODA paper (sunbing7/sembd, cifar_nc.py), with
  batches of 64. As in the official code, which that is made from, a class whose images never turned
  counts with the last mask, and masks are read back from pictures of 8 bits: values under 1/510
  vanish.

Budget: up to 200 clean images, and for each class at most 150 steps of one batch; the official
example has 1,000 steps of 31 batches. So masks are a little larger here, those of all classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from onnx_soda._detect.baselines.base import Opinion, abstention, strongest_first
from onnx_soda._detect.baselines.gradients import (
    GradientBaseline,
    SlopedSuspect,
    some_images,
)
from onnx_soda._detect.soda.statistic import anomaly_index
from onnx_soda._numbers import NamedPair, Outcome
from onnx_soda._options import Progress
from onnx_soda._results import Chart, Gallery
from onnx_soda._suspect import FloatPixels, Suspect
from onnx_soda._words import class_label

if TYPE_CHECKING:  # it imports torch
    from onnx_soda._detect.baselines.inversion import Arm, Recipe, Stamp

# Clean images, and steps of each class.
_IMAGES, _STEPS = 200, 150
_PAPER_BATCH, _PUBLISHED_BATCH = 32, 64
# Paper, section IV.C: over 2 is an outlier with 95 % probability.
_THRESHOLD = 2.0
# The median and its deviation say nothing of fewer sizes.
_FEWEST_SIZES = 3
# Classes that are shown: stamps as pictures, sizes as bars.
_PICTURES, _BARS = 6, 40
_GREATEST_LEVEL = 255


class NeuralCleanse(GradientBaseline):
    """Compares the sizes of the smallest stamps that turn all images into each class."""

    name: ClassVar[str] = "neural-cleanse"
    title: ClassVar[str] = "Neural Cleanse"
    source: ClassVar[str] = "Wang et al., IEEE S&P 2019"

    def climb(self, suspect: Suspect, sloped: SlopedSuspect, progress: Progress) -> Opinion:
        """See `GradientBaseline.climb`."""
        from onnx_soda._detect.baselines.inversion import Recipe, invert

        classes, published = suspect.classes or 0, suspect.options.parameters == "published"
        if classes < _FEWEST_SIZES:
            return abstention("It compares classes, and needs three or more.")
        pixels = suspect.pixels(some_images(suspect, _IMAGES))
        recipe = Recipe(steps=_STEPS, batch=_PUBLISHED_BATCH if published else _PAPER_BATCH)
        batch = min(recipe.batch, len(pixels))
        stamps = invert(
            sloped,
            _arms(suspect, pixels, recipe),
            max(suspect.body.batch_size // batch, 1),
            lambda done: progress("classes inverted", done, classes),
        )
        return _opinion(suspect, stamps, pixels, published)


def _arms(suspect: Suspect, pixels: FloatPixels, recipe: Recipe) -> Iterator[Arm]:
    """Yield a stamp to optimise for each class, from a random mask and pattern (as the example)."""
    from onnx_soda._detect.baselines.inversion import Arm

    rng = np.random.default_rng(suspect.options.seed)
    order = rng.permutation(len(pixels))
    for target in range(suspect.classes or 0):
        mask, pattern = rng.random(pixels.shape[2:]), rng.random(pixels.shape[1:])
        yield Arm(target, pixels[order], mask, pattern, recipe)


def _opinion(
    suspect: Suspect, stamps: Sequence[Stamp], pixels: FloatPixels, published: bool
) -> Opinion:
    names = suspect.clean.class_names if suspect.clean else None
    counted = [stamp for stamp in stamps if published or stamp.worked]
    sizes = {stamp.target: _read_size(stamp, published) for stamp in counted}
    index = dict(zip(sizes, map(float, -anomaly_index(list(sizes.values()))), strict=True))
    pairs = [NamedPair(None, target, score) for target, score in index.items()]
    named = strongest_first(pairs, _THRESHOLD if len(sizes) >= _FEWEST_SIZES else None)
    turned = {str(stamp.target): _turned(suspect, stamp, pixels) for stamp in counted}
    return Opinion(
        outcome=_outcome(named),
        named=named,
        threshold=_THRESHOLD,
        score_is="anomaly index of the mask's size",
        statement=_statement(stamps, len(pixels)),
        details={
            "sizes": {str(target): size for target, size in sizes.items()},
            "turned": turned,
            "steps": {str(stamp.target): stamp.steps for stamp in stamps},
            "not_optimised": [stamp.target for stamp in stamps if not stamp.worked],
        },
        charts=(_chart(sizes, named, names),) if sizes else (),
        galleries=(_pictures(counted, named, names, pixels),) if counted else (),
    )


def _turned(suspect: Suspect, stamp: Stamp, pixels: FloatPixels) -> float:
    """Return the share of the images that a stamp turns."""
    given = suspect.body.logits(suspect.inputs(stamp.on(pixels))).argmax(axis=1)
    return float((given == stamp.target).mean())


def _outcome(named: Sequence[NamedPair]) -> Outcome:
    if not named:
        return "not optimised"
    if len(named) < _FEWEST_SIZES:
        return "abstains"
    return "flagged" if any(pair.flagged for pair in named) else "nothing flagged"


def _read_size(stamp: Stamp, from_picture: bool) -> float:
    """Return the size of a mask; as it is read back from a picture of 8 bits, where asked for."""
    if not from_picture:
        return stamp.size
    levels = np.rint(_GREATEST_LEVEL * stamp.mask.astype(np.float64))
    return float(levels.sum() / _GREATEST_LEVEL)


def _statement(stamps: Sequence[Stamp], images: int) -> str:
    failed = [str(stamp.target) for stamp in stamps if not stamp.worked]
    left = f" No stamp turned enough images into class {', '.join(failed)}." if failed else ""
    return (
        f"It looked for the smallest stamp that turns {images} images of all classes into each "
        f"class, and compared the sizes of {len(stamps)} masks.{left} It names targets alone, and "
        "sees backdoors that turn images of all classes; among many classes one stands out by "
        "chance."
    )


def _chart(
    sizes: dict[int, float], named: Sequence[NamedPair], names: tuple[str, ...] | None
) -> Chart:
    shown = sorted(sizes, key=lambda target: sizes[target])[:_BARS]
    flagged = {pair.target_class for pair in named if pair.flagged}
    return Chart(
        "bars",
        "Sizes of the masks",
        "Sum of the mask of the smallest stamp that turns images into the class, in pixels; the "
        "smallest first.",
        tuple(class_label(target, names) for target in shown),
        tuple((sizes[target],) for target in shown),
        tuple(place for place, target in enumerate(shown) if target in flagged),
    )


def _pictures(
    stamps: Sequence[Stamp],
    named: Sequence[NamedPair],
    names: tuple[str, ...] | None,
    pixels: FloatPixels,
) -> Gallery:
    from onnx_soda._detect.baselines.inversion import gallery

    by_target = {stamp.target: stamp for stamp in stamps}
    shown = [(pair.target_class, by_target[pair.target_class]) for pair in named[:_PICTURES]]
    return gallery(
        "Inverted stamps",
        "Mask, stamp, and a clean image with it. A small and dense one is what a planted patch "
        "looks like.",
        [(f"to {class_label(target, names)}", stamp) for target, stamp in shown],
        pixels[:1],
    )
