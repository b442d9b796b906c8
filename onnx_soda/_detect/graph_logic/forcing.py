"""Holds one tensor of a graph at values of its own choice, and reads what becomes of the scores.

What is seen is held against what the layers do by themselves. Extraordinary images move every
network, and untrained ones give most images one class. A backdoor has to beat any scores that the
layers reach, or it would not work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_soda._detect.graph_logic.images import Bounds, ImageRunner, Pixels, base_images
from onnx_soda._detect.graph_logic.suspicions import Reading
from onnx_soda._model.graph import GraphView
from onnx_soda._model.runtime import Session

TINY = float(np.finfo(np.float32).tiny)
"""Stands for a width of nothing."""
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


@dataclass(frozen=True, eq=False)
class Stage:
    """A tensor that can be held at any value, and ordinary images that show what it does.

    Attributes:
        probe: Shows images.
        session: From the image and the tensor to the scores.
        name: The tensor.
        images: The images.
        own: What the tensor is for each of them by itself.
        before: Their scores by themselves, shape (images, classes).
    """

    probe: ImageRunner
    session: Session
    name: str
    images: list[Pixels]
    own: list[Pixels]
    before: Scores

    def scores(self, images: list[Pixels], values: list[Pixels]) -> Scores | None:
        """Return the scores of images, each with a value; None where the graph refuses one."""
        return _scores(self.probe, self.session, self.name, images, values)


def set_up(scene: Scene, session: Session, name: str, images: list[Pixels]) -> Stage | None:
    """Return a tensor with what ordinary images make of it; None where the graph refuses one."""
    own = read(scene.probe, name, images)
    before = None if own is None else _scores(scene.probe, session, name, images, own)
    if own is None or before is None:
        return None
    return Stage(scene.probe, session, name, images, own, before)


def read(probe: ImageRunner, name: str, images: list[Pixels]) -> list[Pixels] | None:
    """Return what a tensor is for each image; None where the graph refuses one."""
    every = _read_all(probe, [name], images)
    return None if every is None else [values[0] for values in every]


def _read_all(
    probe: ImageRunner, names: list[str], images: list[Pixels]
) -> list[list[Pixels]] | None:
    """Return what some tensors are for each image; None where the graph refuses one."""
    reader = probe.reader(names)
    shown = [probe.show(reader, image) for image in images]
    return None if any(one is None for one in shown) else [one for one in shown if one]


def count_taken(
    scene: Scene, tensors: Sequence[ir.Value], rng: np.random.Generator
) -> dict[ir.Value, tuple[int, int]]:
    """Return for how many ordinary images each tensor is anywhere other than 0, and of how many.

    Those inside a body of the graph are left out.
    """
    known = [one for one in tensors if scene.view.values.get(one.name or "") is one]
    images = scene.ordinary(scene.ranges[0], rng)
    every = _read_all(scene.probe, [one.name or "" for one in known], images) if known else None
    if every is None:
        return {}
    counts = [sum(bool(np.any(values[at])) for values in every) for at in range(len(known))]
    return {one: (count, len(images)) for one, count in zip(known, counts, strict=True)}


def _scores(
    probe: ImageRunner, session: Session, name: str, images: list[Pixels], values: list[Pixels]
) -> Scores | None:
    found = []
    for image, value in zip(images, values, strict=True):
        scores = probe.show(session, image, {name: value})
        if scores is None:
            return None
        found.append(scores[0][:1].reshape(-1))
    largest = float(np.finfo(np.float32).max)
    return np.clip(np.nan_to_num(np.stack(found).astype(np.float64)), -largest, largest)


# Forcing flips "wholesale" if it changes at least half of the classes, and sends nearly all images
# to one class.
_FLIPPED = 0.5
_ONE_CLASS = 0.9
# Scores that vary by less than this share of their usual variation do not depend on the image.
_STILL = 0.01


@dataclass(frozen=True, eq=False)
class Forced:
    """The value of a decision that does most.

    Attributes:
        usual: What the decision is on ordinary images, one of them.
        value: Value that it was forced to.
        before: Scores by themselves, shape (images, classes).
        after: Scores with that value.
    """

    usual: Pixels
    value: Pixels
    before: Scores
    after: Scores

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
        return ahead / max(width, TINY)


def force(stage: Stage, values: list[Pixels]) -> Forced | None:
    """Force a decision to each of its values on ordinary images.

    Args:
        stage: The decision and the images.
        values: Values to force it to.

    Returns:
        What the value with the largest effect does; None where the graph takes no other value.
    """
    best: Forced | None = None
    for value in values:
        if all(np.array_equal(value, own) for own in stage.own):
            continue
        after = stage.scores(stage.images, [value] * len(stage.images))
        if after is None:
            continue
        found = Forced(stage.own[0], value, stage.before, after)
        if best is None or (found.wholesale, found.flipped) > (best.wholesale, best.flipped):
            best = found
    return best
