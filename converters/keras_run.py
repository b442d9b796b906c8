"""The part of the Keras converter that runs Keras, on top of PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import torch

from onnx_soda._answers import Conversion
from onnx_soda._options import ConvertOptions

from .keras_model import image_facts, image_shape
from .result import Source, finish
from .torch_run import TORCH_PACKAGES, quiet, reference, to_onnx


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
        shape, notes = image_shape(model, path.name, options)
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
        facts=tuple(image_facts(model)),
        notes=notes,
    )
    return finish(to_onnx(program, options.opset), source, out, options)
