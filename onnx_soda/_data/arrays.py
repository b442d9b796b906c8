"""A source of images kept as one array: which axis is which, and what scale floats are on."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from gzip import GzipFile
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.images import resize_pixels
from onnx_soda._data.sources import ImageShape, IntArray, Pixels, readable, sorted_unique
from onnx_soda._errors import ImageError

_CHANNELS = (1, 3, 4)  # grey, colour, colour and one more: what makes an axis the channel axis

# Rows whose values decide the scale of a float array. Every image of a set has been through the
# same preprocessing, so a few would do; 256 spread ones are safe against black images.
_RANGE_ROWS = 256

# Half a grey level on the 0..1 scale: rounding in someone's float arithmetic leaves values a hair
# outside 0..1, which must not be taken for standardised data.
_SLACK = 0.5 / 255


class Rows(Protocol):
    """An array in a file, of which single rows can be read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole array."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        ...

    def take(self, positions: IntArray) -> NDArray[Any]:
        """Read the rows at distinct positions in increasing order."""
        ...


@dataclass(frozen=True)
class LazyRows:
    """Rows of an array that is read whole (or mapped) when the first row is asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], NDArray[Any]]

    @cached_property
    def _array(self) -> NDArray[Any]:
        return self.load()

    def take(self, positions: IntArray) -> NDArray[Any]:
        """Read the rows at the positions given."""
        return np.asarray(self._array[positions])


KEPT_BYTES = 64 * 2**20
"""Data of a clean set that is kept in memory where reading it bit by bit would take longer, or
would tell less: whole files have checksums. A scan may take 300 MB, and its programs take 190."""


@dataclass(frozen=True)
class StreamRows:
    """Rows that stand one after the other in a stream; none is kept.

    Args:
        shape: Shape of the whole array.
        dtype: Element type.
        name: What to call it in an error.
        open: Opens the stream.
        start: Bytes in front of the first row.
        packed: The stream is kept open: it starts anew where it has to go back, and rows are mostly
            asked for in their order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    name: str
    open: Callable[[], IO[bytes] | GzipFile]
    start: int
    packed: bool

    @cached_property
    def _stream(self) -> IO[bytes] | GzipFile:
        return self.open()

    def take(self, positions: IntArray) -> NDArray[Any]:
        """Read the rows at the positions given.

        Raises:
            DatasetFileError: The stream ends before them, or cannot be read.
        """
        out = np.empty((len(positions), *self.shape[1:]), self.dtype)
        size = self.dtype.itemsize * math.prod(self.shape[1:])
        runs = np.split(np.arange(len(positions)), np.flatnonzero(np.diff(positions) != 1) + 1)
        kept = nullcontext(self._stream) if self.packed else self.open()
        with readable(self.name), kept as stream:
            for run in (run for run in runs if len(run)):
                stream.seek(self.start + int(positions[run[0]]) * size)
                data = stream.read(len(run) * size)
                if len(data) != len(run) * size:
                    raise EOFError("it is cut short")
                rows = np.frombuffer(data, self.dtype)
                out[run[0] : run[-1] + 1] = rows.reshape(len(run), *self.shape[1:])
        return out


@dataclass(frozen=True)
class ArraySource:
    """Images in one array, uint8 or float.

    Args:
        rows: The array, in the layout named by ``layout``.
        name: What to call the array in an error.
        layout: "NHW", "NHWC" or "NCHW".
        factor: Brings stored values to the 0..255 scale: 1 or 255.
        bounded: Whether floats must then lie in 0..255; False for preprocessed images.
    """

    rows: Rows
    name: str
    layout: str
    factor: float = 1.0
    bounded: bool = True

    def __len__(self) -> int:
        return self.rows.shape[0]

    @property
    def native(self) -> ImageShape:
        """Shape of the stored images."""
        sizes = dict(zip(self.layout, self.rows.shape, strict=True))
        return ImageShape(sizes["H"], sizes["W"], sizes.get("C", 1))

    def read(self, indices: IntArray, shape: ImageShape, resize: str = "stretch") -> Pixels:
        """Read the images asked for, uint8 as stored or float32; see `ImageSource.read`."""
        if shape.channels != self.native.channels:
            raise ImageError(
                f"{self.name}: images have {_channels(self.native.channels)}, "
                f"the model wants {_channels(shape.channels)}",
                "Give the images that the model was made for; "
                + (
                    "of colour with transparency images[..., :3] leaves the colour."
                    if self.native.channels == 4
                    else "grey arrays get three channels with np.repeat(images[..., None], 3, "
                    "axis=-1)."
                ),
            )
        positions, inverse = sorted_unique(indices, len(self))
        pixels = self._nhwc(self.rows.take(positions))
        if pixels.dtype != np.uint8:
            pixels = self._scaled(pixels, positions)
        return resize_pixels(pixels, shape, resize)[inverse]

    def _nhwc(self, rows: NDArray[Any]) -> NDArray[Any]:
        if self.layout == "NHW":
            return rows[..., None]
        return rows.transpose(0, 2, 3, 1) if self.layout == "NCHW" else rows

    def _scaled(self, stored: NDArray[Any], positions: IntArray) -> NDArray[np.float32]:
        """Bring floats to float32 on the 0..255 scale."""
        pixels = stored.astype(np.float32)
        self._refuse(~np.isfinite(pixels), positions, "values that are not finite numbers")
        pixels *= np.float32(self.factor)
        if self.bounded:
            reach = 255 * _SLACK
            outside = (pixels < -reach) | (pixels > 255 + reach)
            self._refuse(outside, positions, "values off the scale that the other images are on")
            np.clip(pixels, 0, 255, out=pixels)
        return pixels

    def _refuse(self, bad: NDArray[np.bool_], positions: IntArray, what: str) -> None:
        images = np.asarray(bad.any(axis=(1, 2, 3)))
        if images.any():
            raise ImageError(
                f"{self.name}: {int(images.sum())} of the {len(images)} images read have {what}, "
                f"the first is image {positions[images.argmax()]}",
                "Repair or remove these images.",
            )


def open_array(rows: Rows, name: str) -> tuple[ArraySource, str, bool]:
    """Find out how an array holds its images.

    The channel axis is the last one if that is 1, 3 or 4 long, else the second. The scale of
    floats is told from up to 256 rows spread over the array.

    Args:
        rows: The array.
        name: What to call it in an error.

    Returns:
        The source, a note for the report ("" for none), and whether the images are preprocessed
        already.

    Raises:
        ImageError: Other axes or another element type than images have.
    """
    source = ArraySource(rows, name, _layout(rows.shape, name))
    if rows.dtype == np.uint8:
        return source, "", False
    if rows.dtype.kind != "f":
        raise ImageError(
            f"{name} has elements of type {rows.dtype}; images are uint8 or float",
            "Store 0..255 values as uint8: images.astype(np.uint8).",
        )
    return _with_scale(source)


def _with_scale(source: ArraySource) -> tuple[ArraySource, str, bool]:
    low, high = _value_range(source.rows)
    fields = (source.rows, source.name, source.layout)
    if low >= -_SLACK and high <= 1 + _SLACK:
        return (
            ArraySource(*fields, factor=255.0),
            "Float images in 0..1 were multiplied by 255.",
            False,
        )
    if low >= -255 * _SLACK and high <= 255 * (1 + _SLACK):
        return ArraySource(*fields), "", False
    note = (
        f"Float images have values from {low:.4g} to {high:.4g}: they are taken as preprocessed "
        "already and go to the model as they are."
    )
    return ArraySource(*fields, bounded=False), note, True


def _value_range(rows: Rows) -> tuple[float, float]:
    """Return the least and greatest finite value of the rows looked at; 0, 0 if there is none."""
    count = rows.shape[0]
    sample = rows.take(np.unique(np.linspace(0, count - 1, _RANGE_ROWS).astype(np.int64)))
    finite = sample[np.isfinite(sample)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _layout(shape: tuple[int, ...], name: str) -> str:
    if 0 not in shape:
        if len(shape) == 3:
            return "NHW"
        if len(shape) == 4 and shape[3] in _CHANNELS:
            return "NHWC"
        if len(shape) == 4 and shape[1] in _CHANNELS:
            return "NCHW"
    raise ImageError(
        f"{name} has shape {shape}, which is not one of images",
        "Store images as (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels.",
    )


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"
