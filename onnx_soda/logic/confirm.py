"""Tries a suspicion out: forces the decision, then looks for an image that takes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_soda.errors import SodaError
from onnx_soda.logic.decisions import Decisions
from onnx_soda.logic.evidence import Proof
from onnx_soda.logic.flow import Flow
from onnx_soda.logic.force import Forced, force, values_of
from onnx_soda.logic.images import SCALES, base_images, candidates
from onnx_soda.logic.judge import Suspicion
from onnx_soda.logic.margins import find_operands, find_stored
from onnx_soda.logic.probe import Pixels, Probe
from onnx_soda.logic.satisfy import Found, satisfy
from onnx_soda.logic.steepness import Slope
from onnx_soda.model.graph import GraphView

__all__ = ["Scene", "confirm"]

# Values of a path round the trunk that are tried out, spread from the farthest to the usual one.
_PATH_VALUES = 8


@dataclass(frozen=True, eq=False)
class Scene:
    """What is known of a graph, and the means to run it."""

    view: GraphView
    flow: Flow
    decisions: Decisions
    slopes: dict[ir.Value, Slope]
    scores: ir.Value
    probe: Probe


def confirm(
    scene: Scene, suspicion: Suspicion, rng: np.random.Generator
) -> tuple[Proof | None, str | None]:
    """Try out a suspicion.

    Returns:
        What was seen, None where it cannot be tried; and a sentence on why not.
    """
    origin = suspicion.origin
    name = origin.name or ""
    if scene.view.values.get(name) is not origin:
        return None, f"The decision {name!r} is made inside a body of the graph; it was not forced."
    try:
        return _try(scene, origin, rng), None
    except SodaError as error:
        return None, f"The decision {name!r} was not forced: {error.message}."


def _try(scene: Scene, origin: ir.Value, rng: np.random.Generator) -> Proof | None:
    name, probe = origin.name or "", scene.probe
    scale = "byte" if scene.view.image.dtype == "uint8" else "unit"
    images = base_images(scene.view.image, scale, rng)
    reader = probe.reader([name])
    seen = [outputs[0] for one in images if (outputs := probe.show(reader, one)) is not None]
    if len(seen) < len(images):
        return None
    if origin not in scene.decisions.tensors:
        return _try_path(scene, origin, images, seen, rng)
    forced = force(probe, origin, scene.scores, images, seen, values_of(origin, seen[0]))
    if forced is None:
        return None
    operands = find_operands(scene.view, scene.flow, scene.decisions, scene.slopes, origin)
    stored = find_stored(scene.view, scene.flow, origin)
    found = satisfy(probe, name, float(forced.value.flat[0]), operands, stored, rng)
    image_class = _image_class(probe, name, forced, found) if found is not None else None
    target = forced.target if forced.wholesale else None
    return Proof(
        target, forced.flipped, found is not None, found.words if found else None, image_class
    )


def _try_path(
    scene: Scene,
    origin: ir.Value,
    images: list[Pixels],
    seen: list[Pixels],
    rng: np.random.Generator,
) -> Proof | None:
    """Give ordinary images what a path round the trunk brings along for extraordinary ones."""
    name, probe = origin.name or "", scene.probe
    reader = probe.reader([name])
    brought: list[tuple[float, str, Pixels, Pixels]] = []
    for scale in SCALES if scene.view.image.dtype != "uint8" else ("byte",):
        for words, image in candidates(scene.view.image, scale, rng):
            outputs = probe.show(reader, image)
            if outputs is not None and outputs[0].shape == seen[0].shape:
                distance = float(np.abs(outputs[0] - seen[0]).sum())
                brought.append((distance, words, image, outputs[0]))
    brought.sort(key=lambda entry: -entry[0])
    for _, words, image, value in brought[:: max(1, len(brought) // _PATH_VALUES)]:
        forced = force(probe, origin, scene.scores, images, seen, [value])
        if forced is not None and forced.wholesale:
            image_class = _image_class(probe, name, forced, Found(words, image))
            return Proof(forced.target, forced.flipped, True, words, image_class)
    return None


def _image_class(probe: Probe, name: str, forced: Forced, found: Found) -> int | None:
    """Return the class of the image, if it changes when its decision is taken back."""
    answers = [
        probe.show(forced.session, found.image, {name: value})
        for value in (forced.value, forced.usual)
    ]
    classes = [int(scores[0][:1].argmax()) for scores in answers if scores is not None]
    return classes[0] if len(set(classes)) == 2 else None
