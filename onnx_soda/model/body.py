"""The body of a classifier, from the image to the logits and to the layer that is analysed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_soda.errors import InferenceError
from onnx_soda.model.anatomy import Anatomy
from onnx_soda.model.runtime import Arrays, Session, choose_batch_size, run_batches
from onnx_soda.model.runtime_options import RuntimeOptions
from onnx_soda.model.split import extract_body, serialise

__all__ = ["Body"]


class Body:
    """A classifier as a session with the logits and hidden tensors as outputs.

    Args:
        anatomy: The classifier.
        options: How sessions run.
        sides: Names of further tensors to expose.

    Attributes:
        anatomy: The classifier.
        batch_size: Images per run.
    """

    def __init__(
        self, anatomy: Anatomy, options: RuntimeOptions, sides: tuple[str, ...] = ()
    ) -> None:
        view = anatomy.view
        self.anatomy = anatomy
        self._logits = anatomy.logits.value.name or ""
        self._layer = anatomy.layer.name
        self._sides = sides
        model = extract_body(view, [self._logits, self._layer, *sides])
        self._session = Session(serialise(model, anatomy.model.folder), options, view.image.batch)
        shapes = [view.shapes[v.name] for v in view.activations if v.name in view.shapes]
        self.batch_size = view.image.batch or choose_batch_size(shapes, options)

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers that ONNX Runtime really uses."""
        return self._session.providers

    def logits(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the logits, shape (images, classes), of preprocessed images.

        They may be infinite or no numbers, where a wrong preprocessing overflows the model.
        """
        (scores,) = self._run(images, (self._logits,))
        return _as_rows(scores, len(images))

    def observe(self, images: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[Any], Arrays]:
        """Return logits, layer and side tensors of preprocessed images.

        Raises:
            InferenceError: The model does not run, or its logits are not numbers.
        """
        names = (self._logits, self._layer, *self._sides)
        logits, layer, *sides = self._run(images, names)
        scores = _as_rows(logits, len(images))
        _check_finite(scores)
        return scores, layer, dict(zip(self._sides, sides, strict=True))

    def _run(self, images: NDArray[Any], names: tuple[str, ...]) -> list[NDArray[Any]]:
        feeds = {self.anatomy.view.image.name: images}
        return run_batches(self._session, feeds, self.batch_size, outputs=names)


def _as_rows(logits: NDArray[Any], rows: int) -> NDArray[np.float32]:
    return logits.reshape(rows, -1).astype(np.float32, copy=False)


def _check_finite(scores: NDArray[np.float32]) -> None:
    broken = int((~np.isfinite(scores).all(axis=1)).sum())
    if broken:
        raise InferenceError(
            f"the logits of {broken} of {len(scores)} images are not numbers",
            "Check the preprocessing; the model may be damaged.",
        )
