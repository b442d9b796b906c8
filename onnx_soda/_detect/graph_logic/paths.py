"""Tries out paths round the trunk: does one work like a switch?

Skips of honest networks are such paths, too. A switch does nothing for ordinary images, and much,
suddenly, for others.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_soda._detect.graph_logic.forcing import TINY, Proof, Scene, Stage, force, read, set_up
from onnx_soda._detect.graph_logic.images import Bounds, Pixels, candidates, matched_images
from onnx_soda._detect.graph_logic.suspicions import Suspicion
from onnx_soda._detect.graph_logic.triggers import Found, find_stored, with_stored
from onnx_soda._errors import SodaError

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


def try_path(scene: Scene, origin: ir.Value, rng: np.random.Generator) -> Proof | None:
    """Give ordinary images what a path round the trunk brings along for extraordinary ones.

    Args:
        scene: The graph.
        origin: What the path brings along.
        rng: Randomness.

    Returns:
        The proof that it works like a switch; None where it does not, or where time runs out.
    """
    session = scene.probe.forced(origin, scene.reading.scores)
    for bounds in scene.ranges:
        stage = set_up(scene, session, origin.name or "", scene.ordinary(bounds, rng))
        if stage is None:
            continue
        for found, value in _brought(scene, origin, bounds, stage.own[0], rng):
            if scene.probe.exhausted:
                return None
            proof = _switched(stage, found, value)
            if proof is not None:
                return proof
    return None


def _brought(
    scene: Scene,
    origin: ir.Value,
    bounds: Bounds,
    usual: Pixels,
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
        if outputs is not None and outputs[0].shape == usual.shape:
            apart = outputs[0].astype(np.float64) - usual
            entry = float(np.abs(apart).sum()), float(apart.sum()), Found(words, image), outputs[0]
            brought.append(entry)
    brought.sort(key=lambda entry: -entry[0])
    spread = brought[:: max(1, len(brought) // _PATH_VALUES)]
    # A path may go far down where nothing is to happen, and less far up where something is.
    highest = sorted(brought, key=lambda entry: -entry[1])[:_ENDS]
    lowest = sorted(brought, key=lambda entry: entry[1])[:_ENDS]
    chosen = {found: value for _, _, found, value in (*spread, *highest, *lowest)}
    return list(chosen.items())


def _switched(stage: Stage, found: Found, value: Pixels) -> Proof | None:
    """Return the proof that a path works like a switch; None where it does not.

    It has to send all images to one class, by more than the layers do for any of the images, the
    trigger included; and suddenly, on the way from an ordinary image to the trigger.
    """
    forced = force(stage, [value])
    if forced is None or not forced.wholesale:
        return None
    answers = stage.scores([found.image] * 2, [stage.own[0], value])
    if answers is None or answers[0].argmax() == answers[1].argmax():
        return None
    without, itself = answers[:1], answers[1:]
    lead = min(forced.lead(forced.after, without), forced.lead(itself, without))
    if lead < _PATH_LEAD or not _is_sudden(stage, found):
        return None
    image_class, otherwise = int(itself.argmax()), int(without.argmax())
    return Proof(
        forced.target, forced.flipped, True, found.words, image_class, True, found.image, otherwise
    )


def _is_sudden(stage: Stage, found: Found) -> bool:
    """Tell whether a path acts suddenly on the way from most ordinary images to another one."""
    sudden = [_jumps(stage, image, found) for image in stage.images[:_STARTS]]
    return sum(sudden) > len(sudden) / 2


def _jumps(stage: Stage, image: Pixels, found: Found) -> bool:
    start, end = image.astype(np.float64), found.image.astype(np.float64)
    way = [start + (end - start) * part / _WAY for part in range(_WAY + 1)]
    values = read(stage.probe, stage.name, [one.astype(image.dtype) for one in way])
    scores = None if values is None else stage.scores([image] * len(values), values)
    if scores is None:
        return False
    moved = np.abs(scores - scores[0]).max(axis=1)
    steps = np.abs(np.diff(scores, axis=0)).max(axis=1)
    return bool(moved[_WAY // 2] <= _LITTLE * moved[-1] or steps.max() >= _SUDDEN * moved[-1])


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
                width = max(float(np.ptp(ordinary)), TINY)
                moved[at] = max(moved[at], float(np.ptp(extreme)) / width)
    return [known[at] for at in np.argsort(-moved, kind="stable")]


def _extremes(values: Pixels) -> tuple[float, float]:
    return float(values.min()), float(values.max())
