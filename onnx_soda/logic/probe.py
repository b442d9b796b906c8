"""Runs parts of a graph on single images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_soda.errors import SodaError
from onnx_soda.model.graph import GraphView
from onnx_soda.model.runtime import Session
from onnx_soda.model.runtime_options import RuntimeOptions
from onnx_soda.model.split import extract_body, serialise

__all__ = ["Pixels", "Probe"]

Pixels = NDArray[Any]


class Probe:
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
