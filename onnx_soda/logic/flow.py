"""The graph as one list of steps, the bodies of If, Loop and Scan included.

What a body hides is seen as if it stood in the main graph: its inputs are copies of what the node
hands in, and what the node returns is a merge of what its bodies return.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from onnx_soda.model.graph import GraphView

__all__ = ["Flow", "Step", "build_flow"]

_SHAPE_READERS = frozenset({"Shape", "Size"})
# Inputs that say where or how much, not what: positions from which the input is a control.
_CONTROL_FROM = {
    "Gather": 1, "GatherElements": 1, "GatherND": 1, "Slice": 1, "Compress": 1, "Pad": 1,
    "Tile": 1, "Expand": 1, "Reshape": 1, "Resize": 1, "TopK": 1, "Split": 1, "OneHot": 1,
    "ArrayFeatureExtractor": 1, "ReverseSequence": 1, "Trilu": 1, "CumSum": 1,
}  # fmt: skip
_SCATTERS = frozenset({"Scatter", "ScatterElements", "ScatterND"})
# Bodies run again with what they returned; twice is enough for a mark to go all the way round.
_ROUNDS = 2


@dataclass(frozen=True, eq=False)
class Step:
    """One operation, or the border of a body.

    Attributes:
        op: Operator; "Merge" where a node takes over what its bodies return.
        node: The node of the graph.
        data: Tensors whose values it works on.
        controls: Tensors that say which values, or whether at all.
        outputs: Tensors that it computes.
        depth: Number of bodies around it.
    """

    op: str
    node: ir.Node
    data: tuple[ir.Value, ...]
    controls: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]
    depth: int

    @property
    def inputs(self) -> tuple[ir.Value, ...]:
        """All tensors that it reads."""
        return (*self.data, *self.controls)

    @property
    def name(self) -> str:
        """Name of the node, or of what it computes where it has none."""
        return self.node.name or self.node.outputs[0].name or self.op


@dataclass(frozen=True, eq=False)
class Flow:
    """All steps that depend on the image's values, in order.

    Attributes:
        steps: The steps.
        image: The image.
        active: Tensors whose values depend on the image.
        nodes: Number of nodes looked at, those without the image too.
    """

    steps: tuple[Step, ...]
    image: ir.Value
    active: frozenset[ir.Value]
    nodes: int

    @cached_property
    def makers(self) -> dict[ir.Value, tuple[Step, ...]]:
        """The steps that compute each tensor: several for one that goes round in a loop."""
        found: dict[ir.Value, tuple[Step, ...]] = {}
        for step in self.steps:
            for output in step.outputs:
                found[output] = (*found.get(output, ()), step)
        return found

    @cached_property
    def readers(self) -> dict[ir.Value, tuple[Step, ...]]:
        """The steps that read each tensor."""
        found: dict[ir.Value, list[Step]] = {}
        for step in self.steps:
            for value in self.active_inputs(step):
                found.setdefault(value, []).append(step)
        return {value: tuple(steps) for value, steps in found.items()}

    def active_inputs(self, step: Step) -> list[ir.Value]:
        """Return the inputs of a step that depend on the image, each once, in order."""
        return [value for value in dict.fromkeys(step.inputs) if value in self.active]

    def ancestors(self, value: ir.Value) -> set[Step]:
        """Return the steps that a tensor is computed by."""
        found: set[Step] = set()
        stack = [value]
        while stack:
            for step in self.makers.get(stack.pop(), ()):
                if step not in found:
                    found.add(step)
                    stack.extend(self.active_inputs(step))
        return found


def build_flow(view: GraphView) -> Flow:
    """List the steps of a graph and tell which depend on the image."""
    every = list(_steps_of(view.model.graph, 0))
    active = {view.image_value}
    for _ in range(_ROUNDS):
        for step in every:
            if step.op not in _SHAPE_READERS and any(value in active for value in step.inputs):
                active.update(step.outputs)
    kept = tuple(step for step in every if any(output in active for output in step.outputs))
    return Flow(kept, view.image_value, frozenset(active), sum(s.op != "Merge" for s in every))


def _steps_of(graph: ir.Graph, depth: int) -> Iterator[Step]:
    for node in graph:
        bodies = _bodies(node)
        if bodies:
            yield from _unfolded(node, bodies, depth)
        else:
            yield _plain(node, depth)


def _bodies(node: ir.Node) -> list[ir.Graph]:
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def _plain(node: ir.Node, depth: int) -> Step:
    given = [(at, value) for at, value in enumerate(node.inputs) if value is not None]
    data = tuple(value for at, value in given if not _is_control(node.op_type, at))
    controls = tuple(value for at, value in given if _is_control(node.op_type, at))
    return Step(node.op_type, node, data, controls, tuple(node.outputs), depth)


def _is_control(op: str, position: int) -> bool:
    if op == "Where":
        return position == 0
    if op in _SCATTERS:
        return position == 1
    return position >= _CONTROL_FROM.get(op, position + 1)


def _unfolded(node: ir.Node, bodies: list[ir.Graph], depth: int) -> Iterator[Step]:
    """Yield the steps of a node's bodies, between copies of its inputs and merges of its results.

    If has its condition as first input and bodies without inputs. Loop has trip count and condition
    first, its body the number of the round and the condition, and returns the condition first. Scan
    hands its inputs over one to one.
    """
    given = [value for value in node.inputs if value is not None]
    lead = {"If": 1, "Loop": 2}.get(node.op_type, 0)
    controls = tuple(value for value in node.inputs[:lead] if value is not None)
    carried = [value for value in node.inputs[lead:] if value is not None] if lead else given
    skipped = 1 if node.op_type == "Loop" else 0
    inner: list[ir.Value] = []
    for body in bodies:
        own = list(body.inputs)[lead if node.op_type == "Loop" else 0 :]
        for outside, inside in zip(carried, own, strict=False):
            yield Step("Identity", node, (outside,), (), (inside,), depth)
        yield from _steps_of(body, depth + 1)
        inner.extend(body.outputs[:skipped])
        for inside, back in zip(own, body.outputs[skipped:], strict=False):
            yield Step("Identity", node, (back,), (), (inside,), depth)
    for at, output in enumerate(node.outputs):
        results = [
            body.outputs[at + skipped] for body in bodies if at + skipped < len(body.outputs)
        ]
        yield Step("Merge", node, tuple(results), (*controls, *inner), (output,), depth)
