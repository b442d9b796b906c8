"""How far a decision is from being taken, as a number that a search can climb."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_soda.logic.constants import constant_of
from onnx_soda.logic.decisions import Decisions
from onnx_soda.logic.flow import Flow, Step
from onnx_soda.logic.probe import Pixels
from onnx_soda.logic.steepness import Slope
from onnx_soda.model.graph import GraphView

__all__ = ["Operand", "find_operands", "find_stored"]

_BELOW = frozenset({"Less", "LessOrEqual"})
_ABOVE = frozenset({"Greater", "GreaterOrEqual"})
# Hold a tensor against stored values.
_AGAINST = _BELOW | _ABOVE | {"Equal", "Sub"}
_MIRRORED = {
    "Greater": "Less", "GreaterOrEqual": "LessOrEqual",
    "Less": "Greater", "LessOrEqual": "GreaterOrEqual",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Operand:
    """The continuous side of one step that decides.

    Attributes:
        name: Tensor that is compared, before any saturation.
        other: What it is compared with: another tensor, a constant, or nothing known.
        op: The operator that decides.
    """

    name: str
    other: str | Pixels | None
    op: str

    def score(self, values: dict[str, Pixels], sign: float) -> float:
        """Return how far the decision is taken (sign 1) or not taken (sign -1): 0 is fully."""
        left = values[self.name].astype(np.float64)
        right = values[self.other] if isinstance(self.other, str) else self.other
        if right is None:
            return float(sign * left.mean())
        gap = left - np.asarray(right, np.float64)
        if self.op == "Equal":
            return float(-sign * np.abs(gap).mean())
        gap = -gap if self.op in _BELOW else gap
        return float(np.minimum(sign * gap, 0).mean())


def find_operands(
    view: GraphView,
    flow: Flow,
    decisions: Decisions,
    slopes: dict[ir.Value, Slope],
    origin: ir.Value,
) -> list[Operand]:
    """Return what a decision of the main graph is made from."""
    found = []
    for step in decisions.births(flow, origin):
        operand = _operand(flow, step, slopes)
        names = [operand.name, operand.other] if operand else []
        if operand and all(name in view.values for name in names if isinstance(name, str)):
            found.append(operand)
    return found


def find_stored(view: GraphView, flow: Flow, origin: ir.Value) -> list[tuple[str, Pixels]]:
    """Return the tensors that a decision holds against several stored values, with the values."""
    found = []
    for step in flow.ancestors(origin):
        active = flow.active_inputs(step)
        stored = [constant_of(value) for value in step.data if value not in flow.active]
        if step.op in _AGAINST and len(active) == 1 and len(stored) == 1:
            name = active[0].name or ""
            if stored[0] is not None and stored[0].size > 1 and name in view.values:
                found.append((name, stored[0]))
    return found


def _operand(flow: Flow, step: Step, slopes: dict[ir.Value, Slope]) -> Operand | None:
    active = flow.active_inputs(step)
    if not active:
        return None
    if step.op not in _ABOVE | _BELOW | {"Equal"}:
        slope = slopes.get(step.outputs[0])
        source = slope.source if slope and slope.source not in step.outputs else active[0]
        return Operand(source.name or "", None, step.op)
    first, second = step.inputs[0], step.inputs[1]
    if first not in flow.active:
        return Operand(second.name or "", constant_of(first), _MIRRORED.get(step.op, step.op))
    other = (second.name or "") if second in flow.active else constant_of(second)
    return Operand(first.name or "", other, step.op)
