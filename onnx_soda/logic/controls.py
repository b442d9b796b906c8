"""Where a decision meets the data of the network, and takes command of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from onnx_soda.logic.decisions import EXACT, Decisions
from onnx_soda.logic.flow import Flow, Step
from onnx_soda.logic.weights import Trunk

__all__ = ["Control", "find_controls"]

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
    """

    step: Step
    decision: ir.Value
    origin: ir.Value
    early: bool


def find_controls(
    flow: Flow, decisions: Decisions, trunk: Trunk, targets: list[ir.Value]
) -> list[Control]:
    """Return the steps on the way to the scores where a decision takes command.

    Not those of activation functions: there the decision and the data are functions of the same
    tensor, element by element, so that each number decides about itself alone.
    """
    elements = _roots(flow, lambda step: step.op in _ELEMENTWISE and _keeps_shape(flow, step))
    weightless = _roots(flow, lambda step: not trunk.is_layer(flow, step))
    found = []
    for step in flow.steps:
        if not any(output in trunk.after for output in step.outputs):
            continue
        for decision in _commands(flow, decisions, step):
            data = [v for v in flow.active_inputs(step) if v not in decisions.tensors]
            if _is_activation(flow, decisions, elements, step, decision, data):
                continue
            early = _within(weightless, decision, data) and flow.image not in weightless[decision]
            found.append(Control(step, decision, decisions.origin(flow, decision), early))
    found.extend(_whole_scores(flow, decisions, targets))
    return found


def _is_activation(
    flow: Flow,
    decisions: Decisions,
    elements: dict[ir.Value, frozenset[ir.Value]],
    step: Step,
    decision: ir.Value,
    data: list[ir.Value],
) -> bool:
    """Tell whether each element only decides about itself; pixels of one exact value excepted."""
    if not (_within(elements, decision, data) and _keeps_shape(flow, step)):
        return False
    of_pixels = flow.image in elements[decision]
    return not (of_pixels and any(s.op in EXACT for s in decisions.deciding(flow, decision)))


def _commands(flow: Flow, decisions: Decisions, step: Step) -> list[ir.Value]:
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


def _roots(flow: Flow, passes: Callable[[Step], bool]) -> dict[ir.Value, frozenset[ir.Value]]:
    """Return for each tensor the tensors that it is a function of, through steps that pass."""
    roots = {flow.image: frozenset({flow.image})}
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


def _keeps_shape(flow: Flow, step: Step) -> bool:
    """Tell whether a step works on tensors of one shape: none stands for many elements."""
    shapes = [value.shape for value in (*flow.active_inputs(step), step.outputs[0])]
    known = [str(shape) for shape in shapes if shape is not None]
    return len(set(known)) <= 1 and len(known) == len(shapes)
