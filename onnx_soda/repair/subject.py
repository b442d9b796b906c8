"""The classifier under repair, and how images reach it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_soda.data.datasets import CleanSet
from onnx_soda.data.preprocessing import Preprocessing
from onnx_soda.data.sources import IntArray
from onnx_soda.model.body import Body
from onnx_soda.observe import image_shape

__all__ = ["FloatArray", "Subject"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Subject:
    """A classifier with its preprocessing.

    Attributes:
        body: Image to logits and layer, in ONNX Runtime.
        how: The preprocessing.
    """

    body: Body
    how: Preprocessing

    def pixels(self, clean: CleanSet, rows: IntArray | None = None) -> FloatArray:
        """Read images, shape (images, channels, height, width), from 0 to 1.

        Args:
            clean: Where from.
            rows: Positions; all where not given.
        """
        chosen = np.arange(len(clean.labels)) if rows is None else rows
        shape = image_shape(self.body.anatomy.view.image, clean)
        read = clean.images.read(chosen, shape, self.how.resize).astype(np.float32) / 255
        return np.ascontiguousarray(read.transpose(0, 3, 1, 2), np.float32)

    def inputs(self, pixels: FloatArray) -> NDArray[Any]:
        """Return pixels as the model takes them."""
        image = self.body.anatomy.view.image
        levels = 255 * pixels.transpose(0, 2, 3, 1)
        return self.how.apply(levels, self.how.layout or image.layout, image.numpy_dtype())

    def bounds(self, pixels: FloatArray) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the least and the largest input that an image can have, for one image."""
        black, white = self.inputs(np.zeros_like(pixels[:1])), self.inputs(np.ones_like(pixels[:1]))
        return np.minimum(black, white), np.maximum(black, white)

    def activations(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Return the analysed layer for preprocessed images."""
        return self.body.observe(inputs)[1]
