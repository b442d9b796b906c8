"""Where images come from, and how they are asked for: by index, in the shape the model wants.

Nothing is decoded before it is asked for. A scan takes about a thousand images of a set that may
hold a hundred times as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ImageShape",
    "ImageSource",
    "IntArray",
    "JoinedSource",
    "Pixels",
    "SubsetSource",
    "sorted_unique",
]

Pixels = NDArray[np.uint8] | NDArray[np.float32]
"""Images as (n, height, width, channels), values on the 0..255 scale."""

IntArray = NDArray[np.int64]
"""Labels or indices, shape (n,)."""


@dataclass(frozen=True)
class ImageShape:
    """Height, width (in pixels) and number of channels of one image."""

    height: int
    width: int
    channels: int


class ImageSource(Protocol):
    """A row of images, read by index."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    @property
    def native(self) -> ImageShape | None:
        """Shape of the stored images, None where they differ."""
        ...

    def read(self, indices: IntArray, shape: ImageShape, resize: str = "stretch") -> Pixels:
        """Decode the images asked for.

        Args:
            indices: (n,) positions, in any order, repeats allowed, negative ones from the end.
            shape: Shape that the model wants.
            resize: "stretch" or "center-crop", see `onnx_soda.data.images`.

        Returns:
            (n, height, width, channels), values 0..255: uint8, or float32 where floats are stored.

        Raises:
            ImageError: An image is unreadable, has NaN, or has other channels than the model.
            DatasetFileError: The file can no longer be read.
            IndexError: A position is outside the source.
        """
        ...


@dataclass(frozen=True)
class SubsetSource:
    """Some images of another source.

    Args:
        source: The source that holds them.
        positions: (n,) their positions there.
    """

    source: ImageSource
    positions: IntArray

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def native(self) -> ImageShape | None:
        """Shape of the stored images, None where they differ."""
        return self.source.native

    def read(self, indices: IntArray, shape: ImageShape, resize: str = "stretch") -> Pixels:
        """Decode the images asked for; see `ImageSource.read`."""
        return self.source.read(self.positions[indices], shape, resize)


@dataclass(frozen=True)
class JoinedSource:
    """Sources one after the other, as the splits of a data set."""

    sources: Sequence[ImageSource]

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    @property
    def native(self) -> ImageShape | None:
        """Shape of the stored images, None where they differ."""
        shapes = {source.native for source in self.sources}
        return shapes.pop() if len(shapes) == 1 else None

    def read(self, indices: IntArray, shape: ImageShape, resize: str = "stretch") -> Pixels:
        """Decode the images asked for; see `ImageSource.read`."""
        positions, inverse = sorted_unique(indices, len(self))
        parts, start = [], 0
        for source in self.sources:
            inside = (positions >= start) & (positions < start + len(source))
            parts.append(source.read(positions[inside] - start, shape, resize))
            start += len(source)
        joined: NDArray[Any] = np.concatenate(parts)
        return joined[inverse]


def sorted_unique(indices: IntArray, count: int) -> tuple[IntArray, IntArray]:
    """Order positions for a single pass over a file.

    Args:
        indices: (n,) positions among ``count``, in any order; negative ones count from the end.
        count: Number of images.

    Returns:
        The distinct positions in increasing order, and (n,) where each of ``indices`` is in them.

    Raises:
        IndexError: A position is outside ``-count..count-1``.
    """
    positions = np.arange(count)[np.asarray(indices, dtype=np.int64)]
    unique, inverse = np.unique(positions, return_inverse=True)
    return unique, inverse
