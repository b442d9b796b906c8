"""The images of a repair: clean ones, infected ones of the victim, bystanders of the others.

Infected images are made in two ways: by concepts that turn the pair, and by gradient ascent, the
paper's Algorithm 4. It starts from clean victim images. The input climbs f_t(i) - lambda |i|^2, the
logit of the target less a penalty, until the target's probability passes a threshold. Each image
stops there: where all climb on, training on them destroys the model (docs/repair.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnx_soda._bridge.bridge import TorchModel
from onnx_soda._data.sources import IntArray
from onnx_soda._detect.concepts.concept import Concept, move_concept
from onnx_soda._detect.concepts.experiment import MOST_CLASSES
from onnx_soda._detect.concepts.known_pair import concepts_for_pair
from onnx_soda._detect.concepts.likeness import class_likeness
from onnx_soda._detect.concepts.pipeline import render_images
from onnx_soda._model.parts import Body
from onnx_soda._repair.preparation import ImageSet, Preparation
from onnx_soda._repair.teachers import Teachers
from onnx_soda._suspect import FloatPixels, Suspect


@dataclass(frozen=True)
class Ascent:
    """Settings of Algorithm 4; the paper names no values.

    Attributes:
        threshold: Probability of the target at which an image is done ("th").
        steps: The most steps ("m").
        step: Of the input's range, by which the pixel that changes most changes in one step.
        penalty: lambda.
    """

    threshold: float = 0.9
    steps: int = 150
    step: float = 0.02
    penalty: float = 1e-4


def ascend(
    logits: Callable[[Tensor], Tensor],
    images: NDArray[Any],
    target: int,
    bounds: tuple[NDArray[Any], NDArray[Any]],
    settings: Ascent | None = None,
) -> NDArray[Any]:
    """Return the images that reach the threshold, as they are when they do.

    Args:
        logits: The classifier; takes images, returns logits (images, classes).
        images: Clean victim images as the model takes them, floating point.
        target: The class to climb to.
        bounds: Least and largest value of the input, broadcast to one image.
        settings: See `Ascent`.
    """
    settings = settings or Ascent()
    low, high = (torch.from_numpy(np.asarray(bound, images.dtype)) for bound in bounds)
    climbing, done = torch.from_numpy(images.copy()), []
    for _ in range(settings.steps + 1):
        climbing = climbing.detach().requires_grad_(True)
        scores = logits(climbing)
        reached = scores.detach().softmax(1)[:, target] > settings.threshold
        done.append(climbing.detach()[reached].numpy())
        if bool(reached.all()):
            break
        height = scores[:, target].sum() - settings.penalty * climbing.square().sum()
        (slope,) = torch.autograd.grad(height, climbing)
        steepest = slope.abs().flatten(1).amax(1).clamp_min(1e-12)
        direction = slope / steepest.reshape(-1, *(1,) * (slope.ndim - 1))
        moved = climbing.detach() + settings.step * (high - low) * direction
        climbing = torch.minimum(torch.maximum(moved, low), high)[~reached]
    found: NDArray[Any] = np.concatenate(done)
    return found


# Each concept and so many near to it, in steps of this width (see `move_concept`). Few and near
# ones teach those changes alone, and real trigger images still go to the target (docs/repair.md).
_NEIGHBOURS, _WIDTH = 6, 1.0
# Victim images per concept, and to climb from; the paper reconstructs 100 in all.
_PER_CONCEPT, _CLIMBED = 30, 100
# Bystanders per concept: of the target, and of all other classes together.
_OF_TARGET, _OF_OTHERS = 30, 40


@dataclass(frozen=True, eq=False)
class Reconstructor:
    """Makes infected images of a pair.

    Attributes:
        suspect: The classifier.
        target: Target class.
        concepts: Concepts that turn the victim into it.
        module: The classifier in torch, from the image to the logits, for gradient ascent; None to
            leave that out.
    """

    suspect: Suspect
    target: int
    concepts: Sequence[Concept]
    module: TorchModel | None

    def infect(self, victims: FloatPixels, seed: int) -> NDArray[Any]:
        """Return infected images of one class as the model takes them; none where nothing works.

        Only those that the model gives to the target, where there are any: the others are clean
        images, teach nothing, and would pass for cured ones.

        Args:
            victims: Clean images of it, shape (images, channels, height, width), 0 to 1.
            seed: For what is drawn; another one gives other neighbours of the concepts.
        """
        rng = np.random.default_rng(seed)
        parts = [self.suspect.inputs(victims[:0])]
        for concept in self.concepts:
            near = [move_concept(concept, rng, _WIDTH) for _ in range(_NEIGHBOURS)]
            for one in (concept, *near):
                chosen = victims[rng.permutation(len(victims))[:_PER_CONCEPT]]
                parts.append(self.suspect.inputs(render_images(chosen, one)))
        if self.module is not None:
            parts.append(self._climb(victims[rng.permutation(len(victims))[:_CLIMBED]]))
        made = np.concatenate(parts)
        if not len(made):
            return made
        turned = answers(self.suspect.body, made) == self.target
        return made[turned] if turned.any() else made

    def bystanders(
        self, pixels: FloatPixels, labels: IntArray, victims: Sequence[int], seed: int
    ) -> tuple[NDArray[Any], IntArray]:
        """Return images of other classes under the concepts, as the model takes them, with labels.

        Args:
            pixels: Clean images of all classes, shape (images, channels, height, width), 0 to 1.
            labels: Their classes.
            victims: Left out.
            seed: For the choice.
        """
        rng = np.random.default_rng(seed)
        target = np.flatnonzero(labels == self.target)
        others = np.flatnonzero(~np.isin(labels, (self.target, *victims)))
        parts, chosen = [self.suspect.inputs(pixels[:0])], [labels[:0]]
        for concept in self.concepts:
            rows = np.concatenate(
                [rng.permutation(target)[:_OF_TARGET], rng.permutation(others)[:_OF_OTHERS]]
            )
            parts.append(self.suspect.inputs(render_images(pixels[rows], concept)))
            chosen.append(labels[rows])
        return np.concatenate(parts), np.concatenate(chosen)

    def _climb(self, victims: FloatPixels) -> NDArray[Any]:
        assert self.module is not None  # noqa: S101 - `infect` has made sure
        bounds = _bounds(self.suspect, victims)
        logits = _logits(self.module)
        return ascend(logits, self.suspect.inputs(victims), self.target, bounds)


def _logits(module: TorchModel) -> Callable[[Any], Any]:
    """Return the first of its outputs, a row per image."""

    def compute(images: Any) -> Any:
        outputs = module.module(images)
        scores = outputs[0] if len(module.outputs) > 1 else outputs
        return scores.reshape(len(images), -1)

    return compute


def _bounds(suspect: Suspect, pixels: FloatPixels) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the least and the largest input that an image can have, for one image."""
    black = suspect.inputs(np.zeros_like(pixels[:1]))
    white = suspect.inputs(np.ones_like(pixels[:1]))
    return np.minimum(black, white), np.maximum(black, white)


def concepts_to_use(ready: Preparation) -> tuple[Concept, ...]:
    """Return the changes of the image to reconstruct with, the best first; none for ascent alone.

    Those that the scan found, or else those that a search for the pair finds. None for more classes
    than concepts are tried on.
    """
    if ready.options.reconstruction == "ascent" or ready.classes > MOST_CLASSES:
        return ()
    if ready.task.concepts:
        return ready.task.concepts
    train = ready.parts.train
    return concepts_for_pair(
        ready.suspect,
        ready.suspect.pixels(train),
        ready.clean.labels[train],
        _likeness(ready),
        ready.task.pair,
        np.random.default_rng(ready.options.scan.seed),
        partial(ready.progress, "concepts tried"),
    )


def _likeness(ready: Preparation) -> NDArray[np.float64]:
    observation, axis = ready.observation, ready.suspect.anatomy.layer.axis
    places = tuple(i for i in range(1, observation.layer.ndim) if i != axis)
    blocks = (block.layer.astype(np.float64) for block in observation.blocks())
    means = np.concatenate([layer.mean(axis=places) for layer in blocks])
    return class_likeness(means, observation.labels, ready.classes)


def image_sets(ready: Preparation, maker: Reconstructor) -> tuple[list[ImageSet], ImageSet]:
    """Return what each fold is trained on, and what measures the result.

    Args:
        ready: The clean set and its split.
        maker: Makes infected images.
    """
    folds = [
        _image_set(ready, maker, rows, seed, ready.teachers)
        for seed, rows in enumerate(ready.parts.folds)
    ]
    return folds, _image_set(ready, maker, ready.parts.measure, len(folds))


def _image_set(
    ready: Preparation,
    maker: Reconstructor,
    rows: IntArray,
    seed: int,
    teachers: Teachers | None = None,
) -> ImageSet:
    """Return images of one part, with lessons where there are teachers."""
    labels = ready.clean.labels[rows]
    pixels = ready.suspect.pixels(rows)
    victims = (ready.task.pair[0], *ready.task.also)
    infected = [maker.infect(pixels[labels == victim], seed) for victim in victims]
    infected_labels = np.repeat(np.array(victims, np.int64), [len(images) for images in infected])
    bystanders = maker.bystanders(pixels, labels, victims, seed)
    lessons = teachers.lessons(ready.suspect, pixels, labels, seed) if teachers else None
    return ImageSet(
        ready.suspect.inputs(pixels),
        labels,
        np.concatenate(infected),
        infected_labels,
        *bystanders,
        lessons,
    )


def answers(body: Body, inputs: NDArray[Any]) -> IntArray:
    """Return the class given to each image; there may be none."""
    if not len(inputs):
        return np.empty(0, np.int64)
    given: IntArray = body.logits(inputs).argmax(axis=1).astype(np.int64)
    return given
