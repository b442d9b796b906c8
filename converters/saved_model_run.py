"""The part of the SavedModel converter that runs TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
import tf2onnx

from onnx_soda.errors import UnsupportedSourceError

from .protocol import Conversion, ConvertOptions
from .result import Reference, Source, finish

__all__ = ["OPSET", "TENSORFLOW_PACKAGES", "convert_model", "scores_of"]

# What PyTorch, for repair, can read of tf2onnx's files ends here.
OPSET = 15
_USUAL = "serving_default"
TENSORFLOW_PACKAGES = ("tensorflow", "tensorflow-cpu", "tf2onnx")


def convert_model(
    converter: str, path: Path, copy: Path, out: Path, options: ConvertOptions
) -> Conversion:
    """Convert a checked copy of a SavedModel.

    Args:
        converter: Name of the converter.
        path: The folder, for its name.
        copy: What TensorFlow may read of it.
        out: File to write.
        options: See `ConvertOptions`.
    """
    loaded = tf.saved_model.load(str(copy))
    name, signature = _signature(loaded.signatures, path.name)
    keyword, spec = _images(signature, path.name)

    @tf.function(input_signature=[spec])  # type: ignore[untyped-decorator, unused-ignore]
    def scores(images: Any) -> list[Any]:
        found = signature(**{keyword: images})
        return [found[one] for one in sorted(found)]

    proto, _ = tf2onnx.convert.from_function(scores, [spec], opset=options.opset or OPSET)
    notes = () if name == _USUAL else (f"The signature {name} was taken.",)
    shape = tuple(spec.shape)
    source = Source(
        converter,
        path,
        scores_of(scores),
        shape,
        TENSORFLOW_PACKAGES,
        dtype=spec.dtype.name,
        notes=notes,
        content=copy,
    )
    return finish(proto, source, out, options)


def _signature(signatures: Any, file: str) -> tuple[str, Any]:
    """Return the usual signature, else the only one."""
    names = list(signatures)
    if _USUAL not in names and len(names) != 1:
        raise UnsupportedSourceError(
            f"{file} has {len(names)} signatures and none is {_USUAL}",
            f"Save it with one signature, or with {_USUAL}.",
        )
    name = _USUAL if _USUAL in names else names[0]
    return name, signatures[name]


def _images(signature: Any, file: str) -> tuple[str, Any]:
    """Return name and form of the one input."""
    inputs = signature.structured_input_signature[1]
    if len(inputs) != 1:
        raise UnsupportedSourceError(
            f"{file} takes {len(inputs)} inputs, not one batch of images",
            "Export a model that takes images alone.",
        )
    ((keyword, spec),) = inputs.items()
    if spec.shape.rank is None:
        raise UnsupportedSourceError(
            f"{file} does not tell the shape of its images", "Export it with an input shape."
        )
    return keyword, tf.TensorSpec(spec.shape, spec.dtype, name=keyword)


def scores_of(function: Any) -> Reference:
    """Return what runs a TensorFlow function on a batch."""
    return lambda images: [one.numpy() for one in tf.nest.flatten(function(tf.constant(images)))]
