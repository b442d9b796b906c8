"""Small networks saved in the form of each framework."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

CLASSES, FEATURES, SIZE = 5, 8, 16
Features = Callable[[NDArray[Any]], NDArray[Any]]


@contextmanager
def quietly() -> Iterator[None]:
    """Frameworks warn of their own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def numbers(*shape: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def torch_network(softmax: bool = False) -> Any:
    """Return a network of Conv, BatchNorm, ReLU, pooling and Linear, NCHW, 3 x 16 x 16."""
    torch = pytest.importorskip("torch", reason="needs the [pytorch] extra")
    pytest.importorskip("onnxscript", reason="needs the [pytorch] extra")
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(FEATURES)
    norm.running_mean.uniform_(-0.5, 0.5)
    layers = [
        torch.nn.Conv2d(3, FEATURES, 3, padding=1, bias=False),
        norm,
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(FEATURES, CLASSES),
    ]
    return torch.nn.Sequential(*layers, *([torch.nn.Softmax(1)] if softmax else [])).eval()


def save_program(module: Any, path: Path, free: bool = True) -> None:
    import torch

    image = torch.rand(2, 3, SIZE, SIZE)
    shapes = ({0: torch.export.Dim.DYNAMIC},) if free else None
    with quietly():
        torch.export.save(torch.export.export(module, (image,), dynamic_shapes=shapes), path)


def save_script(module: Any, path: Path, trace: bool) -> None:
    import torch

    with quietly():
        image = torch.rand(2, 3, SIZE, SIZE)
        made = torch.jit.trace(module, image) if trace else torch.jit.script(module)
        torch.jit.save(made, path)


def keras_network(softmax: bool = False, backend: str = "torch") -> Any:
    """Return the same in Keras, NHWC, with a Rescaling layer in front."""
    pytest.importorskip(backend, reason=f"needs Keras and {backend}")
    before = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = backend
    with quietly():
        keras = pytest.importorskip("keras", reason=f"needs Keras and {backend}")
    if before is None:
        del os.environ["KERAS_BACKEND"]
    if keras.backend.backend() != backend:
        pytest.skip("Keras runs on another backend in this process")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(FEATURES, 3, padding="same", use_bias=False),
            layers.BatchNormalization(moving_mean_initializer="random_uniform"),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES, activation="softmax" if softmax else None),
        ]
    )


def rewrite(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Copy a zip archive, with the content of each member changed or, where None, left out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            content = change(member.filename, old.read(member))
            if content is not None:
                new.writestr(member.filename, content)


class Payload:
    """A pickle of it makes a file when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.marker}",))


def torch_bytes(value: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
