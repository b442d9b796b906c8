"""The graph as one list of steps, and how much of what was trained lies before and behind a tensor.

The bodies of If, Loop and Scan are included. What a body hides is seen as if it stood in the main
graph: its inputs are copies of what the node hands in, and what the node returns is a merge of what
its bodies return.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

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
class FlowStep:
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
        idle: The steps that do not.
        inputs: The image; what the graph takes instead where it is no classifier of images.
        active: Tensors whose values depend on the image.
        nodes: Number of nodes looked at, those without the image too.
    """

    steps: tuple[FlowStep, ...]
    idle: tuple[FlowStep, ...]
    inputs: tuple[ir.Value, ...]
    active: frozenset[ir.Value]
    nodes: int

    @property
    def image(self) -> ir.Value:
        """The image."""
        return self.inputs[0]

    @cached_property
    def makers(self) -> dict[ir.Value, tuple[FlowStep, ...]]:
        """The steps that compute each tensor: several for one that goes round in a loop."""
        found: dict[ir.Value, tuple[FlowStep, ...]] = {}
        for step in self.steps:
            for output in step.outputs:
                found[output] = (*found.get(output, ()), step)
        return found

    @cached_property
    def places(self) -> dict[FlowStep, int]:
        """The place of each step in their order."""
        return {step: place for place, step in enumerate(self.steps)}

    @cached_property
    def of_shape(self) -> frozenset[ir.Value]:
        """Tensors that depend on the shape of the image, and not on its values."""
        found: set[ir.Value] = set()
        for _ in range(_ROUNDS):
            for step in self.idle:
                # Only Shape and Size read what depends on the image and give what does not.
                if any(value in self.active or value in found for value in step.inputs):
                    found.update(step.outputs)
        return frozenset(found)

    @cached_property
    def readers(self) -> dict[ir.Value, tuple[FlowStep, ...]]:
        """The steps that read each tensor."""
        found: dict[ir.Value, list[FlowStep]] = {}
        for step in self.steps:
            for value in self.active_inputs(step):
                found.setdefault(value, []).append(step)
        return {value: tuple(steps) for value, steps in found.items()}

    def active_inputs(self, step: FlowStep) -> tuple[ir.Value, ...]:
        """Return the inputs of a step that depend on the image, each once, in order."""
        return self._active_inputs[step]

    @cached_property
    def _active_inputs(self) -> dict[FlowStep, tuple[ir.Value, ...]]:
        # They are asked for again and again: paths are followed back from every decision.
        return {
            step: tuple(value for value in dict.fromkeys(step.inputs) if value in self.active)
            for step in (*self.steps, *self.idle)
        }

    def ancestors(self, value: ir.Value) -> set[FlowStep]:
        """Return the steps that a tensor is computed by."""
        found: set[FlowStep] = set()
        stack = [value]
        while stack:
            for step in self.makers.get(stack.pop(), ()):
                if step not in found:
                    found.add(step)
                    stack.extend(self.active_inputs(step))
        return found


def build_flow(graph: ir.Graph, inputs: Sequence[ir.Value]) -> Flow:
    """List the steps of a graph and tell which depend on the image.

    Args:
        graph: Without functions.
        inputs: The image, or all that the graph takes.
    """
    every = list(_steps_of(graph, 0))
    active = set(inputs)
    for _ in range(_ROUNDS):
        for step in every:
            if step.op not in _SHAPE_READERS and any(value in active for value in step.inputs):
                active.update(step.outputs)
    kept = tuple(step for step in every if any(output in active for output in step.outputs))
    idle = tuple(step for step in every if not any(output in active for output in step.outputs))
    nodes = sum(step.op != "Merge" for step in every)
    return Flow(kept, idle, tuple(inputs), frozenset(active), nodes)


def _steps_of(graph: ir.Graph, depth: int) -> Iterator[FlowStep]:
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


def _plain(node: ir.Node, depth: int) -> FlowStep:
    given = [(at, value) for at, value in enumerate(node.inputs) if value is not None]
    data = tuple(value for at, value in given if not _is_control(node.op_type, at))
    controls = tuple(value for at, value in given if _is_control(node.op_type, at))
    return FlowStep(node.op_type, node, data, controls, tuple(node.outputs), depth)


def _is_control(op: str, position: int) -> bool:
    if op == "Where":
        return position == 0
    if op in _SCATTERS:
        return position == 1
    return position >= _CONTROL_FROM.get(op, position + 1)


def _unfolded(node: ir.Node, bodies: list[ir.Graph], depth: int) -> Iterator[FlowStep]:
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
            yield FlowStep("Identity", node, (outside,), (), (inside,), depth)
        yield from _steps_of(body, depth + 1)
        inner.extend(body.outputs[:skipped])
        for inside, back in zip(own, body.outputs[skipped:], strict=False):
            yield FlowStep("Identity", node, (back,), (), (inside,), depth)
    for at, output in enumerate(node.outputs):
        results = [
            body.outputs[at + skipped] for body in bodies if at + skipped < len(body.outputs)
        ]
        yield FlowStep("Merge", node, tuple(results), (*controls, *inner), (output,), depth)


MOST_ELEMENTS = 160_000
"""Larger tensors are weights. A stored pattern over a whole image of 224 x 224 is still read."""
_CARRIERS = frozenset({
    "Identity", "Cast", "CastLike", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Expand",
})  # fmt: skip
_DEEPEST = 8


def constant_of(value: ir.Value | None, depth: int = 0) -> NDArray[Any] | None:
    """Return the values of a constant, up to its shape; None where it is large or computed."""
    if value is None or depth > _DEEPEST:
        return None
    tensor = value.const_value
    node = value.producer()
    if tensor is None and node is not None and node.op_type == "Constant":
        tensor = _attribute(node)
    if tensor is not None:
        small = tensor.size <= MOST_ELEMENTS and tensor.dtype != ir.DataType.STRING
        return np.asarray(tensor.numpy()) if small else None
    if node is not None and node.op_type in _CARRIERS and node.inputs:
        return constant_of(node.inputs[0], depth + 1)
    return None


def _attribute(node: ir.Node) -> ir.TensorProtocol | None:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.TENSOR:
            return attribute.as_tensor()
        if attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
            return ir.tensor(np.asarray(attribute.value), name=attribute.name)
    return None


def size_of(value: ir.Value) -> int:
    """Return the number of elements of a tensor; unknown dimensions count as one."""
    if value.const_value is not None:
        return int(value.const_value.size)
    if value.shape is None:
        return 1
    return int(
        np.prod([size if isinstance(size, int) else 1 for size in value.shape], dtype=np.int64)
    )


_WEIGHTED = frozenset({
    "Conv", "ConvTranspose", "ConvInteger", "DeformConv", "Einsum", "GRU", "Gemm", "LSTM",
    "MatMul", "MatMulInteger", "QLinearConv", "QLinearMatMul", "RNN", "LinearClassifier",
    "LinearRegressor",
})  # fmt: skip
# A share of the trained weights: what comes before less than this has not gone through the trunk,
# even if it has gone through a small convolution that looks for a pattern.
_ROUND_SHARE = 0.05
# What has less than this still before it joins late; a head alone is less in most networks.
_LATE_SHARE = 0.25
# What has gone through this much has gone through the trunk.
_THROUGH_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Trunk:
    """The weighted layers between image and scores, counted along the heaviest path.

    Attributes:
        before: Number of weights on the heaviest path from the image to each tensor.
        after: Number of weights on the heaviest path from each tensor to the scores.
        total: Number of weights on the heaviest path from image to scores.
    """

    before: dict[ir.Value, int]
    after: dict[ir.Value, int]
    total: int

    def goes_round(self, value: ir.Value) -> bool:
        """Tell whether a tensor is computed without the trunk."""
        return self.before.get(value, 0) <= _ROUND_SHARE * self.total

    def goes_through(self, value: ir.Value) -> bool:
        """Tell whether a tensor is computed by the trunk."""
        return self.before.get(value, 0) >= max(_THROUGH_SHARE * self.total, 1)

    def is_late(self, value: ir.Value) -> bool:
        """Tell whether hardly any weights lie between a tensor and the scores."""
        return self.after.get(value, 0) <= _LATE_SHARE * self.total

    def is_layer(self, flow: Flow, step: FlowStep) -> bool:
        """Tell whether a step is a layer of the trunk and not a small table of constants."""
        return weight_of(flow, step) > _ROUND_SHARE * self.total


def weight_of(flow: Flow, step: FlowStep) -> int:
    """Return the number of weights of a step."""
    if step.op not in _WEIGHTED:
        return 0
    return sum(size_of(value) for value in step.inputs if value not in flow.active)


def find_trunk(flow: Flow, targets: list[ir.Value]) -> Trunk:
    """Count the weights along the paths from the image to the scores."""
    before: dict[ir.Value, int] = dict.fromkeys(flow.inputs, 0)
    for step in flow.steps:
        most = max((before.get(value, 0) for value in flow.active_inputs(step)), default=0)
        for output in step.outputs:
            before[output] = max(before.get(output, 0), most + weight_of(flow, step))
    after: dict[ir.Value, int] = dict.fromkeys(targets, 0)
    for step in reversed(flow.steps):
        known = [after[output] for output in step.outputs if output in after]
        if known:
            for value in flow.active_inputs(step):
                most = max(known) + weight_of(flow, step)
                after[value] = max(after.get(value, 0), most)
    return Trunk(before, after, max((before.get(target, 0) for target in targets), default=0))
