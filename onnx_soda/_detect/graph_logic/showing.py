"""What people see of a decision in the graph: a drawing of its nodes, an image that takes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from onnx_soda._data.images import data_uri
from onnx_soda._detect.graph_logic.flow import Flow, FlowStep, constant_of
from onnx_soda._detect.graph_logic.forcing import Proof
from onnx_soda._detect.graph_logic.images import Bounds, Pixels
from onnx_soda._detect.graph_logic.suspicions import Reading, Suspicion
from onnx_soda._detect.graph_logic.telling import Speaker, short
from onnx_soda._model.inputs import ImageInput
from onnx_soda._results import Box, Drawing, Gallery, Picture

# Boxes of one chain; of a longer one the middle is a box with the number of its nodes.
_MOST_BOXES = 6
_KEPT_BEFORE, _KEPT_BEHIND = 2, 3
_TINY = float(np.finfo(np.float32).tiny)


def draw_decision(reading: Reading, suspicion: Suspicion) -> Drawing:
    """Draw the nodes between image, decision and scores.

    Args:
        reading: The graph.
        suspicion: The decision.
    """
    command = suspicion.commands[0]
    decision = _deciding(reading, suspicion)
    deciding = {step.node for step in suspicion.deciding}
    before = _boxes(_way_to(reading.flow, decision, reading.decisions.tensors), deciding)
    behind = _boxes(_way_from(reading.flow, command, reading.trunk.after), set())
    own = Box(short(command.name), command.node.op_type, 0, marked=True)
    chain = [Box("the image", "input", 0), *before, own, *behind, Box("the scores", "output", 0)]
    chain = [Box(box.name, box.kind, row, 0, box.marked) for row, box in enumerate(chain)]
    at = len(before) + 1
    arrows = [(number, number + 1) for number in range(len(chain) - 1)]
    sides = [] if command.outputs[0] is decision else _sides(reading, command, decision, at)
    for side in sides:
        number = len(chain)
        chain.append(side)
        arrows += [(0, number)] if side.kind != "constant" else []
        arrows.append((number, at))
    words = (f"{box.kind} {box.name!r}" if box.kind[:1].isupper() else box.name for box in chain)
    path = " -> ".join(list(words)[: len(chain) - len(sides)])
    return Drawing(f"How {own.kind} {own.name!r} is decided", path, tuple(chain), tuple(arrows))


def _deciding(reading: Reading, suspicion: Suspicion) -> ir.Value:
    """Return the tensor by which the first command is given."""
    return next(
        (
            control.decision
            for control in reading.controls
            if control.step is suspicion.commands[0] and control.origin is suspicion.origin
        ),
        suspicion.origin,
    )


def _way_to(flow: Flow, value: ir.Value, decisions: Iterable[ir.Value]) -> list[FlowStep]:
    """Return steps from the image to a tensor, through decisions where there are some."""
    far = dict.fromkeys(flow.inputs, 0)
    for step in flow.steps:
        known_inputs = [far[one] for one in flow.active_inputs(step) if one in far]
        for output in step.outputs if known_inputs else ():
            far.setdefault(output, min(known_inputs) + 1)
    known = frozenset(decisions)
    way: dict[FlowStep, None] = {}
    while value not in flow.inputs:
        step = flow.makers[value][0]
        if step in way:
            break
        way[step] = None
        value = min(
            flow.active_inputs(step), key=lambda one: (one not in known, far.get(one, len(far)))
        )
    return list(way)[::-1]


def _way_from(flow: Flow, command: FlowStep, leading: Iterable[ir.Value]) -> list[FlowStep]:
    """Return the steps from a command to the scores, as straight as can be."""
    known = frozenset(leading)
    way: dict[FlowStep, None] = {command: None}
    step: FlowStep | None = command
    while step is not None:
        readers = (one for value in step.outputs for one in flow.readers.get(value, ()))
        step = next(
            (one for one in readers if one not in way and not known.isdisjoint(one.outputs)), None
        )
        way |= {step: None} if step is not None else {}
    return list(way)[1:]


def _boxes(way: Sequence[FlowStep], marked: set[ir.Node]) -> list[Box]:
    """Return a box for each node of a way; the middle of a long one is one box."""
    nodes = list(dict.fromkeys(step.node for step in way if step.op != "Identity"))
    boxes = [
        Box(short(node.name or node.outputs[0].name or "?"), node.op_type, 0, 0, node in marked)
        for node in nodes
    ]
    if len(boxes) <= _MOST_BOXES:
        return boxes
    left = len(boxes) - _KEPT_BEFORE - _KEPT_BEHIND
    middle = Box(f"{left} more nodes", "layers", 0)
    return [*boxes[:_KEPT_BEFORE], middle, *boxes[-_KEPT_BEHIND:]]


def _sides(reading: Reading, command: FlowStep, decision: ir.Value, row: int) -> list[Box]:
    """Return what a command is about: what the layers give, and what is stored."""
    flow, speaker = reading.flow, Speaker(reading)
    boxes = []
    for value in dict.fromkeys(command.inputs):
        if value in flow.active and value is not decision:
            count = len({step.node for step in flow.ancestors(value)})
            kind = "input" if value in flow.inputs else f"made by {count} nodes"
            boxes.append(Box(speaker.thing(value), kind, 0, 1))
        elif value not in flow.active and constant_of(value) is not None:
            boxes.append(Box(speaker.thing(value), "constant", 0, 1))
    # What is computed comes from above, what is stored from the side.
    boxes.sort(key=lambda box: box.kind == "constant")
    kept = boxes[:2]
    first = row if len(kept) == 1 else row - 1
    return [Box(box.name, box.kind, first + number, box.column) for number, box in enumerate(kept)]


def show_trigger(
    image: ImageInput, ranges: Sequence[Bounds], suspicion: Suspicion, proof: Proof
) -> Gallery | None:
    """Show the image for which the graph takes a decision; None where it is no picture.

    Args:
        image: The model's input.
        ranges: In which images come.
        suspicion: The decision.
        proof: What was seen when it was tried out.
    """
    pixels = None if proof.image is None else _as_picture(image, ranges, proof.image)
    if pixels is None or proof.image_class is None:
        return None
    command = suspicion.commands[0]
    return Gallery(
        f"The image that takes the decision of {command.node.op_type} {short(command.name)!r}",
        f"Made by the search: {proof.trigger}. Below, what the model calls it with the decision "
        "taken back by hand, and what it calls it by itself.",
        (
            Picture(
                (data_uri(pixels),),
                (f"Found by the search: {proof.trigger}",),
                f"{proof.otherwise} → {proof.image_class}",
                marked=True,
            ),
        ),
    )


def _as_picture(image: ImageInput, ranges: Sequence[Bounds], pixels: Pixels) -> Pixels | None:
    """Return an input of the model as pixels from 0 to 1, shape (channels, height, width)."""
    values = pixels.astype(np.float64)
    if image.layout == "NHW":
        values = values[None]
    elif image.layout == "NHWC":
        values = values.transpose(2, 0, 1)
    elif image.layout != "NCHW":
        return None
    # The range that it was found in is not told: the narrowest that holds it.
    fitting = [one for one in ranges if one[0] <= values.min() and values.max() <= one[1]]
    low, high = min(fitting, key=_width, default=_ends(values))
    shown: Pixels = np.clip((values - low) / max(high - low, _TINY), 0, 1)
    return shown


def _width(bounds: Bounds) -> float:
    return bounds[1] - bounds[0]


def _ends(values: Pixels) -> Bounds:
    return float(values.min()), float(values.max())
