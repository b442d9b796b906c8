"""Tries a suspicion out: forces the decision, then looks for an image that takes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_soda._detect.graph_logic.decisions import Decisions, Slope
from onnx_soda._detect.graph_logic.flow import Flow
from onnx_soda._detect.graph_logic.suspicions import Suspicion
from onnx_soda._detect.graph_logic.triggers import (
    SCALES,
    Found,
    ImageRunner,
    Pixels,
    base_images,
    candidates,
    find_operands,
    find_stored,
    satisfy,
)
from onnx_soda._errors import SodaError
from onnx_soda._model.graph import GraphView
from onnx_soda._model.runtime import Session


# Forcing flips "wholesale" if it changes at least half of the classes, and sends nearly all images
# to one class.
@dataclass(frozen=True)
class Proof:
    """What happened when a decision was forced, and when an image was looked for that takes it.

    Attributes:
        forced_class: Class that the images are taken for while the decision is forced; None where
            forcing it sends them to no single class.
        flipped: Share of the images whose class changes when the decision is forced.
        satisfied: An image was found for which the graph itself takes the decision.
        trigger: That image in words; None without one.
        image_class: Class of that very image, where it changes when the decision is forced back.
    """

    forced_class: int | None
    flipped: float
    satisfied: bool
    trigger: str | None
    image_class: int | None


_FLIPPED = 0.5
# Indices tried of a decision that is one.
_INDICES = 4
_ONE_CLASS = 0.9


@dataclass(frozen=True, eq=False)
class Forced:
    """The value of a decision that does most.

    Attributes:
        usual: What the decision is on ordinary images, one of them.
        value: Value that it was forced to.
        flipped: Share of images whose class changes between the usual value and this one.
        target: Class that nearly all images then have; None if there is no such class.
        session: From image and decision to the scores.
    """

    usual: Pixels
    value: Pixels
    flipped: float
    target: int | None
    session: Session

    @property
    def wholesale(self) -> bool:
        """Tell whether forcing the decision sends the images to one class."""
        return self.target is not None and self.flipped >= _FLIPPED


def force(
    probe: ImageRunner,
    decision: ir.Value,
    scores: ir.Value,
    images: list[Pixels],
    before: list[Pixels],
    values: list[Pixels],
) -> Forced | None:
    """Force a decision to each of its values on ordinary images.

    Args:
        probe: Shows images.
        decision: The decision, a tensor of the main graph.
        scores: The scores.
        images: The images.
        before: What the decision is for each of them by itself.
        values: Values to force it to.

    Returns:
        What the value with the largest effect does; None where the graph takes no other value.
    """
    session = probe.forced(decision, scores)
    name = decision.name or ""
    usual = _classes(probe, session, images, name, before)
    best: Forced | None = None
    for value in values:
        if all(np.array_equal(value, own) for own in before):
            continue
        classes = _classes(probe, session, images, name, [value] * len(images))
        if usual is None or classes is None:
            continue
        flipped = float(np.mean(usual != classes))
        common = int(np.bincount(classes).argmax())
        target = common if np.mean(classes == common) >= _ONE_CLASS else None
        found = Forced(before[0], value, flipped, target, session)
        if best is None or (found.wholesale, flipped) > (best.wholesale, best.flipped):
            best = found
    return best


def values_of(decision: ir.Value, like: Pixels) -> list[Pixels]:
    """Return the values to force a decision to: flags, or the first few whole numbers.

    Args:
        decision: The decision.
        like: What it is on some image.
    """
    count = _INDICES if like.dtype.kind in "iu" else 2
    node = decision.producer()
    if node is not None and node.op_type in ("ArgMax", "ArgMin"):
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        shape = node.inputs[0].shape if node.inputs[0] is not None else None
        size = shape[axis] if shape is not None else None
        count = min(count, size) if isinstance(size, int) else count
    return [np.full_like(like, number) for number in range(count)]


def _classes(
    probe: ImageRunner, session: Session, images: list[Pixels], name: str, values: list[Pixels]
) -> Pixels | None:
    found = []
    for image, value in zip(images, values, strict=True):
        scores = probe.show(session, image, {name: value})
        if scores is None:
            return None
        found.append(int(scores[0][:1].reshape(-1).argmax()))
    return np.array(found)


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
    probe: ImageRunner


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
    before = [outputs[0] for one in images if (outputs := probe.show(reader, one)) is not None]
    if len(before) < len(images):
        return None
    if origin not in scene.decisions.tensors:
        return _try_path(scene, origin, images, before, rng)
    forced = force(probe, origin, scene.scores, images, before, values_of(origin, before[0]))
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
    before: list[Pixels],
    rng: np.random.Generator,
) -> Proof | None:
    """Give ordinary images what a path round the trunk brings along for extraordinary ones."""
    name, probe = origin.name or "", scene.probe
    reader = probe.reader([name])
    brought: list[tuple[float, str, Pixels, Pixels]] = []
    for scale in SCALES if scene.view.image.dtype != "uint8" else ("byte",):
        for words, image in candidates(scene.view.image, scale, rng):
            outputs = probe.show(reader, image)
            if outputs is not None and outputs[0].shape == before[0].shape:
                distance = float(np.abs(outputs[0] - before[0]).sum())
                brought.append((distance, words, image, outputs[0]))
    brought.sort(key=lambda entry: -entry[0])
    for _, words, image, value in brought[:: max(1, len(brought) // _PATH_VALUES)]:
        forced = force(probe, origin, scene.scores, images, before, [value])
        if forced is not None and forced.wholesale:
            image_class = _image_class(probe, name, forced, Found(words, image))
            return Proof(forced.target, forced.flipped, True, words, image_class)
    return None


def _image_class(probe: ImageRunner, name: str, forced: Forced, found: Found) -> int | None:
    """Return the class of the image, if it changes when its decision is taken back."""
    answers = [
        probe.show(forced.session, found.image, {name: value})
        for value in (forced.value, forced.usual)
    ]
    classes = [int(scores[0][:1].argmax()) for scores in answers if scores is not None]
    return classes[0] if len(set(classes)) == 2 else None
