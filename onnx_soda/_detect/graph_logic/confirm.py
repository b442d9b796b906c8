"""Tries a suspicion out: forces the decision, then looks for an image that takes it.

What is seen is held against what the layers do by themselves. Extraordinary images move every
network, and untrained ones give most images one class. A backdoor has to beat any scores that the
layers reach, or it would not work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_soda._detect.graph_logic.suspicions import Reading, Suspicion
from onnx_soda._detect.graph_logic.triggers import (
    Bounds,
    Found,
    ImageRunner,
    Pixels,
    base_images,
    candidates,
    find_operands,
    find_stored,
    matched_images,
    satisfy,
    with_stored,
)
from onnx_soda._errors import SodaError
from onnx_soda._model.graph import GraphView
from onnx_soda._model.runtime import Session

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Proof:
    """What happened when a decision was forced, and when an image was looked for that takes it.

    Attributes:
        forced_class: Class that the images are taken for while the decision is forced; None where
            forcing it sends them to no single class.
        flipped: Share of the images whose class changes when the decision is forced.
        satisfied: An image was found for which the graph itself takes the decision.
        trigger: That image in words; None without one.
        image_class: Class of that very image, where it changes when the decision is forced back.
        beyond: The scores are then beyond what the layers reach by themselves, both for ordinary
            images and for that image; or they no longer depend on the image.
        image: That image, as the model takes it.
        otherwise: Class of that image with the decision forced back.
    """

    forced_class: int | None
    flipped: float
    satisfied: bool
    trigger: str | None
    image_class: int | None
    beyond: bool
    image: Pixels | None = None
    otherwise: int | None = None


@dataclass(frozen=True, eq=False)
class Scene:
    """What is known of a graph, and the means to run it.

    Attributes:
        view: The graph.
        reading: What was read in it.
        probe: Shows images.
        clean: Clean images as the model takes them; none where there are none.
        ranges: Ranges in which images come.
    """

    view: GraphView
    reading: Reading
    probe: ImageRunner
    clean: tuple[Pixels, ...]
    ranges: tuple[Bounds, ...]

    def ordinary(self, bounds: Bounds, rng: np.random.Generator) -> list[Pixels]:
        """Return clean images, or plain noise and patches where there are none."""
        return list(self.clean) or base_images(self.view.image, bounds, rng)


# Forcing flips "wholesale" if it changes at least half of the classes, and sends nearly all images
# to one class.
_FLIPPED = 0.5
_ONE_CLASS = 0.9
# Indices tried of a decision that is one.
_INDICES = 4
# How far ahead the class has to be, in widths of the scores that the layers give: those of
# untrained experts and exits stay below one.
_BEYOND = 2.0
# Scores that vary by less than this share of their usual variation do not depend on the image.
_STILL = 0.01
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False)
class Forced:
    """The value of a decision that does most.

    Attributes:
        usual: What the decision is on ordinary images, one of them.
        value: Value that it was forced to.
        before: Scores by themselves, shape (images, classes).
        after: Scores with that value.
        session: From image and decision to the scores.
    """

    usual: Pixels
    value: Pixels
    before: Scores
    after: Scores
    session: Session

    @property
    def flipped(self) -> float:
        """Share of images whose class changes."""
        return float(np.mean(self.before.argmax(axis=1) != self.after.argmax(axis=1)))

    @property
    def target(self) -> int | None:
        """Class that nearly all images then have; None if there is no such class."""
        classes = self.after.argmax(axis=1)
        common = int(np.bincount(classes).argmax())
        return common if np.mean(classes == common) >= _ONE_CLASS else None

    @property
    def wholesale(self) -> bool:
        """Tell whether forcing the decision sends the images to one class."""
        return self.target is not None and self.flipped >= _FLIPPED

    @property
    def still(self) -> bool:
        """Tell whether the scores no longer depend on the image."""
        spread = [float(scores.std(axis=0).max()) for scores in (self.after, self.before)]
        return spread[0] <= _STILL * spread[1]

    def lead(self, scores: Scores, without: Scores | None = None) -> float:
        """Return how far ahead the first one's class is for nearly all, in usual widths.

        Args:
            scores: Shape (images, classes).
            without: What the same images give without the decision: they may be extraordinary.
        """
        usual = self.before if without is None else np.vstack([self.before, without])
        width = float(np.ptp(usual, axis=1).max())
        target = int(scores[0].argmax()) if self.target is None else self.target
        others = np.delete(scores, target, axis=1).max(axis=1)
        ahead = float(np.quantile(scores[:, target] - others, 1 - _ONE_CLASS))
        return ahead / max(width, _TINY)


def force(
    probe: ImageRunner,
    session: Session,
    name: str,
    images: list[Pixels],
    before: list[Pixels],
    values: list[Pixels],
) -> Forced | None:
    """Force a decision to each of its values on ordinary images.

    Args:
        probe: Shows images.
        session: From image and decision to the scores.
        name: The decision, a tensor of the main graph.
        images: The images.
        before: What the decision is for each of them by itself.
        values: Values to force it to.

    Returns:
        What the value with the largest effect does; None where the graph takes no other value.
    """
    usual = _scores(probe, session, images, name, before)
    best: Forced | None = None
    for value in values:
        if all(np.array_equal(value, own) for own in before):
            continue
        after = _scores(probe, session, images, name, [value] * len(images))
        if usual is None or after is None:
            continue
        found = Forced(before[0], value, usual, after, session)
        if best is None or (found.wholesale, found.flipped) > (best.wholesale, best.flipped):
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


def _scores(
    probe: ImageRunner, session: Session, images: list[Pixels], name: str, values: list[Pixels]
) -> Scores | None:
    """Return the scores of images with a tensor held at values; None where one is refused."""
    found = []
    for image, value in zip(images, values, strict=True):
        scores = probe.show(session, image, {name: value})
        if scores is None:
            return None
        found.append(scores[0][:1].reshape(-1))
    largest = float(np.finfo(np.float32).max)
    return np.clip(np.nan_to_num(np.stack(found).astype(np.float64)), -largest, largest)


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
        return _try_path(scene, origin, rng), None
    except SodaError as error:
        return None, f"The decision {name!r} was not forced: {error.message}."


def _read(scene: Scene, name: str, images: list[Pixels]) -> list[Pixels] | None:
    """Return what a tensor is for each image; None where the graph refuses one."""
    read = _read_all(scene, [name], images)
    return None if read is None else [values[0] for values in read]


def _read_all(scene: Scene, names: list[str], images: list[Pixels]) -> list[list[Pixels]] | None:
    """Return what some tensors are for each image; None where the graph refuses one."""
    reader = scene.probe.reader(names)
    shown = [scene.probe.show(reader, image) for image in images]
    return None if any(one is None for one in shown) else [one for one in shown if one]


def _try(scene: Scene, suspicion: Suspicion, rng: np.random.Generator) -> Proof | None:
    origin, probe = suspicion.origin, scene.probe
    name = origin.name or ""
    images = scene.ordinary(scene.ranges[0], rng)
    before = _read(scene, name, images)
    if before is None:
        return None
    session = probe.forced(origin, scene.reading.scores)
    forced = force(probe, session, name, images, before, values_of(origin, before[0]))
    if forced is None:
        return None
    operands = find_operands(scene.view, scene.reading, origin)
    stored = find_stored(scene.view, scene.reading.flow, origin)
    value = float(forced.value.flat[0])
    found = satisfy(probe, name, value, operands, stored, scene.ranges, rng)
    late = any(
        scene.reading.trunk.is_late(out) for step in suspicion.commands for out in step.outputs
    )
    return _proof(probe, name, forced, found, late)


def _proof(probe: ImageRunner, name: str, forced: Forced, found: Found | None, late: bool) -> Proof:
    """Return what is proved by an image that takes the decision, and the decision taken back."""
    target = forced.target if forced.wholesale else None
    if found is None:
        sure = forced.value.size == 1 and target is not None
        beyond = sure and forced.lead(forced.after) >= _BEYOND
        return Proof(target, forced.flipped, False, None, None, beyond)
    pair = [found.image] * 2
    answers = _scores(probe, forced.session, pair, name, [forced.value, forced.usual])
    image_class, otherwise, beyond = None, None, False
    if answers is not None and answers[0].argmax() != answers[1].argmax():
        image_class, otherwise = (int(scores.argmax()) for scores in answers)
        still = late and target == image_class and forced.still
        beyond = still or forced.lead(answers[:1], answers[1:]) >= _BEYOND
    return Proof(
        target, forced.flipped, True, found.words, image_class, beyond, found.image, otherwise
    )


# Values of a path round the trunk that are tried out, spread from the farthest to the usual one.
_PATH_VALUES = 8
_ENDS = 3
# How far ahead a class has to be, in widths, by what a path brings along.
_PATH_LEAD = 1.0
# On the way from an ordinary image to the trigger.
_WAY = 16
# A switch does less than this share half way, or more than that share in one step of the way;
# what layers do grows all the way.
_LITTLE, _SUDDEN = 0.1, 0.5
# Ordinary images that the way starts at: one may happen to lie near the trigger.
_STARTS = 6


def _try_path(scene: Scene, origin: ir.Value, rng: np.random.Generator) -> Proof | None:
    """Give ordinary images what a path round the trunk brings along for extraordinary ones."""
    session = scene.probe.forced(origin, scene.reading.scores)
    for bounds in scene.ranges:
        images = scene.ordinary(bounds, rng)
        before = _read(scene, origin.name or "", images)
        if before is None:
            continue
        for found, value in _brought(scene, origin, bounds, before, rng):
            if scene.probe.exhausted:
                return None
            proof = _switched(scene, origin, session, images, before, found, value)
            if proof is not None:
                return proof
    return None


def _brought(
    scene: Scene,
    origin: ir.Value,
    bounds: Bounds,
    before: list[Pixels],
    rng: np.random.Generator,
) -> list[tuple[Found, Pixels]]:
    """Return images for which a path brings along what is unusual, the most unusual first."""
    name, probe = origin.name or "", scene.probe
    stored = find_stored(scene.view, scene.reading.flow, origin)
    reader = probe.reader(list(dict.fromkeys([name, *(tensor for tensor, _ in stored)])))
    brought: list[tuple[float, float, Found, Pixels]] = []
    shown = [
        *with_stored(probe, reader, stored, rng),
        *candidates(scene.view.image, bounds, rng),
        *matched_images(scene.view.image, scene.reading.flow, origin, bounds),
    ]
    for words, image in shown:
        outputs = None if probe.exhausted else probe.show(reader, image)
        if outputs is not None and outputs[0].shape == before[0].shape:
            apart = outputs[0].astype(np.float64) - before[0]
            entry = float(np.abs(apart).sum()), float(apart.sum()), Found(words, image), outputs[0]
            brought.append(entry)
    brought.sort(key=lambda entry: -entry[0])
    spread = brought[:: max(1, len(brought) // _PATH_VALUES)]
    # A path may go far down where nothing is to happen, and less far up where something is.
    highest = sorted(brought, key=lambda entry: -entry[1])[:_ENDS]
    lowest = sorted(brought, key=lambda entry: entry[1])[:_ENDS]
    return [(found, value) for _, _, found, value in (*spread, *highest, *lowest)]


def _switched(
    scene: Scene,
    origin: ir.Value,
    session: Session,
    images: list[Pixels],
    before: list[Pixels],
    found: Found,
    value: Pixels,
) -> Proof | None:
    """Return the proof that a path works like a switch; None where it does not.

    It has to send all images to one class, by more than the layers do for any of the images, the
    trigger included; and suddenly, on the way from an ordinary image to the trigger.
    """
    name, probe = origin.name or "", scene.probe
    forced = force(probe, session, name, images, before, [value])
    if forced is None or not forced.wholesale:
        return None
    answers = _scores(probe, session, [found.image] * 2, name, [before[0], value])
    if answers is None or answers[0].argmax() == answers[1].argmax():
        return None
    without, itself = answers[:1], answers[1:]
    lead = min(forced.lead(forced.after, without), forced.lead(itself, without))
    if lead < _PATH_LEAD or not _is_sudden(scene, origin, session, images[:_STARTS], found):
        return None
    image_class, otherwise = int(itself.argmax()), int(without.argmax())
    return Proof(
        forced.target, forced.flipped, True, found.words, image_class, True, found.image, otherwise
    )


def _is_sudden(
    scene: Scene, origin: ir.Value, session: Session, starts: list[Pixels], found: Found
) -> bool:
    """Tell whether a path acts suddenly on the way from most ordinary images to another one."""
    sudden = [_jumps(scene, origin, session, image, found) for image in starts]
    return sum(sudden) > len(sudden) / 2


def _jumps(scene: Scene, origin: ir.Value, session: Session, image: Pixels, found: Found) -> bool:
    name = origin.name or ""
    start, end = image.astype(np.float64), found.image.astype(np.float64)
    way = [start + (end - start) * part / _WAY for part in range(_WAY + 1)]
    values = _read(scene, name, [one.astype(image.dtype) for one in way])
    if values is None:
        return False
    scores = _scores(scene.probe, session, [image] * len(values), name, values)
    if scores is None:
        return False
    moved = np.abs(scores - scores[0]).max(axis=1)
    steps = np.abs(np.diff(scores, axis=0)).max(axis=1)
    return bool(moved[_WAY // 2] <= _LITTLE * moved[-1] or steps.max() >= _SUDDEN * moved[-1])


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


def count_taken(
    scene: Scene, tensors: Sequence[ir.Value], rng: np.random.Generator
) -> dict[ir.Value, tuple[int, int]]:
    """Return for how many ordinary images each tensor is anywhere other than 0, and of how many.

    Those inside a body of the graph are left out.
    """
    known = [one for one in tensors if scene.view.values.get(one.name or "") is one]
    images = scene.ordinary(scene.ranges[0], rng)
    read = _read_all(scene, [one.name or "" for one in known], images) if known else None
    if read is None:
        return {}
    counts = [sum(bool(np.any(values[at])) for values in read) for at in range(len(known))]
    return {one: (count, len(images)) for one, count in zip(known, counts, strict=True)}


def most_moved(scene: Scene, paths: list[Suspicion], rng: np.random.Generator) -> list[Suspicion]:
    """Return paths round the trunk, those first that extraordinary images move most.

    Measured in ranges of what the path brings along for ordinary images. Those inside a body of
    the graph cannot be tried and are left out.
    """
    known = [one for one in paths if scene.view.values.get(one.origin.name or "") is one.origin]
    if len(known) < 2:
        return known
    try:
        reader = scene.probe.reader([one.origin.name or "" for one in known])
    except SodaError:
        return known
    moved = np.zeros(len(known))
    for bounds in scene.ranges:
        usual = [scene.probe.show(reader, one) for one in scene.ordinary(bounds, rng)]
        others = [
            scene.probe.show(reader, one) for _, one in candidates(scene.view.image, bounds, rng)
        ]
        for at in range(len(known)):
            ordinary = np.array([_extremes(one[at]) for one in usual if one is not None])
            extreme = np.array([_extremes(one[at]) for one in others if one is not None])
            if len(ordinary) and len(extreme):
                width = max(float(np.ptp(ordinary)), _TINY)
                moved[at] = max(moved[at], float(np.ptp(extreme)) / width)
    return [known[at] for at in np.argsort(-moved, kind="stable")]


def _extremes(values: Pixels) -> tuple[float, float]:
    return float(values.min()), float(values.max())
