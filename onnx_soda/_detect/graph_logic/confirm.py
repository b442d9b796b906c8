"""Tries a suspicion out: forces the decision, then looks for an image that takes it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnx_soda._detect.graph_logic.forcing import Forced, Proof, Scene, Stage, force, set_up
from onnx_soda._detect.graph_logic.images import Pixels
from onnx_soda._detect.graph_logic.paths import try_path
from onnx_soda._detect.graph_logic.suspicions import Suspicion
from onnx_soda._detect.graph_logic.triggers import Found, find_operands, find_stored, satisfy
from onnx_soda._errors import SodaError


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
        if origin in scene.reading.decisions.tensors and suspicion.nature != "skip":
            return _try(scene, suspicion, rng), None
        return try_path(scene, origin, rng), None
    except SodaError as error:
        return None, f"The decision {name!r} was not forced: {error.message}."


# Indices tried of a decision that is one.
_INDICES = 4


def _values_of(decision: ir.Value, like: Pixels) -> list[Pixels]:
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


def _try(scene: Scene, suspicion: Suspicion, rng: np.random.Generator) -> Proof | None:
    origin, probe = suspicion.origin, scene.probe
    name, images = origin.name or "", scene.ordinary(scene.ranges[0], rng)
    stage = set_up(scene, probe.forced(origin, scene.reading.scores), name, images)
    forced = None if stage is None else force(stage, _values_of(origin, stage.own[0]))
    if stage is None or forced is None:
        return None
    operands = find_operands(scene.view, scene.reading, origin)
    stored = find_stored(scene.view, scene.reading.flow, origin)
    value = float(forced.value.flat[0])
    found = satisfy(probe, name, value, operands, stored, scene.ranges, rng)
    late = any(
        scene.reading.trunk.is_late(out) for step in suspicion.commands for out in step.outputs
    )
    return _proof(stage, forced, found, late)


# How far ahead the class has to be, in widths of the scores that the layers give: those of
# untrained experts and exits stay below one.
_BEYOND = 2.0


def _proof(stage: Stage, forced: Forced, found: Found | None, late: bool) -> Proof:
    """Return what is proved by an image that takes the decision, and the decision taken back."""
    target = forced.target if forced.wholesale else None
    if found is None:
        sure = forced.value.size == 1 and target is not None
        beyond = sure and forced.lead(forced.after) >= _BEYOND
        return Proof(target, forced.flipped, False, None, None, beyond)
    answers = stage.scores([found.image] * 2, [forced.value, forced.usual])
    image_class, otherwise, beyond = None, None, False
    if answers is not None and answers[0].argmax() != answers[1].argmax():
        image_class, otherwise = (int(scores.argmax()) for scores in answers)
        still = late and target == image_class and forced.still
        beyond = still or forced.lead(answers[:1], answers[1:]) >= _BEYOND
    return Proof(
        target, forced.flipped, True, found.words, image_class, beyond, found.image, otherwise
    )


# Values in whole numbers that speak of quantization: a decision has two, or a few.
_LEVELS = 8


def spare_quantization(
    scene: Scene, suspicions: list[Suspicion], rng: np.random.Generator
) -> list[Suspicion]:
    """Return the suspicions; what only rounds, to many different numbers, is a mere skip in them.

    How many there are only running tells: a bias in steps of a scale that depends on the image has
    hundreds, a threshold written with Floor has two.
    """
    rounding = [one for one in suspicions if one.nature == "rounding"]
    known = [one for one in rounding if scene.view.values.get(one.origin.name or "") is one.origin]
    counts = _levels(scene, [one.origin.name or "" for one in known], rng)
    many = {one for one, count in zip(known, counts, strict=True) if count >= _LEVELS}
    return [replace(one, nature="skip") if one in many else one for one in suspicions]


def _levels(scene: Scene, names: list[str], rng: np.random.Generator) -> list[int]:
    """Return how many different values each tensor has on ordinary images."""
    if not names:
        return []
    seen: list[set[float]] = [set() for _ in names]
    try:
        reader = scene.probe.reader(list(dict.fromkeys(names)))
    except SodaError:
        return [0] * len(names)
    for image in scene.ordinary(scene.ranges[0], rng):
        outputs = scene.probe.show(reader, image)
        values = dict(zip(reader.model.outputs, outputs or (), strict=False))
        for known, name in zip(seen, names, strict=True):
            known.update(np.unique(values.get(name, ())).tolist())
    return [len(known) for known in seen]
