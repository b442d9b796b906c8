"""MOTH, model orthogonalisation (Tao et al., S&P 2022).

How far class v is from class t is the size of the smallest patch that turns v into t: a mask and a
pattern, as in Neural Cleanse (`Inverter`). A backdoor makes one of these distances short. MOTH
trains on images that bear such patches, with their own labels, so that the distances grow:

1. warm-up: for each class t a patch that turns all images is inverted, and half of the images of a
   step bear it. How far the loss of each class falls under it tells which pairs are near;
2. then, every third step, a pair of classes is chosen, by chance in 3 of 10 cases, or else the one
   that is nearest by the warm-up and whose distance has grown most. Patches in both directions are
   inverted, and images of the two classes bear them, a tenth of the step's at most. The program
   stamps a tenth of the rarer class's images, which in a small clean set is none, and begins each
   inversion at the largest patch so far.

Parameters of the paper's program (github.com/Gwinhen/MOTH): SGD with Nesterov's momentum of 0.9,
rate 1e-4, batches of 128; inversion by Adam at 0.1, success 0.99 in the warm-up and 0.9 then, cost
1e-3, times 1.5 after ten good steps in a row and by 1.5^1.5 after ten bad ones. Its budget is 500
and 200 steps of inversion on a batch, and two epochs. Here it is 60 steps on 32 images, 20 classes
in the warm-up, one epoch of 1,000 images at most; and images are natural ones ("nat"), without the
attack that the program adds. That is its least form: distances grow less than in the paper.

"published" (github.com/sunbing7/MOTH, run.sh) has rates from 1e-9 to 1e-5 by data set, which move
nothing; 1e-6 is the middle of them.

Patches lie in pixels: preprocessing is affine in each channel, so what is blended after it is what
would be blended before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from onnx_soda._errors import RepairError
from onnx_soda._repair.base import Removal
from onnx_soda._repair.baselines.base import Examples, Rival, clean_of
from onnx_soda._repair.baselines.networks import Network, Recipe, network_of
from onnx_soda._repair.preparation import ImageSet, Preparation

_RATE, _PUBLISHED_RATE, _BATCH, _MOST_SHOWN = 1e-4, 1e-6, 128, 1000
_STEPS, _SHOWN, _MOST_WARMED = 60, 32, 20
_COST, _FACTOR, _PATIENCE, _INVERSION_RATE = 1e-3, 1.5, 10, 0.1
_WARM_SUCCESS, _WARM_SHARE, _LARGEST = 0.99, 0.5, 0.25
_SUCCESS, _SHARE, _EVERY, _BY_CHANCE = 0.9, 0.1, 3, 0.3
# Weight of the growth in the choice of a pair: so much after a hundred steps.
_GROWTH, _GROWTH_STEPS = 0.1, 100
# Of a share of images, computed in float32.
_ROUNDING = 1e-6
# Axis of an image's channels, by layout; a flat one has none.
_CHANNEL_AXES = {"NCHW": 1, "NHWC": 3, "NHW": None, "flat": None}


@dataclass(frozen=True, eq=False)
class Patches:
    """Masks and patterns, one for each group of images.

    Attributes:
        masks: From 0 to 1, shape (groups, ...), broadcast to images.
        patterns: As the model takes them, shape (groups, ...).
        sizes: Sum of each mask, shape (groups,); infinite where it does not turn its images.
    """

    masks: Tensor
    patterns: Tensor
    sizes: Tensor

    def on(self, images: Tensor, groups: Tensor) -> Tensor:
        """Return images that bear the patches of their groups."""
        masks = self.masks[groups]
        return (1 - masks) * images + masks * self.patterns[groups]


@dataclass(frozen=True, eq=False)
class Inverter:
    """Finds the smallest patch that turns images into a class.

    Attributes:
        network: The network.
        low: Input of the value of 0 in all channels, for one image.
        high: The same for 1.
        channels: Axis of the channels, which share a mask; None where there is none.
    """

    network: Network
    low: Tensor
    high: Tensor
    channels: int | None

    def invert(self, images: Tensor, goals: Tensor, groups: Tensor, success: float) -> Patches:
        """Return the smallest patches of all steps that turn enough of their images.

        Args:
            images: As the model takes them.
            goals: The class that each is to be turned into.
            groups: Numbers from 0 on: images of a group bear the same patch.
            success: Share of a group's images that is enough.
        """
        count = int(groups.max()) + 1
        rng = torch.Generator().manual_seed(0)
        shape = [count, *self.low.shape[1:]]
        wide = [1 if axis == self.channels else size for axis, size in enumerate(shape)]
        raw = [torch.randn(size, generator=rng).requires_grad_(True) for size in (wide, shape)]
        optimizer = torch.optim.Adam(raw, lr=_INVERSION_RATE, betas=(0.5, 0.9))
        costs, streak = torch.full((count,), _COST), torch.zeros(count)
        best = Patches(raw[0].detach(), raw[1].detach(), torch.full((count,), torch.inf))
        members = torch.nn.functional.one_hot(groups, count).float()
        members = members / members.sum(0)
        for _ in range(_STEPS):
            now = self._patches(*raw)
            scores = self.network.outputs(now.on(images, groups).to(images.dtype))[0]
            right = (scores.argmax(1) == goals).float() @ members
            turns = right >= success - _ROUNDING
            best = _better(best, now, turns)
            loss = (cross_entropy(scores, goals, reduction="none") @ members).sum()
            self._slopes(raw, loss + (costs * now.sizes).sum())
            optimizer.step()
            streak = torch.where(turns, streak.clamp_min(0) + 1, streak.clamp_max(0) - 1)
            costs = torch.where(streak >= _PATIENCE, costs * _FACTOR, costs)
            costs = torch.where(streak <= -_PATIENCE, costs / _FACTOR**1.5, costs)
            streak = torch.where(streak.abs() >= _PATIENCE, torch.zeros(count), streak)
        return best

    def _patches(self, mask: Tensor, pattern: Tensor) -> Patches:
        masks = mask.sigmoid()
        patterns = self.low + (self.high - self.low) * pattern.sigmoid()
        return Patches(masks, patterns, masks.flatten(1).sum(1))

    @staticmethod
    def _slopes(raw: Sequence[Tensor], loss: Tensor) -> None:
        """Set the slopes of what is inverted, and of no weight."""
        for one, slope in zip(raw, torch.autograd.grad(loss, list(raw)), strict=True):
            one.grad = slope


def _better(best: Patches, now: Patches, turns: Tensor) -> Patches:
    """Return, group by group, the smaller of two patches that turn their images."""
    chosen = turns & (now.sizes < best.sizes)
    pick = chosen.reshape(-1, *(1,) * (now.masks.ndim - 1))
    return Patches(
        torch.where(pick, now.masks, best.masks).detach(),
        torch.where(pick, now.patterns, best.patterns).detach(),
        torch.where(chosen, now.sizes, best.sizes).detach(),
    )


class Hardening:
    """One training by MOTH.

    Args:
        inverter: Inverts patches in the network that is trained.
        examples: Clean images.
        classes: Number of classes.
        recipe: Steps of the training.

    Attributes:
        near: How far a patch for class t lowers the loss to t, by class v and t.
        growth: Of the distances of pairs, relative to the one before; 0 where none was measured.
        sizes: Last distance of each pair; 0 where none was measured.
    """

    def __init__(
        self, inverter: Inverter, examples: Examples, classes: int, recipe: Recipe
    ) -> None:
        self.inverter, self.classes = inverter, classes
        self.images = torch.from_numpy(examples.images)
        self.labels = torch.from_numpy(examples.labels)
        self.optimizer = recipe.optimizer(list(inverter.network.weights.values()))
        self.rng = np.random.default_rng(0)
        self.near, self.growth, self.sizes = (np.zeros((classes, classes)) for _ in range(3))

    def warm_up(self, target: int) -> None:
        """Invert a patch for a class, and train on images that bear it."""
        others = self._some(self.labels != target, _SHOWN)
        if not len(others):
            return
        goals, group = (
            torch.full((len(others),), target),
            torch.zeros(len(others), dtype=torch.long),
        )
        images = self.images[others]
        patch = self.inverter.invert(images, goals, group, _WARM_SUCCESS)
        if not torch.isfinite(patch.sizes).all():
            return
        stamped = patch.on(images, group).to(images.dtype)
        self._note_near(target, others, (images, stamped))
        if patch.sizes[0] < _LARGEST * patch.masks[0].numel():
            half = torch.from_numpy(self.rng.random(len(others)) < _WARM_SHARE)
            shown = torch.where(half.reshape(-1, *(1,) * (images.ndim - 1)), stamped, images)
            self._step(shown, self.labels[others])

    def pair(self, step: int) -> tuple[int, int]:
        """Return two classes: near by the warm-up, and whose distance has grown."""
        if self.rng.random() < _BY_CHANCE:
            first, second = self.rng.choice(self.classes, 2, replace=False)
            return int(first), int(second)
        weight = min(_GROWTH * step / _GROWTH_STEPS, 1.0)
        likely = (1 - weight) * _scaled(self.near) + weight * _scaled(self.growth)
        likely = likely + likely.T
        np.fill_diagonal(likely, -np.inf)
        place = np.unravel_index(int(likely.argmax()), likely.shape)
        return int(place[0]), int(place[1])

    def harden(self, pair: tuple[int, int], rows: Tensor) -> None:
        """Train on a batch some images of which bear patches of a pair, in both directions."""
        images, labels = self.images[rows].clone(), self.labels[rows]
        shown = [self._some(self.labels == label, _SHOWN // 2) for label in pair]
        if all(map(len, shown)):
            every = torch.cat(shown)
            groups = torch.repeat_interleave(torch.arange(2), torch.tensor([*map(len, shown)]))
            goals = torch.tensor([pair[1], pair[0]])[groups]
            found = self.inverter.invert(self.images[every], goals, groups, _SUCCESS)
            for place, label in enumerate(pair):
                self._note_size((label, pair[1 - place]), float(found.sizes[place]))
                own = torch.nonzero(labels == label)[: max(round(_SHARE * len(rows)), 1), 0]
                if torch.isfinite(found.sizes[place]):
                    group = torch.full((len(own),), place)
                    images[own] = found.on(images[own], group).to(images.dtype)
        self._step(images, labels)

    def _some(self, chosen: Tensor, most: int) -> Tensor:
        rows = torch.nonzero(chosen)[:, 0]
        return rows[torch.from_numpy(self.rng.permutation(len(rows))[:most])]

    def _note_near(self, target: int, rows: Tensor, shown: tuple[Tensor, Tensor]) -> None:
        goals = torch.full((len(rows),), target)
        with torch.no_grad():
            clean, stamped = (
                cross_entropy(self.inverter.network.outputs(one)[0], goals, reduction="none")
                for one in shown
            )
        for label in np.unique(self.labels[rows].numpy()):
            own = self.labels[rows] == label
            self.near[int(label), target] = float((clean - stamped)[own].mean())

    def _note_size(self, pair: tuple[int, int], size: float) -> None:
        before = self.sizes[pair]
        if np.isfinite(size) and before:
            self.growth[pair] = (self.growth[pair] + (size - before) / before) / 2
        self.sizes[pair] = size if np.isfinite(size) else before

    def _step(self, images: Tensor, labels: Tensor) -> None:
        loss = cross_entropy(self.inverter.network.outputs(images)[0], labels)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()


def _scaled(matrix: np.ndarray) -> np.ndarray:
    largest = np.abs(matrix).max()
    return matrix / largest if largest else matrix


class MothRemover(Rival):
    """Trains on images that bear the smallest patches that turn them."""

    name: ClassVar[str] = "moth"
    title: ClassVar[str] = "MOTH"
    source: ClassVar[str] = "Tao et al., S&P 2022"
    trains: ClassVar[str] = "all"

    def __init__(self, ready: Preparation) -> None:
        super().__init__(ready)
        if not np.issubdtype(ready.suspect.anatomy.view.image.numpy_dtype(), np.floating):
            raise RepairError(
                "MOTH inverts patches by slopes, and this model's images are whole numbers",
                "Take another method.",
            )
        self.network = network_of(ready, "MOTH needs")

    def remove(self, folds: Sequence[ImageSet]) -> Removal:
        """Train on all folds but the last, which judges; see `Remover.remove`."""
        network, held_out = self.network, clean_of(folds[-1:])
        judged = self.judged(network.accuracy(held_out))
        teaching = clean_of(folds[:-1]).drawn(_MOST_SHOWN, np.random.default_rng(0))
        inverter = self.inverter()
        rate = _PUBLISHED_RATE if self.published else _RATE
        work = Hardening(inverter, teaching, self.ready.classes, Recipe((rate,)))
        warmed = work.rng.permutation(self.ready.classes)[:_MOST_WARMED]
        batches = torch.split(torch.from_numpy(work.rng.permutation(len(teaching))), _BATCH)
        total = len(warmed) + len(batches)
        for done, target in enumerate(warmed):
            work.warm_up(int(target))
            self.tell(done + 1, total)
        pair = work.pair(0)
        for step, rows in enumerate(batches):
            pair = work.pair(step) if step % _EVERY == 0 else pair
            work.harden(pair, rows)
            self.tell(len(warmed) + step + 1, total)
        accuracy = network.accuracy(held_out)
        if not judged.allows(accuracy):
            return self.failed(replace(judged, best=accuracy))
        facts = {"rate": rate, "epochs": 1}
        return Removal(network.bridge.write_back(), facts=facts, notes=self.told())

    def inverter(self) -> Inverter:
        """Return what inverts patches of the network as it is."""
        suspect = self.ready.suspect
        shape = suspect.image_shape(self.ready.clean)
        black = np.zeros((1, shape.channels, shape.height, shape.width), np.float32)
        low, high = (torch.from_numpy(suspect.inputs(one)) for one in (black, black + 1))
        axis = _CHANNEL_AXES[suspect.anatomy.view.image.layout]
        return Inverter(self.network, low.float(), high.float(), axis)
