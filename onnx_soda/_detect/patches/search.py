"""Searches for patches: few pixels, the same for all images, that turn them into a class.

A patch is a set of pixels and what covers them. The set starts as the whole image and becomes
smaller from stage to stage; of each pixel the slope of the loss says what it contributes (averaged
over its neighbours, so that patches hang together), and the pixels that contribute least are
uncovered. In between the colours are moved by steps of Adam. Patches for all classes are searched
for in one batch, and before each stage the worst are given up: where a patch was planted, images
still turn when hardly any pixel is left.

In Neural Cleanse (`onnx_soda._detect.baselines.inversion`) a mask may cover a pixel by half, and
its size costs something in the loss. Here a pixel is covered or not, and the size is set from
outside: so few steps do for each size, and classes are compared at the same sizes.

This module imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from onnx_soda._data.sources import IntArray
from onnx_soda._suspect import FloatPixels

# Adam: step, in units of the range of a colour, and its two averages. From 0.1 to 0.2 the patches
# of the controls are found in a few steps of each size; slower ones need more of them.
_RATE, _MOMENTUM, _SPREAD = 0.2, 0.5, 0.9
# What a pixel contributes is averaged over so many steps' slopes, halved each time.
_KEPT_SLOPE = 0.5
# Side of the neighbourhood that a contribution is averaged over.
_NEIGHBOURS = 3
_TINY = 1e-8


@dataclass(frozen=True)
class Stage:
    """A size of the patch, and what is done at it.

    Attributes:
        area: Share of the image that is covered.
        images: In each step, for each target class.
        steps: Steps.
        targets: The most target classes at this size; the best of those before.
    """

    area: float
    images: int
    steps: int
    targets: int


@dataclass(frozen=True, eq=False)
class Patch:
    """A patch at one size.

    Attributes:
        target: Class that images are to be taken for.
        area: Share of the image that was asked for.
        mask: Which pixels it covers, shape (height, width).
        colours: What it covers them with, shape (channels, height, width), from 0 to 1.
    """

    target: int
    area: float
    mask: NDArray[np.bool_]
    colours: NDArray[np.float32]

    @property
    def pixels(self) -> int:
        """Number of pixels covered."""
        return int(self.mask.sum())

    def on(self, pixels: FloatPixels) -> FloatPixels:
        """Return images with the patch on them, shape (images, channels, height, width)."""
        stamped: FloatPixels = np.where(self.mask, self.colours, pixels)
        return stamped


def cost(stages: Sequence[Stage], classes: int) -> int:
    """Return the images that a search shows the model, forward and backward.

    Args:
        stages: The sizes in turn.
        classes: Number of target classes at first.
    """
    return sum(stage.images * stage.steps * min(classes, stage.targets) for stage in stages)


class PatchSearch:
    """A search for patches, for several target classes at a time.

    Args:
        logits_of: The classifier: takes pixels, returns logits.
        pixels: Images to search with, shape (images, channels, height, width), from 0 to 1.
        labels: Their classes, two of them at least.
        together: Images in one run of the model.
        rng: For the images of each step and the first colours.
    """

    def __init__(
        self,
        logits_of: Callable[[Tensor], Tensor],
        pixels: FloatPixels,
        labels: IntArray,
        together: int,
        rng: np.random.Generator,
    ) -> None:
        self._logits_of, self._together, self._rng = logits_of, max(together, 1), rng
        self._pixels, self._labels = torch.from_numpy(pixels), labels

    def run(
        self, targets: Sequence[int], stages: Sequence[Stage], tell: Callable[[int], None]
    ) -> list[Patch]:
        """Search through all stages, and return the patches of the sizes.

        Args:
            targets: Classes to search for patches for.
            stages: The sizes, from the largest to the smallest.
            tell: Called after each step with the images that it showed the model.

        Returns:
            For each stage its patches, the best first.
        """
        runners, found = _Runners(list(targets), self._pixels.shape[1:], self._rng), list[Patch]()
        for stage in stages:
            runners.shrink(stage)
            for _ in range(stage.steps):
                self._step(runners, stage)
                tell(stage.images * len(runners.targets))
            found += runners.patches(stage.area)
        return found

    def _step(self, runners: _Runners, stage: Stage) -> None:
        """Move the colours of all patches once."""
        colours, masks = runners.colours.clone(), runners.masks.clone()
        colours.requires_grad_(), masks.requires_grad_()
        rows = np.concatenate([self._drawn(target, stage.images) for target in runners.targets])
        owner = torch.arange(len(runners.targets)).repeat_interleave(stage.images)
        targets = torch.tensor(runners.targets)[owner]
        losses = torch.zeros(len(runners.targets))
        slopes = torch.zeros_like(colours), torch.zeros_like(masks)
        for part in torch.split(torch.arange(len(rows)), self._together):
            whose = owner[part]
            clean, mask = self._pixels[rows[part.numpy()]], masks[whose]
            logits = self._logits_of((1 - mask) * clean + mask * colours[whose])
            loss = functional.cross_entropy(logits, targets[part], reduction="none")
            own = torch.autograd.grad(loss.sum() / stage.images, (colours, masks))
            for total, slope in zip(slopes, own, strict=True):
                total += slope
            losses.index_add_(0, whose, loss.detach() / stage.images)
        runners.move(*slopes, losses)

    def _drawn(self, target: int, count: int) -> IntArray:
        """Draw images that a patch is to turn."""
        others = np.flatnonzero(self._labels != target)
        drawn: IntArray = self._rng.choice(others, count, replace=len(others) < count)
        return drawn


class _Runners:
    """The patches that are still searched for.

    Args:
        targets: The class of each.
        shape: Of an image: channels, height, width.
        rng: For the first colours.
    """

    def __init__(self, targets: list[int], shape: Sequence[int], rng: np.random.Generator) -> None:
        self.targets = targets
        first = rng.random((len(targets), *shape), np.float32)
        self.colours = torch.from_numpy(first)
        self.masks = torch.ones(len(targets), 1, *shape[1:])
        self._mean, self._square = (torch.zeros_like(self.colours) for _ in range(2))
        self._slope = torch.zeros_like(self.masks)
        self._losses, self._steps = torch.zeros(len(targets)), 0

    def move(self, colours: Tensor, masks: Tensor, losses: Tensor) -> None:
        """Take note of a step's slopes and losses, and move the colours."""
        self._steps += 1
        self._slope = _KEPT_SLOPE * self._slope + masks
        self._losses = _KEPT_SLOPE * self._losses + (1 - _KEPT_SLOPE) * losses
        self._mean = _MOMENTUM * self._mean + (1 - _MOMENTUM) * colours
        self._square = _SPREAD * self._square + (1 - _SPREAD) * colours**2
        spread = (self._square / (1 - _SPREAD**self._steps)).sqrt()
        self.colours = (self.colours - _RATE * self._mean / (spread + _TINY)).clamp(0, 1)

    def shrink(self, stage: Stage) -> None:
        """Keep the best, and of each patch the pixels that contribute most."""
        if self._steps == 0:
            return
        self._keep(sorted(self._best()[: stage.targets]))
        # What a pixel contributes: how far the loss falls as it is covered.
        gain = functional.avg_pool2d(
            -self._slope * self.masks, _NEIGHBOURS, 1, _NEIGHBOURS // 2, count_include_pad=False
        )
        gain = gain.masked_fill(self.masks == 0, -torch.inf).flatten(1)
        covered = max(round(stage.area * gain.shape[1]), 1)
        chosen = torch.zeros_like(gain).scatter_(1, gain.topk(covered, 1).indices, 1.0)
        self.masks = chosen.view_as(self.masks)
        self._slope = torch.zeros_like(self.masks)

    def patches(self, area: float) -> Iterator[Patch]:
        """Yield the patches as they are, the best first."""
        for place in self._best():
            mask, colours = self.masks[place, 0].numpy() > 0, self.colours[place].numpy().copy()
            yield Patch(self.targets[place], area, mask, colours)

    def _best(self) -> list[int]:
        """Return their places, those of the smallest losses first."""
        order: list[int] = torch.argsort(self._losses, stable=True).tolist()
        return order

    def _keep(self, places: list[int]) -> None:
        self.targets = [self.targets[place] for place in places]
        kept = torch.tensor(places)
        self.colours, self.masks = self.colours[kept], self.masks[kept]
        self._mean, self._square = self._mean[kept], self._square[kept]
        self._losses = self._losses[kept]
        self._slope = self._slope[kept]
