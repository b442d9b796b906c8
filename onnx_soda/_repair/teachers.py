"""What other models say changed images should be: lessons for a repair.

A repair without references teaches what is known of one pair, and breaks what it knows nothing of.
References of the same classes answer for all classes under the whole bank of concepts: where they
agree, and still know the class, the repaired model should say what they say. So bystanders are
right by construction, and the pair need not be.

Lessons are answers to kinds of images, a class under a concept, not to single ones: that is what
references are asked for a second opinion, and nothing else needs to be asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.sources import IntArray
from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.experiment import MOST_CLASSES, why_not_tried
from onnx_soda._detect.concepts.pipeline import render_images
from onnx_soda._detect.references.admission import admit
from onnx_soda._detect.references.bank import concept_bank
from onnx_soda._detect.references.flows import Flows
from onnx_soda._detect.references.opinion import SecondOpinion, second_opinion
from onnx_soda._options import Progress
from onnx_soda._suspect import FloatPixels, Suspect

FloatArray = NDArray[np.float64]

# Lessons of each image, and bytes that all of a part may take.
_DRAWS, _MOST_BYTES = 3, 256 * 2**20
# Share of the lessons that are drawn evenly from the bank. The others are drawn where the suspect
# does what the references do not.
_EVENLY = 0.3
# What the suspect may do beyond the mean of the references and one spread.
_LEAST_EXCESS = 0.05
# Spread between references at which a lesson counts half.
_DISAGREEMENT = 0.2
# Other victims that are repaired with the pair that stands out most, where nothing is named.
_MOST_ALSO = 2


@dataclass(frozen=True, eq=False)
class Lessons:
    """Changed images, and what they should be.

    Attributes:
        images: As the model takes them, shape (lessons, ...).
        answers: Probabilities of the classes, shape (lessons, classes).
        weights: How much each counts, shape (lessons,), from 0 to 1.
    """

    images: NDArray[Any]
    answers: NDArray[np.float32]
    weights: NDArray[np.float32]

    def __add__(self, other: Lessons) -> Lessons:
        return Lessons(
            np.concatenate([self.images, other.images]),
            np.concatenate([self.answers, other.answers]),
            np.concatenate([self.weights, other.weights]),
        )


@dataclass(frozen=True, eq=False)
class Teachers:
    """References beside the suspect that they teach.

    Attributes:
        own: What the suspect makes of the bank.
        references: What the references make of it, one at least.
        bank: The concepts.
    """

    own: Flows
    references: tuple[Flows, ...]
    bank: tuple[Concept, ...]

    @cached_property
    def opinion(self) -> SecondOpinion:
        """What stands out in the suspect."""
        return second_opinion(self.own, self.references)

    def after(self, repaired: Flows) -> SecondOpinion:
        """Return what stands out in the repaired model."""
        return second_opinion(repaired, self.references)

    @cached_property
    def _shares(self) -> FloatArray:
        """Of the references, shape (references, 1 + concepts, classes, classes)."""
        shares = np.stack([one.shares for one in self.references])
        means: FloatArray = shares.astype(np.float64).mean(axis=2)
        return means

    @cached_property
    def answers(self) -> FloatArray:
        """What they say under each concept, shape (concepts, classes, classes); rows add up to 1.

        The mean of the references.
        """
        told = self._shares.mean(axis=0)[1:]
        total: FloatArray = told / np.maximum(told.sum(axis=-1, keepdims=True), np.finfo(float).eps)
        return total

    @cached_property
    def weights(self) -> FloatArray:
        """How much that counts, shape (concepts, classes): they know the class, and agree."""
        known = np.einsum("kcc->kc", self.answers)
        apart = self._shares[:, 1:].std(axis=0).max(axis=-1)
        weights: FloatArray = known / (1 + (apart / _DISAGREEMENT) ** 2)
        return weights

    @cached_property
    def chances(self) -> FloatArray:
        """How likely each concept is drawn for a class, shape (concepts, classes).

        A part evenly, the rest by what the suspect sends to other classes beyond the references.
        """
        own = self.own.shares.astype(np.float64).mean(axis=1)[1:]
        spread = self._shares[:, 1:].std(axis=0)
        more = np.maximum(own - self.answers - spread - _LEAST_EXCESS, 0)
        classes = np.arange(more.shape[-1])
        more[:, classes, classes] = 0
        sent = more.sum(axis=-1)
        evenly = np.full_like(sent, 1 / len(sent))
        total = sent.sum(axis=0)
        aimed = np.where(total > 0, sent / np.maximum(total, np.finfo(float).eps), evenly)
        chances: FloatArray = _EVENLY * evenly + (1 - _EVENLY) * aimed
        return chances

    def lessons(
        self, suspect: Suspect, pixels: FloatPixels, labels: IntArray, seed: int
    ) -> Lessons:
        """Make lessons of clean images.

        Args:
            suspect: Tells how pixels become its input.
            pixels: Shape (images, channels, height, width), from 0 to 1.
            labels: Their classes.
            seed: For what is drawn.
        """
        rng = np.random.default_rng(seed)
        most = max(_MOST_BYTES // max(pixels[:1].nbytes, 1), 1)
        rows = np.concatenate([rng.permutation(len(labels)) for _ in range(_DRAWS)])[:most]
        cumulated = self.chances.cumsum(axis=0)
        drawn = (cumulated[:, labels[rows]] < rng.random(len(rows))).sum(axis=0)
        places = np.minimum(drawn, len(self.bank) - 1)
        order = np.argsort(places, kind="stable")
        rows, places = rows[order], places[order]
        images = [suspect.inputs(pixels[:0])]
        for place in np.unique(places):
            chosen = rows[places == place]
            images.append(suspect.inputs(render_images(pixels[chosen], self.bank[place])))
        told = (places, labels[rows])
        return Lessons(
            np.concatenate(images),
            self.answers[told].astype(np.float32),
            self.weights[told].astype(np.float32),
        )

    def most_outstanding(self) -> tuple[tuple[int, int], tuple[int, ...]]:
        """Return the pair that stands out most, and other classes that score with its target."""
        scores = self.opinion.scores
        first, *others = self.opinion.ranked()
        also = [
            victim for victim, target in others if target == first[1] and scores[victim, target] > 0
        ]
        return first, tuple(also[:_MOST_ALSO])


def teachers_of(suspect: Suspect, progress: Progress) -> tuple[Teachers | None, tuple[str, ...]]:
    """Return the references of a suspect as its teachers, and a sentence on each left out.

    Args:
        suspect: The classifier, with clean images and references.
        progress: Called as it is shown the bank.

    Returns:
        None where no reference can be used.
    """
    if not suspect.references or suspect.clean is None:
        return None, ()
    if why_not_tried(suspect.clean, suspect.classes or 0, MOST_CLASSES) is not None:
        return None, ()
    admitted = admit(suspect, progress)
    if admitted.own is None:
        return None, admitted.left_out
    bank = concept_bank(suspect.image_shape(suspect.clean).channels)
    flows = tuple(voice.flows for voice in admitted.voices)
    return Teachers(admitted.own, flows, bank), admitted.left_out
