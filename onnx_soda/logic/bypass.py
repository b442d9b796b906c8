"""Paths from the image to the scores that go round the trunk of weighted layers."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnx_soda.logic.decisions import Decisions
from onnx_soda.logic.flow import Flow, Step
from onnx_soda.logic.steepness import LEAST_STEEP, Slope
from onnx_soda.logic.weights import Trunk
from onnx_soda.rules.rule import Severity

__all__ = ["Bypass", "find_bypasses"]

_CHOOSING = frozenset({"Max", "Min"})


@dataclass(frozen=True, eq=False)
class Bypass:
    """A continuous path round the trunk that joins it late.

    Attributes:
        step: Where it joins.
        value: What it brings along.
        gate: The step that switches it on and off.
        severity: High where the gate is steep or chooses between two paths, medium where it is
            merely bent.
    """

    step: Step
    value: ir.Value
    gate: Step
    severity: Severity


def find_bypasses(
    flow: Flow, decisions: Decisions, trunk: Trunk, slopes: dict[ir.Value, Slope]
) -> list[Bypass]:
    """Return the gated paths round the trunk that no decision was found on.

    A gate is a bend behind a large factor, or the choice of the larger or smaller of two paths.
    """
    found = []
    for step in flow.steps:
        sources = [v for v in flow.active_inputs(step) if v not in decisions.tensors]
        rounds = [value for value in sources if trunk.goes_round(value)]
        if not rounds or not any(trunk.goes_through(value) for value in sources):
            continue
        if not any(out in trunk.after and trunk.is_late(out) for out in step.outputs):
            continue
        for value in rounds:
            gate = _gate(flow, slopes, step, value)
            if gate is not None:
                found.append(Bypass(step, value, *gate))
    return found


def _gate(
    flow: Flow, slopes: dict[ir.Value, Slope], join: Step, value: ir.Value
) -> tuple[Step, Severity] | None:
    if join.op in _CHOOSING:
        return join, "high"
    ancestors = flow.ancestors(value)
    bent: tuple[Step, Severity] | None = None
    for step in (step for step in flow.steps if step in ancestors):
        slope = slopes[step.outputs[0]]
        if not (slope.low or slope.high):
            continue
        if slope.gain >= LEAST_STEEP:
            return step, "high"
        bent = bent or (step, "medium")
    return bent
