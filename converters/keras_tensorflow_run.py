"""The part of the Keras converter that runs Keras on top of TensorFlow, where PyTorch is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
import tf2onnx

from onnx_soda._answers import Conversion
from onnx_soda._options import ConvertOptions

from .keras_model import image_facts, image_shape
from .result import Source, finish
from .tensorflow_run import OPSET, TENSORFLOW_PACKAGES, scores_of


def convert_on_tensorflow(
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
    model = keras.models.load_model(copy, compile=False)
    shape, notes = image_shape(model, path.name, options)
    spec = tf.TensorSpec(shape, tf.float32, name="images")

    @tf.function(input_signature=[spec])  # type: ignore[untyped-decorator, unused-ignore]
    def scores(images: Any) -> Any:
        return model(images, training=False)

    proto, _ = tf2onnx.convert.from_function(scores, [spec], opset=options.opset or OPSET)
    source = Source(
        converter,
        path,
        scores_of(scores),
        shape,
        ("keras", *TENSORFLOW_PACKAGES),
        facts=tuple(image_facts(model)),
        notes=notes,
    )
    return finish(proto, source, out, options)
