"""Trigger inversion: the smallest stamp that turns images into a class.

A stamp is a mask m, one number per pixel, and a pattern p; an image x becomes (1 - m) x + m p. Both
are minimised over through tanh, which keeps them between 0 and 1:

    cross entropy of the target + cost * sum of m

(Wang et al., Neural Cleanse, IEEE S&P 2019, Equations 2 and 3.) The cost is found on the way: it
starts at 0, and rises while images turn and falls while they do not (`Course`). The smallest mask
under which enough of them turned counts. K-ARM and EX-RAY minimise the same, or nearly so.

This module imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from onnx_soda._data.images import data_uri
from onnx_soda._results import Gallery, Picture
from onnx_soda._suspect import FloatPixels

Logits = Callable[[Tensor], Tensor]
"""A classifier: takes pixels, returns logits, a row per image."""

# How near to 0 and 1 a mask or pattern may start: tanh gets there only at infinity.
_EDGE = 1e-6


@dataclass(frozen=True)
class Recipe:
    """How a stamp is optimised; the defaults are those of Neural Cleanse's example.

    bolunwang/backdoor, gtsrb_visualize_example.py and visualizer.py.

    Attributes:
        steps: The most steps.
        batch: Images of one step, after each of which the stamp is changed once.
        rate: Learning rate of Adam.
        betas: Its two others.
        first_cost: The cost, once images turn.
        good_steps: Steps in a row after which enough images turned, until that.
        up: Factor by which the cost rises.
        down: Divisor by which it falls.
        patience: Steps in a row, good or bad, after which it does.
        success: Share of the images that has to turn.
        stop_after: Steps without a smaller mask after which it ends, once the cost has risen and
            fallen; None to go on to the last step.
    """

    steps: int = 1000
    batch: int = 32
    rate: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)
    first_cost: float = 1e-3
    good_steps: int = 5
    up: float = 2.0
    down: float = 2.0**1.5
    patience: int = 5
    success: float = 0.99
    stop_after: int | None = 25


class Course:
    """What the size of a mask costs as it is optimised, and how far it came.

    Args:
        recipe: See `Recipe`.

    Attributes:
        cost: Of each unit of the mask's size, now.
        size: Of the smallest mask that worked; infinite before there is one.
        improvements: Number of times that there was a smaller one.
        steps: Number of steps done.
        highest: Largest share of images that turned in a step.
        done: Whether it has ended.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.cost, self.size, self.highest = 0.0, inf, 0.0
        self.improvements = self.steps = 0
        self.done = False
        self._since_smaller = self._good_at_no_cost = 0
        # Good steps in a row; bad ones are negative.
        self._row = 0
        self._has_risen = self._has_fallen = False

    def take(self, success: float, size: float) -> bool:
        """Take note of a step, and tell whether its mask is the smallest so far that works.

        Args:
            success: Share of the images that turned.
            size: Of the mask.
        """
        recipe, good = self._recipe, success >= self._recipe.success
        self.steps += 1
        self.highest = max(self.highest, success)
        self._since_smaller += self.size < inf
        smaller = good and size < self.size
        if smaller:
            self.size, self._since_smaller = size, 0
            self.improvements += 1
        stalled = recipe.stop_after is not None and self._since_smaller >= recipe.stop_after
        balanced = self._has_risen and self._has_fallen
        self.done = self.done or self.steps >= recipe.steps or (stalled and balanced)
        self._weigh(good)
        return smaller

    def _weigh(self, good: bool) -> None:
        """Set the cost anew."""
        recipe = self._recipe
        self._good_at_no_cost = self._good_at_no_cost + 1 if good and self.cost == 0 else 0
        if self._good_at_no_cost >= recipe.good_steps:
            self.cost, self._row = recipe.first_cost, 0
            self._has_risen = self._has_fallen = False
        self._row = max(self._row, 0) + 1 if good else min(self._row, 0) - 1
        if abs(self._row) < recipe.patience:
            return
        self.cost = self.cost * recipe.up if good else self.cost / recipe.down
        self._has_risen, self._has_fallen = self._has_risen or good, self._has_fallen or not good
        self._row = 0


@dataclass(frozen=True, eq=False)
class Stamp:
    """A stamp that was found.

    Attributes:
        target: Class that it turns images into.
        mask: How much of each pixel it covers, shape (height, width), from 0 to 1.
        pattern: What it covers it with, shape (channels, height, width).
        worked: Whether it turned enough images in a step; else it is the last one.
        highest: Largest share of images that turned in a step.
        steps: Steps that it took.
    """

    target: int
    mask: NDArray[np.float32]
    pattern: NDArray[np.float32]
    worked: bool
    highest: float
    steps: int

    @property
    def size(self) -> float:
        """Sum of the mask (its L1 norm)."""
        return float(self.mask.sum(dtype=np.float64))

    def on(self, pixels: FloatPixels) -> FloatPixels:
        """Return images with the stamp on them, shape (images, channels, height, width)."""
        stamped: FloatPixels = (1 - self.mask) * pixels + self.mask * self.pattern
        return stamped


class Arm:
    """A stamp that is being optimised.

    Args:
        target: Class that images are to turn into.
        images: Those to turn, shape (images, channels, height, width), from 0 to 1.
        mask: To start from, shape (height, width).
        pattern: To start from, shape (channels, height, width), or (channels, 1, 1) for one colour.
        recipe: See `Recipe`.

    Attributes:
        target: As given.
        course: How far it is.
        batches: Steps of a pass over the images.
    """

    def __init__(
        self,
        target: int,
        images: FloatPixels,
        mask: NDArray[np.floating],
        pattern: NDArray[np.floating],
        recipe: Recipe,
    ) -> None:
        self.target, self.course = target, Course(recipe)
        self._images, self._batch, self._next = torch.from_numpy(images), recipe.batch, 0
        self.batches = -(-len(images) // recipe.batch)
        self._free = tuple(_unbounded(values) for values in (mask, pattern))
        self._adam = torch.optim.Adam(self._free, lr=recipe.rate, betas=recipe.betas)
        self._mask, self._pattern = (_bounded(values) for values in self._free)
        self._best: tuple[Tensor, Tensor] | None = None

    def stamped(self) -> Tensor:
        """Return the next batch with the present stamp on it."""
        rows = torch.arange(self._next, self._next + min(self._batch, len(self._images)))
        self._next = int(rows[-1]) + 1
        images = self._images[rows % len(self._images)]
        self._mask, self._pattern = (_bounded(values) for values in self._free)
        return (1 - self._mask) * images + self._mask * self._pattern

    def loss(self, logits: Tensor) -> Tensor:
        """Return what is to become small.

        Args:
            logits: Of the batch.
        """
        targets = torch.full((len(logits),), self.target)
        return functional.cross_entropy(logits, targets) + self.course.cost * self._mask.sum()

    def clear(self) -> None:
        """Forget the slopes of the last step."""
        self._adam.zero_grad()

    def move(self, logits: Tensor) -> None:
        """Take note of a step, and change the stamp by its slopes.

        Args:
            logits: Of the batch.
        """
        success = float((logits.argmax(1) == self.target).float().mean())
        if self.course.take(success, float(self._mask.detach().sum())):
            self._best = self._mask.detach(), self._pattern.detach()
        self._adam.step()

    def result(self) -> Stamp:
        """Return the smallest stamp that worked, or the last one."""
        found = self._best or (self._mask.detach(), self._pattern.detach())
        mask, pattern = (values.numpy() for values in found)
        whole = np.broadcast_to(pattern, (len(pattern), *mask.shape)).copy()
        course = self.course
        worked = self._best is not None
        return Stamp(self.target, mask.copy(), whole, worked, course.highest, course.steps)


class BoundedArm(Arm):
    """A stamp of a bounded size, as ABS and EX-RAY optimise it.

    They raise the logit of the target. The size costs nothing up to a limit, and a multiple beyond
    it (PurduePAML/Exray, loss_fn: 100 for each logit, 100 for each unit of the mask where more
    pixels than the limit have over 0.01, 200 where there are over 1.2 times as many). Their further
    term, the activation of the neuron, has a hundredth of the logit's weight and is left out here.

    Args:
        limit: Pixels.
        price: Of a unit of the mask beyond it, where the logit of each image counts 1.
        others: See `Arm`.
    """

    # A pixel counts as covered from here on.
    _COVERED = 0.01

    def __init__(self, limit: float, price: float, *others: Any) -> None:
        super().__init__(*others)
        self._limit, self._price = limit, price

    def loss(self, logits: Tensor) -> Tensor:
        """See `Arm.loss`."""
        covered = float((self._mask.detach() > self._COVERED).sum())
        weight = (covered > self._limit) + (covered > 1.2 * self._limit)
        return self._price * weight * self._mask.sum() - logits[:, self.target].sum()


def _unbounded(values: NDArray[np.floating]) -> Tensor:
    """Return what tanh makes these values of, to be optimised."""
    inside = 2 * values.clip(_EDGE, 1 - _EDGE) - 1
    return torch.from_numpy(np.arctanh(inside).astype(np.float32)).requires_grad_()


def _bounded(free: Tensor) -> Tensor:
    return torch.tanh(free) / 2 + 0.5


def advance(logits_of: Logits, arms: Sequence[Arm]) -> None:
    """Do one step with each of some stamps, in one batch.

    Args:
        logits_of: The classifier.
        arms: The stamps.
    """
    batches = [arm.stamped() for arm in arms]
    parts = torch.split(logits_of(torch.cat(batches)), [len(batch) for batch in batches])
    for arm in arms:
        arm.clear()
    losses = [arm.loss(part) for arm, part in zip(arms, parts, strict=True)]
    torch.autograd.backward(torch.stack(losses).sum())
    for arm, part in zip(arms, parts, strict=True):
        arm.move(part.detach())


def invert(
    logits_of: Logits, arms: Iterable[Arm], together: int, tell: Callable[[int], None]
) -> list[Stamp]:
    """Optimise stamps to the end, several at a time, and return them in order.

    Args:
        logits_of: The classifier.
        arms: The stamps; made when their turn comes, since each takes memory.
        together: How many at a time.
        tell: Called with the number of stamps that are done.
    """
    waiting, found = enumerate(arms), dict[int, Stamp]()
    running: list[tuple[int, Arm]] = []
    while True:
        while len(running) < together and (one := next(waiting, None)) is not None:
            running.append(one)
        if not running:
            return [found[place] for place in sorted(found)]
        advance(logits_of, [arm for _, arm in running])
        found |= {place: arm.result() for place, arm in running if arm.course.done}
        running = [one for one in running if not one[1].course.done]
        tell(len(found))


def gallery(
    title: str, text: str, stamps: Sequence[tuple[str, Stamp]], pixels: FloatPixels
) -> Gallery:
    """Return pictures of stamps: the mask, what it covers pixels with, an image with it on.

    Args:
        title: Heading.
        text: What there is to see.
        stamps: Each with what to call it.
        pixels: A clean image to show it on, shape (1, channels, height, width).
    """
    return Gallery(title, text, tuple(_picture(name, stamp, pixels) for name, stamp in stamps))


def _picture(name: str, stamp: Stamp, pixels: FloatPixels) -> Picture:
    views = (stamp.mask[None], stamp.mask * stamp.pattern, stamp.on(pixels)[0])
    return Picture(
        images=tuple(data_uri(view.clip(0, 1)) for view in views),
        alt=("The mask", "The stamp on black", "A clean image with the stamp on it"),
        caption=f"{name}: size {stamp.size:.1f} px" + ("" if stamp.worked else "; did not work"),
    )
