"""Reads the layers that reference heads are fitted to, as features of the clean images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda.concepts.pooling import Pooling, make_pooling
from onnx_soda.concepts.style_layer import StyleLayer, find_style_layer
from onnx_soda.data.datasets import CleanSet
from onnx_soda.data.preprocessing import Preprocessing
from onnx_soda.data.sources import IntArray
from onnx_soda.model.anatomy import Anatomy
from onnx_soda.model.body import Body
from onnx_soda.model.penultimate import Layer
from onnx_soda.model.runtime_options import RuntimeOptions
from onnx_soda.observe import observe
from onnx_soda.options import no_progress

__all__ = ["Features", "read_features", "reference_layers"]

FloatArray = NDArray[np.float64]

# Earlier layers know colours and edges better than classes.
_ROLES = ("last", "deep", "middle")


@dataclass(frozen=True, eq=False)
class Features:
    """What the model makes of the clean images, layer by layer.

    Attributes:
        accuracy: Share of the images whose class has the largest logit.
        poolings: How each layer became features; the last layer first.
        layers: Features of each, shape (images, features).
        style_layer: The earliest of them that has a style; None where none has.
        styles: Style of each image there, shape (images, 2, channels).
    """

    accuracy: float
    poolings: tuple[Pooling, ...]
    layers: tuple[FloatArray, ...]
    style_layer: StyleLayer | None
    styles: NDArray[np.float32]


def reference_layers(anatomy: Anatomy) -> tuple[Layer, ...]:
    """Return the layers that reference heads read, the last one first, each once."""
    offered = [layer for layer in anatomy.candidates if layer.role in _ROLES]
    chosen = {layer.name: layer for layer in (offered or [anatomy.layer])}
    return tuple(chosen.values())


def read_features(
    anatomy: Anatomy,
    clean: CleanSet,
    rows: IntArray,
    how: Preprocessing,
    options: RuntimeOptions,
) -> Features:
    """Run the model over clean images and pool its layers, a batch at a time.

    Args:
        anatomy: The classifier.
        clean: Clean images.
        rows: Positions of those to read.
        how: The model's preprocessing.
        options: How sessions run.

    Raises:
        InferenceError: The model does not run.
        ImageError: An image is unreadable or does not fit the model.
    """
    layers = reference_layers(anatomy)
    names = [layer.name for layer in layers]
    # The body gives the analysed layer anyway.
    body = Body(anatomy, options, tuple(name for name in names if name != anatomy.layer.name))
    poolings: tuple[Pooling, ...] = ()
    style_layer: StyleLayer | None = None
    right, parts, styles = 0.0, [], []
    for start in range(0, len(rows), body.batch_size):
        seen = observe(body, clean, rows[start : start + body.batch_size], how, no_progress)
        right += seen.accuracy * len(seen.labels)
        given = {**seen.sides, anatomy.layer.name: seen.layer}
        values = [given[name] for name in names]
        if not poolings:
            poolings = tuple(
                make_pooling(layer.name, layer.axis, value.shape, grid=number > 0)
                for number, (layer, value) in enumerate(zip(layers, values, strict=True))
            )
            style_layer = find_style_layer(poolings, [value.shape for value in values])
        parts.append([pool.apply(value) for pool, value in zip(poolings, values, strict=True)])
        if style_layer:
            styles.append(style_layer.measure(given[style_layer.name]))
    together = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
    measured = np.concatenate(styles) if styles else np.zeros((len(rows), 2, 0), np.float32)
    return Features(right / len(rows), poolings, together, style_layer, measured)
