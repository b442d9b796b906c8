"""What a graph decides, and on what, in plain words: the honest decisions as well.

Nothing is run, and no runtime is imported: a graph alone is enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx.checker
import onnx.inliner
import onnx.shape_inference
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from onnx_soda._detect.graph_logic.decisions import Control
from onnx_soda._detect.graph_logic.flow import (
    MOST_ELEMENTS,
    Flow,
    FlowStep,
    build_flow,
    constant_of,
    size_of,
    weight_of,
)
from onnx_soda._detect.graph_logic.suspicions import Reading, Suspicion, read
from onnx_soda._numbers import GraphDecision, GraphDecisions
from onnx_soda._preflight.copies import drop_weights, for_checker, without_maps
from onnx_soda._preflight.inventory import take_inventory
from onnx_soda._rules import SEVERITIES, Severity

By = Literal["input", "itself", "shape", "constant"]
_ORDER: tuple[By, ...] = ("input", "itself", "shape", "constant")
# Decisions that are told one by one: a page of a table. The others are counted.
_MOST_TOLD = 24
# Decisions that are put into words, to find those that are alike: each block of a network has some.
_MOST_SAID = 500
# Letters of a name: a hostile file may have some of a megabyte.
_LONGEST_NAME = 40
# Letters of a formula; a longer one is told less deeply.
_LONGEST_FORMULA = 100
_DEPTHS = (8, 6, 5, 4, 3, 2, 1)
_IMAGES = frozenset({
    ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.UINT8,
})  # fmt: skip


def decisions_in(model: ir.Model) -> GraphDecisions:
    """Tell what a graph decides; of a classifier, what is severe by the structure alone, too.

    The file must have been checked (`onnx_soda._preflight`).

    Args:
        model: The model; it is not changed.
    """
    return _decisions(_prepared(model).graph)


def decisions_of_file(proto: onnx.ModelProto, folder: Path | None) -> GraphDecisions:
    """Tell what a file decides that was checked and not loaded; see `decisions_in`.

    Large weights are not read: those in the file are dropped, those beside it never opened.

    Args:
        proto: The model; it loses its large weights.
        folder: Where its external data lies; None where it has none.

    Raises:
        Exception: What onnx and onnx-ir raise on graphs that they object to.
    """
    drop_weights(take_inventory(proto).tensors, MOST_ELEMENTS)
    onnx.checker.check_model(for_checker(proto, external=True))
    flat = without_maps(onnx.inliner.inline_local_functions(proto) if proto.functions else proto)
    model = ir.serde.deserialize_model(_with_shapes(flat))
    if folder is not None:
        ir.external_data.set_base_dir(model.graph, folder)
    return _decisions(model.graph)


def _with_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with the shapes that need no values to tell; itself where inference fails.

    It does so on operators of ONNX Runtime's own.
    """
    try:
        return onnx.shape_inference.infer_shapes(proto)
    except onnx.shape_inference.InferenceError:
        return proto


def _decisions(graph: ir.Graph) -> GraphDecisions:
    """Tell what a graph decides that has no functions."""
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    flow = build_flow(graph, inputs)
    outputs = [value for value in graph.outputs if value in flow.active]
    if not inputs or not outputs:
        return GraphDecisions()
    targets = list(dict.fromkeys(_before_labels(flow, value) for value in outputs))
    reading = read(flow, targets)
    told = [one for one in reading.suspicions if one.nature not in ("skip", "rounding")]
    severities = severest((one, one.severity) for one in told) if _classifies(targets) else {}
    return tell(reading, places_in(reading, severities), severities)


def _classifies(targets: Sequence[ir.Value]) -> bool:
    """Tell whether a graph seems to give one row of scores: what is severe is severe for these.

    Detectors choose boxes, and decide all over the graph.
    """
    shape = targets[0].shape
    return len(targets) == 1 and shape is not None and shape.rank() == 2


def severest(told: Iterable[tuple[Suspicion, Severity]]) -> dict[ir.Node, Severity]:
    """Return the severest finding for each node that a decision commands."""
    found = dict[ir.Node, Severity]()
    for suspicion, severity in sorted(told, key=lambda pair: -SEVERITIES.index(pair[1])):
        found.update((step.node, severity) for step in suspicion.commands)
    return found


# Make answers of scores at the end of a graph: labels, probabilities.
_ANSWERING = frozenset({
    "ArgMax", "ArrayFeatureExtractor", "Cast", "Flatten", "Hardmax", "Identity", "LogSoftmax",
    "Normalizer", "Reshape", "Sigmoid", "Softmax", "Squeeze", "TopK", "Unsqueeze", "ZipMap",
})  # fmt: skip


def _before_labels(flow: Flow, value: ir.Value) -> ir.Value:
    """Return what an output is the label, the largest or the probability of."""
    makers = flow.makers.get(value, ())
    while len(makers) == 1 and makers[0].op in _ANSWERING and makers[0].data[0] in flow.active:
        value = makers[0].data[0]
        makers = flow.makers.get(value, ())
    return value


def _prepared(model: ir.Model) -> ir.Model:
    """Return a copy without functions and with the shapes that need no values to tell."""
    flat = model.clone()
    if flat.functions:
        proto = onnx.inliner.inline_local_functions(ir.to_proto(flat))
        flat = ir.serde.deserialize_model(proto)
    return ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(flat).model


def tell(
    reading: Reading,
    places: Sequence[Place],
    severities: Mapping[ir.Node, Severity],
    seen: Mapping[ir.Node, str] | None = None,
) -> GraphDecisions:
    """Tell what a graph decides.

    Args:
        reading: The graph.
        places: Where it decides, from `places_in`.
        severities: Of findings, by the nodes that a decision commands.
        seen: What was seen when decisions were tried out, by the same nodes.
    """
    speaker = Speaker(reading)
    found: dict[tuple[str, By, str, Severity | None], list[str]] = {}
    for place in places[:_MOST_SAID]:
        words = speaker.decision(place) + (seen or {}).get(place.node, "")
        alike = place.node.op_type, place.by, words, severities.get(place.node)
        found.setdefault(alike, []).append(short(place.step.name))
    shown = [
        GraphDecision(names[0], operator, by, words, severity, len(names))
        for (operator, by, words, severity), names in found.items()
    ]
    return GraphDecisions(tuple(shown[:_MOST_TOLD]), len(places))


def places_in(reading: Reading, severities: Mapping[ir.Node, Severity]) -> list[Place]:
    """Return where a graph decides: what findings are about first, then what the input decides.

    Args:
        reading: The graph.
        severities: Of findings, by the nodes that a decision commands.
    """
    places = {place.node: place for place in _places(reading)}
    for one in reading.suspicions:
        for step in one.commands:
            if step.node in severities:
                places.setdefault(step.node, Place(step, "input", one.origin))

    def rank(place: Place) -> tuple[int, int]:
        severity = severities.get(place.node)
        grave = SEVERITIES.index(severity) if severity else len(SEVERITIES)
        return grave, _ORDER.index(place.by)

    return sorted(places.values(), key=rank)


@dataclass(frozen=True, eq=False)
class Place:
    """A place where something is decided.

    Attributes:
        step: The step that it acts on, or the node as a whole.
        by: What decides.
        deciding: The tensor that decides; None where none of the graph does.
    """

    step: FlowStep
    by: By
    deciding: ir.Value | None

    @property
    def node(self) -> ir.Node:
        """Its node."""
        return self.step.node


def _places(reading: Reading) -> Iterator[Place]:
    """Yield every If, Loop and Where, and every other step that a decision commands."""
    flow, by_node = reading.flow, dict[ir.Node, list[Control]]()
    for control in reading.controls:
        by_node.setdefault(control.step.node, []).append(control)
    for step in (*flow.steps, *flow.idle):
        merged = step.op == "Merge" and step.node.op_type in ("If", "Loop")
        if (step.op != "Where" and not merged) or step.outputs[0] is not step.node.outputs[0]:
            continue
        controls = by_node.pop(step.node, [])
        # What only prepares a decision is told where that decision acts.
        if controls or step.outputs[0] not in reading.decisions.tensors:
            asked = _asked(step)
            deciding = next((v for v in asked if v in flow.active), asked[0] if asked else None)
            yield Place(step, _by(flow, deciding, controls), deciding)
    for controls in by_node.values():
        first = min(controls, key=lambda control: control.itself)
        yield Place(first.step, "itself" if first.itself else "input", first.decision)


def _asked(step: FlowStep) -> list[ir.Value]:
    """Return the tensors that a Where, If or Loop decides by."""
    if step.op == "Where":
        return list(step.controls)
    inner = [attribute.as_graph() for attribute in step.node.attributes.values()
             if attribute.type == ir.AttributeType.GRAPH]  # fmt: skip
    if step.node.op_type == "Loop":
        count, goes_on = (*step.node.inputs, None, None)[:2]
        body = inner[0].outputs[0] if inner and len(inner[0].outputs) else None
        return [value for value in (body, count, goes_on) if value is not None]
    return [value for value in step.node.inputs[:1] if value is not None]


def _by(flow: Flow, deciding: ir.Value | None, controls: list[Control]) -> By:
    if deciding is not None and deciding in flow.active:
        return "itself" if controls and all(one.itself for one in controls) else "input"
    return "shape" if deciding in flow.of_shape else "constant"


def short(name: str) -> str:
    """Return a name, its middle cut where it is long: exporters put the layer first."""
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME // 3]}...{name[-_LONGEST_NAME // 2 :]}"


_CARRIERS = frozenset({
    "Identity", "Cast", "CastLike", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose",
    "Expand", "Tile", "Dropout", "QuantizeLinear", "DequantizeLinear",
})  # fmt: skip
_PARTS = frozenset({"Slice", "Split", "Gather", "GatherElements", "GatherND"})
_INFIX = {
    "Add": "+", "Sub": "-", "Mul": "x", "Div": "/", "Pow": "^", "Mod": "mod", "Greater": ">",
    "GreaterOrEqual": ">=", "Less": "<", "LessOrEqual": "<=", "Equal": "=", "And": "and",
    "Or": "or", "Xor": "xor",
}  # fmt: skip
_FUNCTIONS = {
    "ReduceMean": "mean", "GlobalAveragePool": "mean", "AveragePool": "mean", "ReduceMax": "max",
    "GlobalMaxPool": "max", "MaxPool": "max", "ReduceMin": "min", "ReduceSum": "sum", "Sum": "sum",
    "Max": "max", "Min": "min", "TopK": "largest", "ArgMax": "place of the largest",
    "ArgMin": "place of the smallest", "Neg": "minus", "IsNaN": "is not a number",
    "IsInf": "is infinite",
}  # fmt: skip
_SELECTING = {
    "Mul": "multiplies {data} by", "Div": "divides {data} by", "Add": "adds to {data}",
    "Sum": "adds to {data}", "Sub": "takes from {data}", "Concat": "puts beside {data}",
    "Max": "takes the larger of {data} and", "Min": "takes the smaller of {data} and",
}  # fmt: skip


class Speaker:
    """Says what tensors are.

    Args:
        reading: The graph that they are of.
    """

    def __init__(self, reading: Reading) -> None:
        self._flow, self._reading = reading.flow, reading
        inputs = self._flow.inputs
        alone = len(inputs) == 1 and inputs[0].dtype in _IMAGES
        self._inputs = {
            value: "the image" if alone else f"the input {_quoted(value)}" for value in inputs
        }

    def decision(self, place: Place) -> str:
        """Return what is decided at a place."""
        if place.step.op == "Merge" and place.node.op_type in ("If", "Loop"):
            return self._branch(place)
        if place.step.op == "Where":
            return self._choice(place)
        return self._command(place)

    def _choice(self, place: Place) -> str:
        first, second = (self.thing(value) for value in place.step.data[:2])
        return self._one_of(place, first, second)

    def _one_of(self, place: Place, first: str, second: str) -> str:
        if first == second:
            first, second = "one", "the other"
        if place.by == "shape":
            return f"takes {first} or {second} by the shape of the input, whatever is in it"
        if place.by == "constant":
            return f"takes {first} or {second} by stored values, always the same"
        own = "each number by itself: " if place.by == "itself" else ""
        return f"{own}takes {first} where {self.formula(place.deciding)}, else {second}"

    def _branch(self, place: Place) -> str:
        if place.node.op_type == "If" and len(place.step.data) == 2:
            first, second = (self.thing(value) for value in place.step.data)
            return self._one_of(place, f"its first branch ({first})", f"the other ({second})")
        if place.by == "shape":
            return "runs its body as often as the shape of the input says, whatever is in it"
        if place.by == "constant":
            return "runs its body as often as a stored number says, always the same"
        return f"runs its body as often as this says: {self.formula(place.deciding)}"

    def _command(self, place: Place) -> str:
        step, deciding = place.step, place.deciding
        if deciding in step.outputs:
            return f"nothing but a decision: {self.formula(deciding)}"
        others = [value for value in step.inputs if value is not deciding]
        data = " and ".join(self.thing(value) for value in others[:2]) or "nothing"
        own = "each number by itself: " if place.by == "itself" else ""
        if step.op in _SELECTING:
            return f"{own}{_SELECTING[step.op].format(data=data)} {self.formula(deciding)}"
        if step.op in _PARTS:
            return f"{own}picks from {data} by {self.formula(deciding)}"
        return f"{own}{step.op} of {data} goes by {self.formula(deciding)}"

    def thing(self, value: ir.Value) -> str:
        """Return what a tensor is, by its name."""
        makers = self._flow.makers.get(value, ())
        while len(makers) == 1 and makers[0].op == "Identity":
            value = makers[0].data[0]
            makers = self._flow.makers.get(value, ())
        if value in self._inputs:
            return self._inputs[value]
        if value is self._reading.scores:
            return f"the scores {_quoted(value)}"
        return self._stored(value) or _quoted(value)

    def formula(self, value: ir.Value | None) -> str:
        """Return how a tensor is made, as far as there is room to say it."""
        if value is None:
            return "nothing"
        told = (self._said(value, depth) for depth in _DEPTHS)
        return next((text for text in told if len(text) <= _LONGEST_FORMULA), self.thing(value))

    def _stored(self, value: ir.Value) -> str | None:
        if value in self._flow.active:
            return None
        constant, stored = constant_of(value), value.const_value
        if constant is not None and constant.size and not np.any(constant != constant.flat[:1]):
            number = constant.flat[0]
            return f"{float(number):g}" if np.isreal(number) else str(number)
        if constant is not None or stored is not None:
            size = constant.size if constant is not None else size_of(value)
            return f"{size:,} stored numbers"
        return "what the shape gives" if value in self._flow.of_shape else None

    def _said(self, value: ir.Value, depth: int) -> str:
        makers = self._flow.makers.get(value, ())
        if value in self._inputs or not depth or len(makers) != 1:
            return self.thing(value)
        (step,) = makers
        if step.op == "Merge":  # of branches, or of the rounds of a loop
            return self.thing(value)
        if step.op in _CARRIERS:
            return self._said(step.data[0], depth)
        if weight_of(self._flow, step) and not self._reading.trunk.goes_round(value):
            return f"the features {_quoted(value)}"
        if step.op in _PARTS:
            return self._part(step, depth)
        if step.op in _INFIX and len(step.data) == 2:
            return f" {_INFIX[step.op]} ".join(self._operand(one, depth) for one in step.data)
        return self._called(step, depth)

    def _part(self, step: FlowStep, depth: int) -> str:
        places = [value for value in step.controls if value in self._flow.active]
        of = f"part of {self._said(step.data[0], depth - 1)}"
        return f"{of} at ({self._said(places[0], depth - 1)})" if places else of

    def _operand(self, value: ir.Value, depth: int) -> str:
        said = self._said(value, depth - 1)
        makers = self._flow.makers.get(value, ())
        while len(makers) == 1 and makers[0].op in _CARRIERS:
            makers = self._flow.makers.get(makers[0].data[0], ())
        joined = any(step.op in _INFIX for step in makers) and depth > 1
        return f"({said})" if joined else said

    def _called(self, step: FlowStep, depth: int) -> str:
        name = _FUNCTIONS.get(step.op, step.op.lower())
        if weight_of(self._flow, step):
            name = "weighted sums"
        values = step.data if step.op in _FUNCTIONS and len(step.data) < 2 else step.inputs
        sources = [value for value in values if value in self._flow.active] or list(values)
        return f"{name}({', '.join(self._said(one, depth - 1) for one in sources[:3])})"


def _quoted(value: ir.Value) -> str:
    return repr(short(value.name or "?"))
