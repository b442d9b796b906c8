"""From pixels to what the model takes: ``value = (pixel * scale - mean) / std``, and a layout.

Presets and files of such recipes are in `onnx_soda.data.preprocessing`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_soda.data.images import RESIZES
from onnx_soda.data.sources import Pixels
from onnx_soda.errors import PreprocessingError

__all__ = ["LAYOUTS", "Preprocessing", "wrong_value"]

LAYOUTS = ("NCHW", "NHWC", "NHW", "flat", "flat-chw")
"""Axes of a model's input. NHW: one channel, without an axis; flat: (N, H*W*C), rows of NHWC;
flat-chw: (N, C*H*W), rows of NCHW."""

_FLOATS = frozenset(map(np.dtype, (np.float16, np.float32, np.float64)))


@dataclass(frozen=True)
class Preprocessing:
    """How pixels on the 0..255 scale become the model's input.

    Args:
        name: Shown in reports.
        scale: Factor on the pixels, before mean and standard deviation.
        mean: One number, or one per channel in the order the model sees.
        std: As ``mean``; never zero.
        channel_order: "RGB", or "BGR" for models fed with colours in reverse.
        layout: One of ``LAYOUTS`` where the caller knows it, None to take it from the graph.
        resize: One of "stretch" and "center-crop".

    Raises:
        PreprocessingError: A value is out of place; the message names its key.
    """

    name: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: str = "RGB"
    layout: str | None = None
    resize: str = "stretch"

    def __post_init__(self) -> None:
        for key, numbers in (("scale", (self.scale,)), ("mean", self.mean), ("std", self.std)):
            if not numbers or not all(map(math.isfinite, numbers)):
                raise wrong_value(key, numbers, "one finite number, or one per channel")
        if self.scale == 0 or 0 in self.std:
            raise wrong_value("scale" if self.scale == 0 else "std", 0, "other than zero")
        for key, value, known in (
            ("channel_order", self.channel_order, ("RGB", "BGR")),
            ("layout", self.layout, (*LAYOUTS, None)),
            ("resize", self.resize, RESIZES),
        ):
            if value not in known:
                raise wrong_value(key, value, "one of " + ", ".join(str(entry) for entry in known))

    def apply(
        self, pixels: Pixels, layout: str, dtype: np.dtype[Any] | type[np.generic]
    ) -> NDArray[Any]:
        """Compute the model's input.

        Args:
            pixels: (n, height, width, channels), values on the 0..255 scale.
            layout: One of ``LAYOUTS``; ``self.layout`` is for the caller to heed.
            dtype: Element type of the input: float16, float32 or float64, or uint8, which only
                unchanged pixels fit. Arithmetic is in float32.

        Returns:
            Images in that layout and type, freshly allocated.

        Raises:
            PreprocessingError: The layout, the type or the number of channels does not go with
                this preprocessing.
        """
        dtype = np.dtype(dtype)
        channels = pixels.shape[3]
        factor, offset = self._coefficients(channels)
        unchanged = bool((factor == 1).all() and (offset == 0).all())
        if dtype not in _FLOATS and not (dtype == np.uint8 and unchanged):
            raise PreprocessingError(
                f"preprocessing {self.name!r} cannot make values of type {dtype}",
                "A model with uint8 input takes the preset raw; others take float input.",
            )
        same = unchanged and pixels.dtype == dtype
        out, view = _allocate(pixels.shape, layout, dtype if same else np.dtype(np.float32))
        for channel, source in enumerate(self._order(channels)):
            if same:
                view[..., channel] = pixels[..., source]
            else:
                np.multiply(pixels[..., source], factor[channel], out=view[..., channel])
                view[..., channel] += offset[channel]
        return _cast(out, dtype)

    def as_dict(self) -> dict[str, object]:
        """Return the fields as JSON knows them; `load_preprocessing` reads them back."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    def _coefficients(self, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Fold scale, mean and std into one factor and one offset per channel."""
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in {1, channels}:
                raise PreprocessingError(
                    f'preprocessing {self.name!r}: "{key}" has {len(numbers)} numbers, '
                    f"the images have {channels} channels",
                    "Give one number, or one per channel.",
                )
        std = np.broadcast_to(np.array(self.std, dtype=np.float64), channels)
        mean = np.broadcast_to(np.array(self.mean, dtype=np.float64), channels)
        return (self.scale / std).astype(np.float32), (-mean / std).astype(np.float32)

    def _order(self, channels: int) -> range:
        if self.channel_order == "RGB":
            return range(channels)
        if channels != 3:
            raise PreprocessingError(
                f'preprocessing {self.name!r}: "channel_order" is BGR, '
                f"the images have {channels} channel(s)",
                "BGR is for images of three channels.",
            )
        return range(2, -1, -1)


def _allocate(
    shape: tuple[int, ...], layout: str, dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return an array in the layout wanted, and a view of it as NHWC."""
    count, height, width, channels = shape
    if layout not in LAYOUTS or (layout == "NHW" and channels != 1):
        raise PreprocessingError(
            f'"layout" is {layout!r}, which does not fit images of {channels} channel(s)',
            f"Use one of {', '.join(LAYOUTS)}; NHW is for one channel.",
        )
    if layout in {"NCHW", "flat-chw"}:
        planes = np.empty((count, channels, height, width), dtype=dtype)
        out = planes if layout == "NCHW" else planes.reshape(count, -1)
        return out, planes.transpose(0, 2, 3, 1)
    pixels = np.empty(shape, dtype=dtype)
    shapes = {"NHWC": shape, "NHW": shape[:3], "flat": (count, height * width * channels)}
    return pixels.reshape(shapes[layout]), pixels


def _cast(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype == np.uint8 and values.dtype != np.uint8:  # resized or altered pixels kept as floats
        values = np.clip(np.rint(values), 0, 255)
    return values.astype(dtype, copy=False)


def wrong_value(key: str, value: object, wanted: str) -> PreprocessingError:
    """Return the error for a value that is out of place, to be raised."""
    return PreprocessingError(f'"{key}" is {value!r}', f"It must be {wanted}.")
