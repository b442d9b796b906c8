"""Decisions in a graph: which tensors they are, and where they take command of the network's data.

A tensor is a decision if every path from the image to it passes a step, an operation that leaves
few values. What happens to it afterwards does not matter: a function of decisions is a decision,
whatever operators it is written with.

A step can be written without a comparison. A sigmoid, a clip or the difference of two rectifiers,
behind a large factor, is 0 on one side of a threshold and 1 on the other. Trained gates (SE blocks,
hard swish) have the same operators without the factor. So the slope of each element-wise chain is
followed, and whether it is flat on both sides (`find_slopes`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnx_soda._detect.graph_logic.flow import Flow, FlowStep, Trunk, constant_of, size_of
from onnx_soda._detect.graph_logic.operators import (
    CASTS,
    DISCRETE,
    EXACT,
    FACTOR_ELEMENTS,
    INDEX_OUTPUT,
    LARGEST_TRAINED,
    LEAST_STEEP,
    MATRICES,
    NARROWING,
    ROUNDING,
    SATURATING,
    WHOLE,
)

_CARRIERS = frozenset({
    "Identity", "Cast", "CastLike", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose",
    "Add",    "Sub", "Neg", "Merge", "Dropout", "Expand", "Tile", "Sqrt", "Abs", "QuantizeLinear",
    "DequantizeLinear", "Concat", "Slice", "Pad", "Round", "Floor", "Ceil",
})  # fmt: skip
_FLAT_BELOW = frozenset(
    {"Relu", "Elu", "Celu", "Selu", "Softplus", "Exp", "ThresholdedRelu", "Gelu"}
)
# Softmax over more than these is attention.
_FEW = 4


@dataclass(frozen=True)
class Slope:
    """An element-wise function of some tensor.

    Attributes:
        source: That tensor.
        gain: Product of the factors on the way.
        low: Flat to the left.
        high: Flat to the right.
        height: Product of all factors, those behind the flat parts too: how many units the
            values of one unit of the source spread over.
    """

    source: ir.Value
    gain: float = 1.0
    low: bool = False
    high: bool = False
    height: float = 1.0

    @property
    def is_step(self) -> bool:
        """Tell whether it is as good as a comparison."""
        return self.low and self.high and self.gain >= LEAST_STEEP


def find_slopes(flow: Flow) -> dict[ir.Value, Slope]:
    """Return, for every tensor, the steepest chain that ends in it."""
    slopes = {value: Slope(value) for value in flow.inputs}
    for step in flow.steps:
        slope = _through(flow, step, slopes)
        for output in step.outputs:
            slopes[output] = slope or Slope(output)
    return slopes


def _through(flow: Flow, step: FlowStep, slopes: dict[ir.Value, Slope]) -> Slope | None:
    known = [slopes[value] for value in flow.active_inputs(step) if value in slopes]
    if not known or len({slope.source for slope in known}) > 1:
        return None
    slope = _joined(step, known)
    if step.op in ("Mul", "Div") and len(known) == 1:
        return _scaled(flow, step, slope)
    if step.op in MATRICES:
        return _from_matrix(flow, step)
    if step.op in _CARRIERS:
        return slope
    if step.op == "Pow":
        return _raised(step, slope)
    return _bent(step, slope)


def _joined(step: FlowStep, known: list[Slope]) -> Slope:
    """Put branches of one source together: relu(x) - relu(x - 1) is flat on both sides."""
    low, high = any(s.low for s in known), any(s.high for s in known)
    difference = step.op == "Sub" and len(known) > 1 and low
    gain, height = max(s.gain for s in known), max(s.height for s in known)
    return Slope(known[0].source, gain, low, high or difference, height)


def _scaled(flow: Flow, step: FlowStep, slope: Slope) -> Slope:
    factors = [constant_of(value) for value in step.inputs if value not in flow.active]
    if len(factors) != 1 or factors[0] is None or not factors[0].size:
        return slope
    size = float(np.median(np.abs(factors[0].astype(np.float64))))
    if step.op == "Div":
        size = 1 / size if size else 1.0
    # Behind the flat parts a factor makes the step higher, not steeper.
    factor = 1.0 if slope.low and slope.high else size
    return replace(slope, gain=slope.gain * factor, height=slope.height * size)


def _raised(step: FlowStep, slope: Slope) -> Slope | None:
    """A high power is flat up to one and steep from there on, like exp."""
    exponent = constant_of(step.inputs[1])
    if exponent is None or not exponent.size:
        return None
    return replace(slope, gain=slope.gain * max(float(np.abs(exponent).max()), 1.0), low=True)


def _from_matrix(flow: Flow, step: FlowStep) -> Slope | None:
    largest = 1.0
    for value in step.inputs:
        if value not in flow.active and size_of(value) <= FACTOR_ELEMENTS:
            constant = constant_of(value)
            if constant is not None and constant.size:
                largest = max(largest, float(np.abs(constant).max()))
    return Slope(step.outputs[0], largest, height=largest) if largest > LARGEST_TRAINED else None


def _bent(step: FlowStep, slope: Slope) -> Slope | None:
    if step.op in SATURATING:
        factor = SATURATING[step.op]
        if step.op == "HardSigmoid" and "alpha" in step.node.attributes:
            factor = step.node.attributes["alpha"].as_float()
        height = slope.height * factor
        return Slope(slope.source, slope.gain * factor, True, True, height)
    if step.op in ("Softmax", "Hardmax") and size_of(step.outputs[0]) <= _FEW:
        return replace(slope, low=True, high=True)
    if step.op in _FLAT_BELOW or (step.op == "Max" and len(step.inputs) > 1):
        return replace(slope, low=True)
    if step.op == "Min" and len(step.inputs) > 1:
        return replace(slope, high=True)
    return _clipped(step, slope) if step.op == "Clip" else None


def _clipped(step: FlowStep, slope: Slope) -> Slope:
    """Clip is flat outside its bounds, and less steep the further they are apart."""
    bounds = [constant_of(value) for value in step.node.inputs[1:3]]
    lowest = _attribute(step, "min", bounds[0] if bounds else None)
    highest = _attribute(step, "max", bounds[1] if len(bounds) > 1 else None)
    width = max(highest - lowest, 1e-6) if lowest is not None and highest is not None else 1.0
    low = slope.low or lowest is not None
    high = slope.high or highest is not None
    return replace(slope, gain=slope.gain / width, low=low, high=high)


def _attribute(step: FlowStep, name: str, given: object) -> float | None:
    if name in step.node.attributes:
        return step.node.attributes[name].as_float()
    return float(np.asarray(given).flat[0]) if given is not None else None


# With this many values for one unit of its input, rounding is quantization.
_LEVELS = 8.0
_WHOLE = frozenset(ir.DataType[name] for name in WHOLE)


@dataclass(frozen=True, eq=False)
class Decisions:
    """The decisions of a graph.

    Attributes:
        tensors: Tensors that are decisions.
        born: Steps that made one out of something continuous.
    """

    tensors: frozenset[ir.Value]
    born: frozenset[FlowStep]

    def origin(self, flow: Flow, value: ir.Value) -> ir.Value:
        """Return the earliest decision that a decision is a function of.

        Several comparisons that are put together are one decision where they meet.
        """
        while True:
            makers = flow.makers.get(value, ())
            if any(step.op in NARROWING for step in makers):
                return value
            sources = {v for step in makers for v in flow.active_inputs(step)}
            if len(sources) != 1 or not sources <= self.tensors:
                return value
            value = sources.pop()

    def births(self, flow: Flow, value: ir.Value) -> list[FlowStep]:
        """Return the steps that made the decisions which a decision is put together from."""
        return [step for step in self.cone(flow, value) if step in self.born]

    def deciding(self, flow: Flow, value: ir.Value) -> list[FlowStep]:
        """Return its births, and the steps that decided further by what they had made."""
        steps = self.cone(flow, value)
        return [step for step in steps if step in self.born or step.op in DISCRETE]

    def cone(self, flow: Flow, value: ir.Value) -> list[FlowStep]:
        """Return the steps between its births and a decision, in order."""
        found: set[FlowStep] = set()
        stack = [value]
        while stack:
            for step in flow.makers.get(stack.pop(), ()):
                if step not in found:
                    found.add(step)
                    stack.extend(v for v in flow.active_inputs(step) if v in self.tensors)
        return sorted(found, key=flow.places.__getitem__)


def find_decisions(flow: Flow, slopes: dict[ir.Value, Slope], trunk: Trunk) -> Decisions:
    """Mark the decisions of a graph, from the image on."""
    tensors: set[ir.Value] = set()
    born: set[FlowStep] = set()
    for step in flow.steps:
        sources = flow.active_inputs(step)
        inherited = bool(sources) and all(value in tensors for value in sources)
        # A layer of the trunk mixes so many decisions that its output is continuous: networks
        # with binary activations are networks.
        if inherited and not trunk.is_layer(flow, step):
            tensors.update(step.outputs)
            continue
        made = [v for at, v in enumerate(step.outputs) if _decides(step, at, v, slopes)]
        if made and not inherited:
            tensors.update(made)
            born.add(step)
    return Decisions(frozenset(tensors), frozenset(born))


def _decides(step: FlowStep, at: int, output: ir.Value, slopes: dict[ir.Value, Slope]) -> bool:
    if step.op in INDEX_OUTPUT:
        return at >= INDEX_OUTPUT[step.op]
    if step.op in DISCRETE:
        return True
    if step.op in ROUNDING or _is_whole_cast(step, output):
        return slopes[output].height < _LEVELS if output in slopes else True
    return output in slopes and slopes[output].is_step


def _is_whole_cast(step: FlowStep, output: ir.Value) -> bool:
    if step.op not in CASTS or output.dtype not in _WHOLE:
        return False
    return not step.data or step.data[0].dtype not in _WHOLE


def is_rounding(step: FlowStep) -> bool:
    """Tell whether a step leaves whole numbers, of which there may be many."""
    return step.op in ROUNDING or any(_is_whole_cast(step, output) for output in step.outputs)


def is_guard(births: list[FlowStep]) -> bool:
    """Tell whether a decision only asks whether numbers are infinite, or not numbers at all."""
    return bool(births) and all(_asks_for_infinity(step) for step in births)


def _asks_for_infinity(step: FlowStep) -> bool:
    if step.op in ("IsInf", "IsNaN"):
        return True
    constants = [constant_of(value) for value in step.inputs]
    return any(c is not None and c.dtype.kind == "f" and np.isinf(c).all() for c in constants)


_ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Clip", "Div", "Elu", "Equal", "Erf", "Exp",
    "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf",
    "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Not",
    "Or", "Pow", "PRelu", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Softplus", "Sqrt",
    "Sub", "Tanh", "Where", "Xor", "QuantizeLinear", "DequantizeLinear",
})  # fmt: skip
# A tensor made from more tensors than this is taken for a tensor of its own.
_MOST_ROOTS = 8


@dataclass(frozen=True, eq=False)
class Control:
    """A step at which a decision acts on what is not one.

    Attributes:
        step: The step.
        decision: The decision that it reads.
        origin: The earliest decision that this is a function of.
        early: Both are made from the same tensor of the trunk, without weights in between.
        itself: Each number only decides about itself, as in an activation function.
    """

    step: FlowStep
    decision: ir.Value
    origin: ir.Value
    early: bool
    itself: bool = False


def find_controls(
    flow: Flow, decisions: Decisions, trunk: Trunk, targets: list[ir.Value]
) -> list[Control]:
    """Return the steps on the way to the scores where a decision takes command.

    Those of activation functions are marked: there the decision and the data are functions of the
    same tensor, element by element, so that each number decides about itself alone.
    """
    elements = _roots(flow, lambda step: step.op in _ELEMENTWISE and _keeps_shape(flow, step))
    weightless = _roots(flow, lambda step: not trunk.is_layer(flow, step))
    found = []
    for step in flow.steps:
        if not any(output in trunk.after for output in step.outputs):
            continue
        for decision in _commands(flow, decisions, step):
            data = [v for v in flow.active_inputs(step) if v not in decisions.tensors]
            itself = _is_activation(flow, decisions, elements, step, decision, data)
            early = _within(weightless, decision, data) and not _of_inputs(
                flow, weightless, decision
            )
            origin = decisions.origin(flow, decision)
            found.append(Control(step, decision, origin, early, itself))
    found.extend(_whole_scores(flow, decisions, targets))
    return found


def _is_activation(
    flow: Flow,
    decisions: Decisions,
    elements: dict[ir.Value, frozenset[ir.Value]],
    step: FlowStep,
    decision: ir.Value,
    data: list[ir.Value],
) -> bool:
    """Tell whether each element only decides about itself; pixels of one exact value excepted."""
    if not (_within(elements, decision, data) and _keeps_shape(flow, step)):
        return False
    of_pixels = _of_inputs(flow, elements, decision)
    return not (of_pixels and any(s.op in EXACT for s in decisions.deciding(flow, decision)))


def _of_inputs(flow: Flow, roots: dict[ir.Value, frozenset[ir.Value]], decision: ir.Value) -> bool:
    """Tell whether a decision is a function of pixels themselves."""
    return not roots[decision].isdisjoint(flow.inputs)


def _commands(flow: Flow, decisions: Decisions, step: FlowStep) -> list[ir.Value]:
    """Return the decisions that a step reads beside something else."""
    sources = flow.active_inputs(step)
    deciding = [value for value in sources if value in decisions.tensors]
    mixed = len(deciding) < len(sources)
    made = any(output in decisions.tensors for output in step.outputs)
    return deciding if mixed and not made else []


def _whole_scores(flow: Flow, decisions: Decisions, targets: list[ir.Value]) -> list[Control]:
    """Return the scores that are decisions as a whole: read from a table."""
    return [
        Control(flow.makers[target][-1], target, decisions.origin(flow, target), False)
        for target in targets
        if target in decisions.tensors
    ]


def _roots(flow: Flow, passes: Callable[[FlowStep], bool]) -> dict[ir.Value, frozenset[ir.Value]]:
    """Return for each tensor the tensors that it is a function of, through steps that pass."""
    roots = {value: frozenset({value}) for value in flow.inputs}
    for step in flow.steps:
        sources = [roots[value] for value in flow.active_inputs(step) if value in roots]
        union: frozenset[ir.Value] = frozenset().union(*sources)
        for output in step.outputs:
            through = passes(step) and len(union) <= _MOST_ROOTS
            roots[output] = union if through else frozenset({output})
    return roots


def _within(
    roots: dict[ir.Value, frozenset[ir.Value]], decision: ir.Value, data: list[ir.Value]
) -> bool:
    """Tell whether the data depends on all that the decision depends on."""
    return bool(data) and roots[decision] <= frozenset().union(*(roots[value] for value in data))


def _keeps_shape(flow: Flow, step: FlowStep) -> bool:
    """Tell whether a step works on tensors of one shape: none stands for many elements."""
    shapes = [value.shape for value in (*flow.active_inputs(step), step.outputs[0])]
    known = [str(shape) for shape in shapes if shape is not None]
    return len(set(known)) <= 1 and len(known) == len(shapes)
