"""What is trained on and measured with: clean images, and infected ones made of them.

Reconstruction by gradient ascent: the paper's Algorithm 4, for many images at once.

From clean victim images on, the input climbs f_t(i) - lambda |i|^2, the logit of the target less a
penalty, until the target's probability passes a threshold. Each image stops there: where all climb
on, training on them destroys the model (measured before the project, docs/repair.md).
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
from onnx_soda._detect.concepts.detector import MOST_CLASSES
from onnx_soda._detect.concepts.pipeline import render_images
from onnx_soda._detect.concepts.score import class_likeness
from onnx_soda._detect.concepts.search import concepts_for_pair
from onnx_soda._repair.behaviour import answers
from onnx_soda._repair.materials import Bench, FloatArray, Subject
from onnx_soda._repair.training import Material


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
    how = settings or Ascent()
    low, high = (torch.from_numpy(np.asarray(bound, images.dtype)) for bound in bounds)
    climbing, done = torch.from_numpy(images.copy()), []
    for _ in range(how.steps + 1):
        climbing = climbing.detach().requires_grad_(True)
        scores = logits(climbing)
        reached = scores.detach().softmax(1)[:, target] > how.threshold
        done.append(climbing.detach()[reached].numpy())
        if bool(reached.all()):
            break
        height = scores[:, target].sum() - how.penalty * climbing.square().sum()
        (slope,) = torch.autograd.grad(height, climbing)
        steepest = slope.abs().flatten(1).amax(1).clamp_min(1e-12)
        direction = slope / steepest.reshape(-1, *(1,) * (slope.ndim - 1))
        moved = climbing.detach() + how.step * (high - low) * direction
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
        subject: The classifier.
        target: Target class.
        concepts: Concepts that turn the victim into it.
        module: The classifier in torch, from the image to the logits, for gradient ascent; None to
            leave that out.
    """

    subject: Subject
    target: int
    concepts: Sequence[Concept]
    module: TorchModel | None

    def infect(self, victims: FloatArray, seed: int) -> NDArray[Any]:
        """Return infected images of one class as the model takes them; none where nothing works.

        Only those that the model gives to the target, where there are any: the others are clean
        images, teach nothing, and would pass for cured ones.

        Args:
            victims: Clean images of it, shape (images, channels, height, width), 0 to 1.
            seed: For what is drawn; another one gives other neighbours of the concepts.
        """
        rng = np.random.default_rng(seed)
        parts = [self.subject.inputs(victims[:0])]
        for concept in self.concepts:
            near = [move_concept(concept, rng, _WIDTH) for _ in range(_NEIGHBOURS)]
            for one in (concept, *near):
                chosen = victims[rng.permutation(len(victims))[:_PER_CONCEPT]]
                parts.append(self.subject.inputs(render_images(chosen, one)))
        if self.module is not None:
            parts.append(self._climb(victims[rng.permutation(len(victims))[:_CLIMBED]]))
        made = np.concatenate(parts)
        if not len(made):
            return made
        turned = answers(self.subject.body, made) == self.target
        return made[turned] if turned.any() else made

    def bystanders(
        self, pixels: FloatArray, labels: IntArray, victims: Sequence[int], seed: int
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
        parts, chosen = [self.subject.inputs(pixels[:0])], [labels[:0]]
        for concept in self.concepts:
            rows = np.concatenate(
                [rng.permutation(target)[:_OF_TARGET], rng.permutation(others)[:_OF_OTHERS]]
            )
            parts.append(self.subject.inputs(render_images(pixels[rows], concept)))
            chosen.append(labels[rows])
        return np.concatenate(parts), np.concatenate(chosen)

    def _climb(self, victims: FloatArray) -> NDArray[Any]:
        assert self.module is not None  # noqa: S101 - `infect` has made sure
        bounds = self.subject.bounds(victims)
        logits = _logits(self.module)
        return ascend(logits, self.subject.inputs(victims), self.target, bounds)


def _logits(module: TorchModel) -> Callable[[Any], Any]:
    """Return the first of its outputs, a row per image."""

    def compute(images: Any) -> Any:
        outputs = module.module(images)
        scores = outputs[0] if len(module.outputs) > 1 else outputs
        return scores.reshape(len(images), -1)

    return compute


# Concepts to reconstruct with, besides their neighbours.
_CONCEPTS = 6


def find_concepts(bench: Bench) -> tuple[Concept, ...]:
    """Return the changes of the image to reconstruct with, the best first; none for ascent alone.

    Also none for more classes than concepts are tried on.
    """
    classes = bench.seen.logits.shape[1]
    if bench.options.reconstruction == "ascent" or classes > MOST_CLASSES:
        return ()
    labels = bench.clean.labels[bench.parts.train]
    return concepts_for_pair(
        bench.anatomy,
        bench.subject.how,
        bench.subject.pixels(bench.clean, bench.parts.train),
        labels,
        _likeness(bench, classes),
        bench.pair,
        np.random.default_rng(bench.options.scan.seed),
        _CONCEPTS,
        bench.options.scan.runtime,
        partial(bench.progress, "concepts tried"),
    )


def _likeness(bench: Bench, classes: int) -> NDArray[np.float64]:
    layer, axis = bench.seen.layer, bench.anatomy.layer.axis
    places = tuple(i for i in range(1, layer.ndim) if i != axis)
    return class_likeness(layer.astype(np.float64).mean(axis=places), bench.seen.labels, classes)


def materials(bench: Bench, maker: Reconstructor) -> tuple[list[Material], Material]:
    """Return what each fold is trained on, and what measures the result.

    Args:
        bench: The clean set and its split.
        maker: Makes infected images.
    """
    parts = (*bench.parts.folds, bench.parts.measure)
    *folds, proof = (_material(bench, maker, rows, seed) for seed, rows in enumerate(parts))
    return folds, proof


def _material(bench: Bench, maker: Reconstructor, rows: IntArray, seed: int) -> Material:
    labels = bench.clean.labels[rows]
    pixels = bench.subject.pixels(bench.clean, rows)
    victims = (bench.pair[0], *bench.also)
    infected = [maker.infect(pixels[labels == victim], seed) for victim in victims]
    infected_labels = np.repeat(np.array(victims, np.int64), [len(images) for images in infected])
    bystanders = maker.bystanders(pixels, labels, victims, seed)
    return Material(
        bench.subject.inputs(pixels),
        labels,
        np.concatenate(infected),
        infected_labels,
        *bystanders,
    )
