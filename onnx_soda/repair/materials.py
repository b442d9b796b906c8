"""What is trained on and measured with: clean images, and infected ones made of them."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnx_soda.concepts.applicable import MOST_CLASSES
from onnx_soda.concepts.concept import Concept
from onnx_soda.concepts.focus import concepts_for_pair
from onnx_soda.concepts.score import class_likeness
from onnx_soda.data.sources import IntArray
from onnx_soda.repair.bench import Bench
from onnx_soda.repair.reconstruct import Reconstructor
from onnx_soda.repair.training import Material

__all__ = ["find_concepts", "materials"]

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
