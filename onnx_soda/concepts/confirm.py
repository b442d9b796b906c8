"""Looks at a pair image by image: how many turn, how sure the score is, examples to show.

Uses the scoring half of the images, which chose neither the pair's concepts nor their refinement.
The interval is a bootstrap over the images of each class: it is wide where classes are small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda.concepts.concept import Concept
from onnx_soda.concepts.pipeline import render_images
from onnx_soda.concepts.probe import Probe
from onnx_soda.concepts.score import FloatArray, discount, pair_scores
from onnx_soda.concepts.search import ConceptFinding

__all__ = ["Confirmation", "Example", "confirm"]

_RESAMPLES = 200
# Share of the resamples that the interval leaves out on each side.
_TAIL = 0.05
# Images shown of the victim, and of other classes.
_EXAMPLES = 4


@dataclass(frozen=True, eq=False)
class Example:
    """An image before and under a concept.

    Attributes:
        label: Its class.
        before: Pixels from 0 to 1, shape (channels, height, width).
        under: The same under the concept.
        predicted_before: The model's answer.
        predicted_under: The same under the concept.
        target_probability: Probability of the target under the concept.
    """

    label: int
    before: NDArray[np.float32]
    under: NDArray[np.float32]
    predicted_before: int
    predicted_under: int
    target_probability: float


@dataclass(frozen=True, eq=False)
class Confirmation:
    """What the images of the scoring half say about a pair.

    Attributes:
        victim_class: Source class.
        target_class: Class it is turned into.
        concept: The pair's best concept.
        score: The pair's score.
        low: Lower end of its 90 % interval.
        high: Upper end.
        shown: Images of the victim.
        turned: Those that the model gives to the target under the concept.
        turned_before: Those that it gives to the target as they are.
        reference: Mean probability of the target under the concept in the reference heads.
        others_right_before: Share of the other classes' images given their label as they are.
        others_right_under: The same under the concept.
        examples: Victim images first, then others.
    """

    victim_class: int
    target_class: int
    concept: Concept
    score: float
    low: float
    high: float
    shown: int
    turned: int
    turned_before: int
    reference: float
    others_right_before: float
    others_right_under: float
    examples: tuple[Example, ...]


def confirm(
    probe: Probe,
    pixels: NDArray[np.float32],
    labels: NDArray[np.integer],
    finding: ConceptFinding,
    likeness: FloatArray,
    robustness: FloatArray,
    rng: np.random.Generator,
) -> Confirmation:
    """Examine a pair image by image.

    Args:
        probe: The classifier, every image a group of its own.
        pixels: Those images, shape (images, channels, height, width), from 0 to 1.
        labels: Their classes.
        finding: The pair and its best concepts.
        likeness: How alike classes are.
        robustness: How robust classes usually are, from `usual_robustness`.
        rng: Draws the resamples and the examples.
    """
    unchanged = probe.flows(None)
    under = np.stack([probe.flows(concept) for concept in finding.concepts])
    best, victim, target = under[0], finding.victim_class, finding.target_class
    own = labels == victim
    low, high = _interval(under, unchanged, labels, finding, likeness, robustness, rng)
    before, after = unchanged[0].argmax(axis=1), best[0].argmax(axis=1)
    right = np.stack([before == labels, after == labels])[:, ~own].mean(axis=1)
    chosen = _choose_examples(labels, victim, target, rng)
    return Confirmation(
        victim_class=victim,
        target_class=target,
        concept=finding.concepts[0],
        score=finding.score,
        low=low,
        high=high,
        shown=int(own.sum()),
        turned=int((after[own] == target).sum()),
        turned_before=int((before[own] == target).sum()),
        reference=float(best[1:, own, target].mean()),
        others_right_before=float(right[0]),
        others_right_under=float(right[1]),
        examples=_examples(chosen, pixels, labels, finding, before, best[0]),
    )


def _interval(
    under: FloatArray,
    unchanged: FloatArray,
    labels: NDArray[np.integer],
    finding: ConceptFinding,
    likeness: FloatArray,
    robustness: FloatArray,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Return the 90 % bootstrap interval of the pair's score."""
    classes = under.shape[-1]
    scores = np.empty(_RESAMPLES)
    for turn in range(_RESAMPLES):
        weights = np.zeros((classes, len(labels)))
        for label in np.unique(labels):
            own = np.flatnonzero(labels == label)
            np.add.at(weights[label], rng.choice(own, len(own)), 1 / len(own))
        flows = np.einsum("ci,khid->khcd", weights, under, optimize=True)
        usual = np.einsum("ci,hid->hcd", weights, unchanged, optimize=True)
        mean = pair_scores(flows, usual, likeness, robustness).mean(axis=0)
        scores[turn] = discount(mean, likeness)[finding.victim_class, finding.target_class]
    low, high = np.quantile(scores - finding.background, (_TAIL, 1 - _TAIL))
    return float(low), float(high)


def _choose_examples(
    labels: NDArray[np.integer], victim: int, target: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    own = np.flatnonzero(labels == victim)[:_EXAMPLES]
    others = np.flatnonzero((labels != victim) & (labels != target))
    return np.concatenate([own, rng.permutation(others)[:_EXAMPLES]])


def _examples(
    chosen: NDArray[np.intp],
    pixels: NDArray[np.float32],
    labels: NDArray[np.integer],
    finding: ConceptFinding,
    before: NDArray[np.intp],
    under: FloatArray,
) -> tuple[Example, ...]:
    shown = render_images(pixels[chosen], finding.concepts[0])
    return tuple(
        Example(
            label=int(labels[row]),
            before=pixels[row],
            under=image,
            predicted_before=int(before[row]),
            predicted_under=int(under[row].argmax()),
            target_probability=float(under[row, finding.target_class]),
        )
        for row, image in zip(chosen, shown, strict=True)
    )
