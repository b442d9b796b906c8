"""Builds classifiers of Keras and scikit-learn and exports them, as their users would."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.finder_jobs import (
    BATCH,
    CLASSES,
    PARAMETER_LIMIT,
    Job,
    Made,
    TooLargeError,
    framework,
)
from benchmarks.finder_torch import export_torch

__all__ = ["make_keras", "make_sklearn"]

_KERAS_SIDE = 96


def make_keras(job: Job, path: Path) -> Made:
    """Build a network of keras.applications on the torch backend and export it.

    Raises:
        TooLargeError: It is over the parameter limit.
        Exception: Whatever the exporter raises.
    """
    os.environ["KERAS_BACKEND"] = "torch"
    torch, keras = framework("torch"), framework("keras")
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, job.name)
    network = build(weights=None, classes=CLASSES, input_shape=(_KERAS_SIDE, _KERAS_SIDE, 3))
    parameters = int(network.count_params())
    if parameters > PARAMETER_LIMIT:
        raise TooLargeError(f"{parameters / 1e6:.0f} M parameters")
    head = [layer for layer in network.layers if _is_keras_head(layer)][-1]
    images = np.random.default_rng(0).random((BATCH, _KERAS_SIDE, _KERAS_SIDE, 3), np.float32)

    class Wrapped(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, image: Any) -> Any:
            return self.inner(image, training=False)

    with torch.no_grad():
        head_input = keras.Model(network.inputs, head.input)(images, training=False)
        scores = network(images, training=False)
        export_torch(Wrapped().eval(), torch.from_numpy(images), job.exporter, path)
    width = int(head.kernel.shape[-2])
    return Made(
        parameters, images, width, head_input.cpu().numpy(), scores.cpu().numpy(), softmax=True
    )


def _is_keras_head(layer: Any) -> bool:
    return CLASSES in {getattr(layer, "units", None), getattr(layer, "filters", None)}


def make_sklearn(job: Job, path: Path) -> Made:
    """Fit a scikit-learn classifier and convert it, with and without ZipMap."""
    skl2onnx, neural = framework("skl2onnx"), framework("sklearn.neural_network")
    rng = np.random.default_rng(0)
    features, labels = rng.random((10 * CLASSES, 64), np.float32), np.arange(10 * CLASSES) % CLASSES
    classifier = neural.MLPClassifier((32, 16), max_iter=20, random_state=0).fit(features, labels)
    options = {id(classifier): {"zipmap": "zipmap" in job.name}}
    converted = skl2onnx.to_onnx(classifier, features[:1], options=options)
    path.write_bytes(converted.SerializeToString())
    images = features[:BATCH]
    hidden = images
    for weights, bias in zip(classifier.coefs_[:-1], classifier.intercepts_[:-1], strict=True):
        hidden = np.maximum(hidden @ weights + bias, 0)
    parameters = sum(int(array.size) for array in (*classifier.coefs_, *classifier.intercepts_))
    scores = classifier.predict_proba(images)
    return Made(parameters, images, classifier.coefs_[-1].shape[0], hidden, scores, softmax=True)
