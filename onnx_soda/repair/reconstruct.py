"""Reconstructs infected images from clean images of the victim class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_soda.concepts.concept import Concept, move_concept
from onnx_soda.concepts.pipeline import render_images
from onnx_soda.data.sources import IntArray
from onnx_soda.repair.ascend import ascend
from onnx_soda.repair.behaviour import answers
from onnx_soda.repair.bridge import TorchModel
from onnx_soda.repair.subject import FloatArray, Subject

__all__ = ["Reconstructor"]

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
