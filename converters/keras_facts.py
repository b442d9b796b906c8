"""What a Keras model tells about its images, whatever it runs on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras

from onnx_soda.errors import UnsupportedSourceError

from .protocol import ConvertOptions

__all__ = ["image_facts", "image_shape"]

# Where a network takes images of any size.
_USUAL_SIZE = 224
# Scales of Rescaling layers that take bytes: to 0..1 and to -1..1.
_BYTE_SCALES = (1 / 255, 1 / 127.5)


def image_shape(
    model: Any, file: str, options: ConvertOptions
) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    """Return the shape of a batch, with sizes for free ones, and what is to be said about it.

    Raises:
        UnsupportedSourceError: It takes several inputs.
    """
    if len(model.inputs) != 1:
        raise UnsupportedSourceError(
            f"{file} takes {len(model.inputs)} inputs, not one batch of images",
            "Export a model that takes images alone.",
        )
    size = options.size or _USUAL_SIZE
    sizes = tuple(model.inputs[0].shape)[1:]
    note = f"The model takes images of any size; the result takes {size} pixels."
    notes = (note,) if None in sizes else ()
    return (None, *(size if one is None else int(one) for one in sizes)), notes


def image_facts(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield what the layers tell about the images."""
    for layer in model._flatten_layers():
        scale = getattr(layer, "scale", None)
        if isinstance(layer, keras.layers.Rescaling) and isinstance(scale, float):
            if any(math.isclose(scale, one, rel_tol=1e-3) for one in _BYTE_SCALES):
                yield "value_range", [0, 255]
            return
