"""Images to try first on a decision."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from onnx_soda.logic.probe import Pixels
from onnx_soda.model.inputs import ImageInput

__all__ = ["SCALES", "base_images", "candidates", "fill"]

# Ranges in which images come: pixels divided by 255, pixels, and pixels normalised.
SCALES = {"unit": (0.0, 1.0), "byte": (0.0, 255.0), "normalised": (-2.5, 2.5)}
_GRID = 5
_NOISES = 6
_BASES = 8
_PATCH = 3


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


def base_images(image: ImageInput, scale: str, rng: np.random.Generator) -> list[Pixels]:
    """Return ordinary images: noise around different greys."""
    low, high = SCALES[scale]
    shape = image.concrete_shape(1)[1:]
    means = rng.uniform(0.35, 0.65, _BASES)
    noise = [np.clip(rng.normal(mean, 0.2, shape), 0, 1) for mean in means]
    return [(low + (high - low) * pixels).astype(image.numpy_dtype()) for pixels in noise]


def candidates(
    image: ImageInput, scale: str, rng: np.random.Generator
) -> Iterator[tuple[str, Pixels]]:
    """Yield images with words for them: plain colours, noise, and noise with a bright corner."""
    low, high = SCALES[scale]
    channels = image.channels or 1
    for colour in product(np.linspace(low, high, _GRID), repeat=channels):
        values = ", ".join(f"{value:.3g}" for value in colour)
        yield f"a plain image of colour ({values})", fill(image, colour).astype(image.numpy_dtype())
    for number, noise in enumerate(base_images(image, scale, rng)[:_NOISES]):
        yield f"noise in [{low:g}, {high:g}]", noise
        patched = noise.copy()
        part = patched.reshape(-1)[:_PATCH] if patched.ndim == 1 else _corner(patched, image)
        part[...] = high if number % 2 else low
        yield f"noise with a corner of {part.flat[0]:.3g}", patched


def _corner(pixels: Pixels, image: ImageInput) -> Pixels:
    if image.layout == "NCHW":
        return pixels[:, -_PATCH:, -_PATCH:]
    return pixels[-_PATCH:, -_PATCH:]
