"""A source of encoded images (JPEG, PNG, ...), decoded one by one as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnx_soda.data.images import decode, header_shape, strict_pillow
from onnx_soda.data.sources import ImageShape, IntArray, Pixels, sorted_unique

__all__ = ["EncodedSource"]

# Headers looked at to tell the stored shape: enough to notice a mixed set, little enough that
# nobody waits for it. A wrong guess costs nothing, since `read` resizes whatever it finds.
_HEADERS = 16


@dataclass(frozen=True)
class EncodedSource:
    """Encoded images, fetched by position.

    Args:
        count: Number of images.
        fetch: Given distinct positions in increasing order, gives for each in turn the image's
            name (for errors) and its encoded bytes.
    """

    count: int
    fetch: Callable[[IntArray], Iterable[tuple[str, bytes]]]

    def __len__(self) -> int:
        return self.count

    @cached_property
    def native(self) -> ImageShape | None:
        """Shape that the headers of 16 images spread over the set agree on; None if they differ.

        Raises:
            ImageError: One of them is unreadable.
        """
        spread = np.unique(np.linspace(0, self.count - 1, _HEADERS).astype(np.int64))
        with strict_pillow():
            shapes = {header_shape(data, name) for name, data in self.fetch(spread)}
        return shapes.pop() if len(shapes) == 1 else None

    def read(self, indices: IntArray, shape: ImageShape, resize: str = "stretch") -> Pixels:
        """Decode the images asked for as uint8; see `ImageSource.read`."""
        positions, inverse = sorted_unique(indices, self.count)
        out = np.empty((len(positions), shape.height, shape.width, shape.channels), dtype=np.uint8)
        with strict_pillow():
            for target, (name, data) in zip(out, self.fetch(positions), strict=True):
                target[...] = decode(data, name, shape, resize)
        return out[inverse]
