"""The tail of a classifier, from a layer to the logits, ready to be run."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_soda.model.anatomy import Anatomy
from onnx_soda.model.runtime import Arrays, Session, choose_batch_size, run_batches
from onnx_soda.model.runtime_options import RuntimeOptions
from onnx_soda.model.split import Head, extract_head, serialise

__all__ = ["Tail"]


class Tail:
    """The part of a classifier from a layer to the logits, as a session.

    Args:
        anatomy: The classifier.
        options: How sessions run.

    Attributes:
        head: The graph.
        axis: Axis of the neurons in the layer's tensor.
        element_shape: Shape of the layer for one image; None where inference cannot tell it.
        head_dtype: Element type of the layer.
        dtype: The same, as NumPy has it.
    """

    def __init__(self, anatomy: Anatomy, options: RuntimeOptions) -> None:
        view, layer = anatomy.view, anatomy.layer
        self.anatomy = anatomy
        self.options = options
        self.head: Head = extract_head(view, layer.value, anatomy.logits.value)
        self.axis = layer.axis
        self.element_shape = _known(layer.shape)
        self.head_dtype = layer.value.dtype or ir.DataType.FLOAT
        self.dtype: np.dtype[np.generic] = np.dtype(self.head_dtype.numpy())
        self.session = Session(
            serialise(self.head.model, anatomy.model.folder), options, view.image.batch
        )
        names = (output.name or "" for node in self.head.model.graph for output in node.outputs)
        shapes = [view.shapes[name] for name in names if name in view.shapes]
        self.batch_size = choose_batch_size([*shapes, layer.shape or ()], options)

    def learn_shape(self, activations: NDArray[np.generic]) -> None:
        """Take the layer's shape from real activations, where inference could not tell it."""
        self.element_shape = activations.shape[1:]

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the further tensors whose values the tail needs for each image."""
        return tuple(
            side.name
            for side in self.head.sides
            if not side.shape_only or not self._size(side.name)
        )

    @property
    def reads_layer_alone(self) -> bool:
        """Whether the logits depend on the image through the layer alone."""
        return not self.needed and self.element_shape is not None

    def _size(self, name: str) -> tuple[int, ...] | None:
        return _known(self.anatomy.view.shapes.get(name))

    def feeds(self, layer: NDArray[np.generic], sides: Arrays | None = None) -> Arrays:
        """Return what to feed for some values of the layer; zeros where only a shape is read."""
        fed: Arrays = {self.head.layer: layer.astype(self.dtype, copy=False)}
        for side in self.head.sides:
            if sides is not None and side.name in sides:
                fed[side.name] = sides[side.name]
            else:
                shape = (len(layer), *(self._size(side.name) or ()))
                dtype = self.anatomy.view.values[side.name].dtype
                fed[side.name] = np.zeros(shape, dtype.numpy() if dtype else np.float32)
        return fed

    def logits(
        self, layer: NDArray[np.generic], sides: Arrays | None = None
    ) -> NDArray[np.float64]:
        """Compute the logits, shape (rows, classes), for values of the layer.

        Args:
            layer: Values, shape (rows, *element_shape).
            sides: Values of `needed`, with as many rows.
        """
        outputs = run_batches(self.session, self.feeds(layer, sides), self.batch_size)
        return outputs[0].reshape(len(layer), -1).astype(np.float64)


def _known(shape: tuple[int | None, ...] | None) -> tuple[int, ...] | None:
    """Return a shape without its batch axis; None where a size is not known."""
    if shape is None:
        return None
    sizes = [size for size in shape[1:] if size is not None]
    return tuple(sizes) if len(sizes) == len(shape) - 1 else None
