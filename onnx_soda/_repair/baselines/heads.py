"""The last layer as a matrix and an offset, where it is one: read, and put back into the file.

Which stored tensors these are, and which way round, is not read off operators: it is tested on real
features that the matrix and the offset give the model's own logits. So Gemm and MatMul, weights
behind Identity or Transpose and convolutions of one place are all the same. No torch is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_soda._bridge.bridge import stored_tensors, with_values
from onnx_soda._errors import RepairError
from onnx_soda._model.runtime import relative_difference, tolerance_of
from onnx_soda._repair.baselines.base import Examples
from onnx_soda._repair.preparation import Preparation

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Affine:
    """A matrix and an offset.

    Attributes:
        matrix: Shape (classes, features).
        offset: Shape (classes,).
    """

    matrix: Matrix
    offset: Matrix

    def logits(self, features: Matrix) -> Matrix:
        """Return the logits of features, shape (images, classes)."""
        scores: Matrix = features @ self.matrix.T + self.offset
        return scores


@dataclass(frozen=True, eq=False)
class Head:
    """The last layer.

    Attributes:
        affine: Its values.
        matrix_name: Name of the stored tensor of the matrix.
        offset_name: The same of the offset; None where there is none, and it is 0.
        turned: The matrix is stored the other way round, (features, classes).
        proto: The model that it is part of.
    """

    affine: Affine
    matrix_name: str
    offset_name: str | None
    turned: bool
    proto: onnx.ModelProto

    def with_affine(self, other: Affine) -> onnx.ModelProto:
        """Return the model with another matrix and offset."""
        stored = stored_tensors(self.proto)
        named = [(self.matrix_name, other.matrix.T if self.turned else other.matrix)]
        if self.offset_name is not None:
            named.append((self.offset_name, other.offset))
        return with_values(
            self.proto,
            {name: value.reshape(tuple(stored[name].dims)) for name, value in named},
        )

    def columns(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return where the stored matrix reads chosen features, in its own shape.

        Args:
            chosen: Shape (features,).
        """
        wide = np.broadcast_to(chosen, self.affine.matrix.shape)
        shape = tuple(stored_tensors(self.proto)[self.matrix_name].dims)
        return (wide.T if self.turned else wide).reshape(shape)


def features_of(ready: Preparation, examples: Examples) -> Matrix:
    """Return what the last layer reads, shape (images, features), by ONNX Runtime."""
    return _rows(ready.suspect.body.observe(examples.images)[1])


def find_head(ready: Preparation, what: str) -> Head:
    """Return the last layer of a model.

    Args:
        ready: The model.
        what: What needs it, as in "DFR fits".

    Raises:
        RepairError: It is more than a matrix and an offset, or these are not stored as they are.
    """
    tail = ready.suspect.tail
    activations = ready.observation.layer
    if tail.reads_layer_alone:
        features, wanted = _rows(activations), tail.logits(activations)
        for head in _candidates(ready, features.shape[1], wanted.shape[1]):
            given = [head.affine.logits(features)]
            if relative_difference(given, [wanted]) <= tolerance_of([activations]):
                return head
    raise RepairError(
        f"{what} a last layer that is a matrix of floating-point weights, with or without an "
        "offset, and this model's is not",
        "Take another method.",
    )


def _candidates(ready: Preparation, features: int, classes: int) -> Iterator[Head]:
    """Yield what the last layer may be, by the sizes of what is stored there."""
    stored = stored_tensors(ready.proto)
    graph = ready.suspect.tail.graph.model.graph
    constants = [node.outputs[0].name or "" for node in graph if node.op_type == "Constant"]
    names = [name for name in (*graph.initializers, *constants) if name in stored]
    arrays = {name: numpy_helper.to_array(stored[name]) for name in names}
    floats = {name: array for name, array in arrays.items() if array.dtype.kind == "f"}
    zero = np.zeros(classes)
    offsets: list[tuple[str | None, Any]] = [
        (name, array) for name, array in floats.items() if array.size == classes
    ]
    for name, array in floats.items():
        if array.size != features * classes or array.ndim < 2:
            continue
        for turned in (False, True):
            shape = (features, classes) if turned else (classes, features)
            if not _fits(array.shape, shape):
                continue
            matrix = array.astype(np.float64).reshape(shape)
            for offset_name, offset in (*offsets, (None, zero)):
                affine = Affine(matrix.T if turned else matrix, _flat(offset))
                yield Head(affine, name, offset_name, turned, ready.proto)


def _fits(stored: tuple[int, ...], shape: tuple[int, int]) -> bool:
    """Tell whether a stored shape is this one, but for axes of size 1 behind it."""
    return stored[:2] == shape and set(stored[2:]) <= {1}


def _flat(array: NDArray[Any]) -> Matrix:
    return array.astype(np.float64).reshape(-1)


def _rows(layer: NDArray[Any]) -> Matrix:
    return layer.reshape(len(layer), -1).astype(np.float64)
