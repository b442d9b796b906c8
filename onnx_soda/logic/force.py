"""do(decision): what the scores do when a decision is forced either way on the same images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_soda.logic.probe import Pixels, Probe
from onnx_soda.model.runtime import Session

__all__ = ["Forced", "force", "values_of"]

# Forcing flips "wholesale" if it changes at least half of the classes, and sends nearly all images
# to one class.
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
    probe: Probe,
    decision: ir.Value,
    scores: ir.Value,
    images: list[Pixels],
    seen: list[Pixels],
    values: list[Pixels],
) -> Forced | None:
    """Force a decision to each of its values on ordinary images.

    Args:
        probe: Shows images.
        decision: The decision, a tensor of the main graph.
        scores: The scores.
        images: The images.
        seen: What the decision is for each of them by itself.
        values: Values to force it to.

    Returns:
        What the value with the largest effect does; None where the graph takes no other value.
    """
    session = probe.forced(decision, scores)
    name = decision.name or ""
    usual = _classes(probe, session, images, name, seen)
    best: Forced | None = None
    for value in values:
        if all(np.array_equal(value, own) for own in seen):
            continue
        classes = _classes(probe, session, images, name, [value] * len(images))
        if usual is None or classes is None:
            continue
        flipped = float(np.mean(usual != classes))
        common = int(np.bincount(classes).argmax())
        target = common if np.mean(classes == common) >= _ONE_CLASS else None
        found = Forced(seen[0], value, flipped, target, session)
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
    probe: Probe, session: Session, images: list[Pixels], name: str, values: list[Pixels]
) -> Pixels | None:
    found = []
    for image, value in zip(images, values, strict=True):
        scores = probe.show(session, image, {name: value})
        if scores is None:
            return None
        found.append(int(scores[0][:1].reshape(-1).argmax()))
    return np.array(found)
