"""The part of the Keras converter that runs Keras, on top of PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import torch

from onnx_soda.errors import UnsupportedSourceError

from .protocol import Conversion, ConvertOptions
from .result import Source, finish
from .torch_export import TORCH_PACKAGES, quiet, reference, to_onnx

__all__ = ["convert_model"]

# Where a network takes images of any size.
_USUAL_SIZE = 224
# Scales of Rescaling layers that take bytes: to 0..1 and to -1..1.
_BYTE_SCALES = (1 / 255, 1 / 127.5)


class _Predicting(torch.nn.Module):
    """A Keras model as it is used, not as it is trained."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Any) -> Any:
        return self.model(images, training=False)


def convert_model(
    converter: str, path: Path, copy: Path, out: Path, options: ConvertOptions
) -> Conversion:
    """Convert a checked copy of a Keras file.

    Args:
        converter: Name of the converter.
        path: The file, for its name and digest.
        copy: What Keras may read of it.
        out: File to write.
        options: See `ConvertOptions`.
    """
    with quiet():
        model = keras.models.load_model(copy, compile=False)
        module = _Predicting(model).eval()
        shape, notes = _shape(model, path.name, options)
        image = torch.rand(2, *(size or 1 for size in shape[1:]))
        program = torch.export.export(
            module, (image,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
        )
    source = Source(
        converter,
        path,
        reference(module),
        shape,
        ("keras", *TORCH_PACKAGES),
        facts=tuple(_facts(model)),
        notes=notes,
    )
    return finish(to_onnx(program, options.opset), source, out, options)


def _shape(
    model: Any, file: str, options: ConvertOptions
) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    """Return the shape of a batch, with sizes for free ones, and what is to be said about it."""
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


def _facts(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield what the layers tell about the images."""
    for layer in model._flatten_layers():
        scale = getattr(layer, "scale", None)
        if isinstance(layer, keras.layers.Rescaling) and isinstance(scale, float):
            if any(math.isclose(scale, one, rel_tol=1e-3) for one in _BYTE_SCALES):
                yield "value_range", [0, 255]
            return
