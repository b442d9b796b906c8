"""Concept interventions on one classifier: reference heads, probe, search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnx_soda.concepts.probe import Probe, ProbeImages
from onnx_soda.concepts.reference import fit_reference_heads, pooled_features
from onnx_soda.concepts.search import Budget, SearchResult, half_membership, search
from onnx_soda.data.datasets import CleanSet
from onnx_soda.data.preprocessing import Preprocessing
from onnx_soda.data.sources import IntArray
from onnx_soda.model.anatomy import Anatomy
from onnx_soda.model.body import Body
from onnx_soda.model.providers import RuntimeOptions
from onnx_soda.observe import image_shape, observe
from onnx_soda.options import no_progress

__all__ = ["ConceptEvidence", "examine_concepts", "split_clean_set"]

# Images of each class that concepts are tried on, and the most of its images that this may take:
# the reference heads need the others.
_PROBE_IMAGES, _PROBE_SHARE = 40, 0.4
_FIT_IMAGES = 300


@dataclass(frozen=True, eq=False)
class ConceptEvidence:
    """What concept interventions show.

    Attributes:
        search: Scores and findings.
        copy_accuracies: Clean accuracy of each reference head on images it was not fitted to.
        fit_images: Images that the reference heads were fitted to.
        probe_images: Images that concepts were tried on.
    """

    search: SearchResult
    copy_accuracies: tuple[float, ...]
    fit_images: int
    probe_images: int


def split_clean_set(labels: IntArray, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Choose images to fit reference heads to, and other ones to try concepts on.

    Args:
        labels: Shape (images,).
        rng: Chooses.

    Returns:
        Positions for fitting and for probing, sorted, without a common one.
    """
    fit, probe = [], []
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        count = min(_PROBE_IMAGES, int(_PROBE_SHARE * len(own)))
        probe.append(own[:count])
        fit.append(own[count : count + _FIT_IMAGES])
    return np.sort(np.concatenate(fit)), np.sort(np.concatenate(probe))


def examine_concepts(
    anatomy: Anatomy,
    clean: CleanSet,
    how: Preprocessing,
    classes: int,
    options: RuntimeOptions,
    seed: int = 0,
    budget: Budget | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> ConceptEvidence:
    """Search for concepts that turn one class into another without the clean data's support.

    Args:
        anatomy: The classifier; its layer is what the reference heads read.
        clean: Clean images.
        how: The model's preprocessing.
        classes: Number of classes.
        options: How sessions run.
        seed: For the choice of images and concepts.
        budget: How many concepts to try.
        advance: Called with the number of concepts tried and the number in all.

    Raises:
        InferenceError: The model does not run.
        ImageError: An image is unreadable or does not fit the model.
    """
    rng = np.random.default_rng(seed)
    fit, chosen = split_clean_set(clean.labels, rng)
    seen = observe(Body(anatomy, options), clean, fit, how, no_progress)
    features = pooled_features(seen.layer, anatomy.layer.axis)
    heads = fit_reference_heads(features, seen.labels, classes, rng)
    shape = image_shape(anatomy.view.image, clean)
    pixels = clean.images.read(chosen, shape, how.resize).astype(np.float32) / 255
    membership = half_membership(clean.labels[chosen], classes)
    images = ProbeImages(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), membership)
    probe = Probe(anatomy, how, images, heads, options)
    result = search(probe, rng, budget, advance)
    return ConceptEvidence(result, heads.accuracies, len(fit), len(chosen))
