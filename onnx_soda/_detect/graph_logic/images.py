"""Images that are shown to a graph: how they are run, and which there are without a clean set."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_soda._detect.graph_logic.flow import Flow, constant_of
from onnx_soda._errors import SodaError
from onnx_soda._model.graph import GraphView
from onnx_soda._model.inputs import ImageInput
from onnx_soda._model.parts import extract_body, serialise
from onnx_soda._model.runtime import Session
from onnx_soda._options import RuntimeOptions

Pixels = NDArray[Any]


class ImageRunner:
    """Shows single images to a graph, within limits of time and number.

    Images are shown one by one: a condition of If is one for the whole batch.

    Args:
        view: The graph.
        runtime: Where it runs.
        seconds: Time limit.
        images: Limit of images.
        folder: Where the model's external weights lie; None where it has none.
    """

    def __init__(
        self,
        view: GraphView,
        runtime: RuntimeOptions,
        seconds: float,
        images: int,
        folder: Path | None = None,
    ) -> None:
        self.view = view
        self.shown = 0
        self._runtime = runtime
        self._deadline = time.monotonic() + seconds
        self._left = images
        self._folder = folder

    @property
    def exhausted(self) -> bool:
        """Tell whether a limit is reached."""
        return self._left <= 0 or time.monotonic() > self._deadline

    def reader(self, names: list[str]) -> Session:
        """Return a session from the image to some tensors."""
        model = extract_body(self.view, names)
        return Session(serialise(model, self._folder), self._runtime)

    def forced(self, decision: ir.Value, scores: ir.Value) -> Session:
        """Return a session from the image and a decision to the scores."""
        graph = self.view.model.graph
        inputs = [self.view.image_value, decision]
        part = ir.convenience.extract(graph, inputs, [scores])
        part.name = part.name or "part"
        part.opset_imports.update(graph.opset_imports)
        model = ir.Model(part, ir_version=self.view.model.ir_version)
        return Session(serialise(model, self._folder), self._runtime)

    def show(
        self, session: Session, image: Pixels, extra: dict[str, Pixels] | None = None
    ) -> list[Pixels] | None:
        """Run a session on one image; None where the graph refuses it."""
        self.shown += 1
        self._left -= 1
        batch = np.repeat(image[None], self.view.image.batch or 1, axis=0)
        try:
            loaded = session.upload({self.view.image.name: batch})
            return session.run(loaded, extra, whole=True)
        except SodaError:
            return None


Bounds = tuple[float, float]
_BYTES: Bounds = (0.0, 255.0)
# Ranges in which images come: pixels divided by 255, pixels, and pixels normalised.
_RANGES: tuple[Bounds, ...] = ((0.0, 1.0), _BYTES, (-2.5, 2.5))


@dataclass(frozen=True, eq=False)
class Clean:
    """Clean images as a model takes them, and a little changed.

    Attributes:
        images: The images; none where there is no clean set.
        bounds: Lowest and highest value that a pixel can have, not only in these images.
    """

    images: tuple[Pixels, ...] = ()
    bounds: Bounds = (0.0, 1.0)


_GRID = 5
_NOISES = 6
_BASES = 8
_PATCHED = 4
_PATCH = 3


def ranges_of(image: ImageInput) -> tuple[Bounds, ...]:
    """Return the ranges in which a model's images may come, where no clean images tell."""
    return (_BYTES,) if image.dtype == "uint8" else _RANGES


def fill(image: ImageInput, colour: tuple[float, ...]) -> Pixels:
    """Return an image of one colour."""
    shape = image.concrete_shape(1)[1:]
    tint = np.asarray(colour)
    if image.layout == "NCHW":
        tint = tint[: shape[0], None, None]
    elif image.layout == "NHWC":
        tint = tint[: shape[2]]
    else:
        tint = tint[:1]
    return np.broadcast_to(tint, shape).astype(np.float64)


def base_images(image: ImageInput, bounds: Bounds, rng: np.random.Generator) -> list[Pixels]:
    """Return plain images: noise around different greys, and patches of colour in light and dark.

    They stand for ordinary ones where there are no clean images.

    Args:
        image: The model's input.
        bounds: Lowest and highest value of a pixel.
        rng: Randomness.
    """
    low, high = bounds
    shape = image.concrete_shape(1)[1:]
    means = rng.uniform(0.35, 0.65, _BASES)
    noise = [np.clip(rng.normal(mean, 0.2, shape), 0, 1) for mean in means]
    # Some are darker: what depends on the largest pixel shall not always see the same.
    noise = [part * (1, 0.8, 0.6)[number % 3] for number, part in enumerate(noise)]
    patches = [_patches(shape, rng) for _ in range(_PATCHED)] if len(shape) > 1 else []
    made = [*noise, *patches]
    return [(low + (high - low) * pixels).astype(image.numpy_dtype()) for pixels in made]


def _patches(shape: tuple[int, ...], rng: np.random.Generator) -> Pixels:
    """Return an image of large smooth patches, as a strong blur leaves them."""
    coarse = rng.uniform(0.1, 0.9, [min(size, 3) for size in shape])
    places = [np.linspace(0, min(size, 3) - 1, size).round().astype(int) for size in shape]
    return np.asarray(0.5 + (coarse[np.ix_(*places)] - 0.5) * rng.uniform(0.2, 0.8))


def candidates(
    image: ImageInput, bounds: Bounds, rng: np.random.Generator
) -> Iterator[tuple[str, Pixels]]:
    """Yield images with words for them: plain colours, noise, and noise with a bright corner."""
    low, high = bounds
    channels = image.channels or 1
    for colour in product(np.linspace(low, high, _GRID), repeat=channels):
        values = ", ".join(f"{value:.3g}" for value in colour)
        yield f"a plain image of colour ({values})", fill(image, colour).astype(image.numpy_dtype())
    for number, noise in enumerate(base_images(image, bounds, rng)[:_NOISES]):
        yield f"noise in [{low:g}, {high:g}]", noise
        patched = noise.copy()
        part = patched.reshape(-1)[:_PATCH] if patched.ndim == 1 else _corner(patched, image)
        part[...] = high if number % 2 else low
        yield f"noise with a corner of {part.flat[0]:.3g}", patched


def _corner(pixels: Pixels, image: ImageInput) -> Pixels:
    if image.layout == "NCHW":
        return pixels[:, -_PATCH:, -_PATCH:]
    return pixels[-_PATCH:, -_PATCH:]


# Filters whose own patterns are shown.
_FILTERS = 8


def matched_images(
    image: ImageInput, flow: Flow, value: ir.Value, bounds: Bounds
) -> Iterator[tuple[str, Pixels]]:
    """Yield images tiled with what the filters that read the pixels of a path look for.

    Args:
        image: The model's input.
        flow: The graph.
        value: What the path brings along.
        bounds: Lowest and highest value of a pixel.
    """
    if image.layout not in ("NCHW", "NHWC"):
        return
    channels, *size = _planes(image, image.concrete_shape(1)[1:])
    for step in flow.ancestors(value):
        kernel = constant_of(step.inputs[1]) if step.op == "Conv" else None
        if kernel is None or kernel.ndim != 4 or kernel.shape[1] != channels:
            continue
        loudest = np.argsort(-np.abs(kernel).sum(axis=(1, 2, 3)), kind="stable")[:_FILTERS]
        for number in loudest:
            times = [-(-size[at] // kernel.shape[at + 2]) for at in range(2)]
            tiled = np.tile(kernel[number] > 0, (1, *times))[:, : size[0], : size[1]]
            pixels = np.where(tiled, bounds[1], bounds[0])
            oriented = pixels if image.layout == "NCHW" else pixels.transpose(1, 2, 0)
            yield "an image tiled with the pattern of a filter", oriented.astype(image.dtype)


def _planes(image: ImageInput, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if image.layout == "NCHW" else (shape[2], shape[0], shape[1])
