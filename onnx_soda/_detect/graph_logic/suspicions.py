"""From the places where decisions take command to suspicions, with rule, severity and reason."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnx_soda._detect.graph_logic.decisions import (
    EXACT,
    LEAST_STEEP,
    Control,
    Decisions,
    Slope,
    is_guard,
)
from onnx_soda._detect.graph_logic.flow import Flow, FlowStep, Trunk, constant_of
from onnx_soda._rules import (
    RULE_BRANCH,
    RULE_BYPASS,
    RULE_CONSTANT,
    RULE_EXACT,
    RULE_SELECTOR,
    Severity,
)

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

    step: FlowStep
    value: ir.Value
    gate: FlowStep
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
    flow: Flow, slopes: dict[ir.Value, Slope], join: FlowStep, value: ir.Value
) -> tuple[FlowStep, Severity] | None:
    if join.op in _CHOOSING:
        return join, "high"
    ancestors = flow.ancestors(value)
    bent: tuple[FlowStep, Severity] | None = None
    for step in (step for step in flow.steps if step in ancestors):
        slope = slopes[step.outputs[0]]
        if not (slope.low or slope.high):
            continue
        if slope.gain >= LEAST_STEEP:
            return step, "high"
        bent = bent or (step, "medium")
    return bent


_BRANCHES = frozenset({"If", "Loop", "Scan"})
_SELECTING = frozenset({"Where", "Merge", "Mul", "Max", "Min"})


@dataclass(frozen=True, eq=False)
class Suspicion:
    """A decision, what it commands, and what is thought of it before anything is run.

    Attributes:
        origin: The decision, or what a path round the trunk brings along.
        rules: Rules that apply.
        severity: How severe by structure alone.
        deciding: Steps that make the decision.
        commands: Steps that it commands.
        reason: Why it is suspected, a sentence without full stop.
    """

    origin: ir.Value
    rules: tuple[str, ...]
    severity: Severity
    deciding: tuple[FlowStep, ...]
    commands: tuple[FlowStep, ...]
    reason: str

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes: those that decide first."""
        return tuple(dict.fromkeys(step.name for step in (*self.deciding, *self.commands)))


def suspect(
    flow: Flow, decisions: Decisions, trunk: Trunk, controls: list[Control]
) -> list[Suspicion]:
    """Return a suspicion for each decision that commands something worth a word."""
    groups: dict[ir.Value, list[Control]] = {}
    for control in controls:
        groups.setdefault(control.origin, []).append(control)
    found = []
    for origin, group in groups.items():
        births = decisions.births(flow, origin)
        late = any(_is_late(trunk, control) for control in group)
        if is_guard(births):
            continue
        commanding = [decisions.deciding(flow, control.decision) for control in group]
        deciding = tuple(dict.fromkeys(step for steps in commanding for step in steps))
        exact = sorted({step.op for step in deciding} & EXACT)
        round_trunk = trunk.goes_round(origin)
        rules = _rules(flow, trunk, group, bool(exact), late and round_trunk)
        severity = _severity(group, late, round_trunk, bool(exact), RULE_CONSTANT in rules)
        steps = tuple(dict.fromkeys(control.step for control in group))
        reason = _reason(deciding, steps, exact, late, round_trunk)
        found.append(Suspicion(origin, rules, severity, deciding, steps, reason))
    return found


def suspect_bypasses(bypasses: list[Bypass]) -> list[Suspicion]:
    """Return a suspicion for each gated path round the trunk."""
    return [
        Suspicion(
            bypass.value,
            (RULE_BYPASS,),
            bypass.severity,
            (bypass.gate,),
            (bypass.step,),
            f"pixels go round the layers, through {bypass.gate.op}, and join at {bypass.step.op}",
        )
        for bypass in bypasses
    ]


def _is_late(trunk: Trunk, control: Control) -> bool:
    return any(trunk.is_late(output) for output in control.step.outputs)


def _severity(
    group: list[Control], late: bool, round_trunk: bool, exact: bool, constant: bool
) -> Severity:
    if all(control.early for control in group):
        return "medium"
    return "high" if late or round_trunk or exact or constant else "medium"


def _rules(
    flow: Flow, trunk: Trunk, group: list[Control], exact: bool, bypass: bool
) -> tuple[str, ...]:
    branches = any(control.step.node.op_type in _BRANCHES for control in group)
    rules = [RULE_BRANCH if branches else RULE_SELECTOR]
    if bypass:
        rules.append(RULE_BYPASS)
    if any(_selects_constant(flow, trunk, control) for control in group):
        rules.append(RULE_CONSTANT)
    if exact:
        rules.append(RULE_EXACT)
    return tuple(rules)


def _selects_constant(flow: Flow, trunk: Trunk, control: Control) -> bool:
    """Tell whether a late control can put constants in the place of scores."""
    step = control.step
    if not _is_late(trunk, control):
        return False
    if control.decision in step.outputs:
        return True
    if step.op not in _SELECTING or step.op == "Mul":
        return False
    return any(_is_constant(flow, value) for value in step.data)


def _is_constant(flow: Flow, value: ir.Value) -> bool:
    return value not in flow.active and (
        constant_of(value) is not None or value.producer() is not None
    )


def _reason(
    deciding: tuple[FlowStep, ...],
    commands: tuple[FlowStep, ...],
    exact: list[str],
    late: bool,
    round_trunk: bool,
) -> str:
    operators = ", ".join(sorted({step.op for step in deciding}))
    commanded = ", ".join(sorted({step.node.op_type for step in commands}))
    words = [f"{operators} on values of the image commands {commanded}"]
    if round_trunk:
        words.append("the decision is made without the trained layers")
    if late:
        words.append("hardly any weights lie between it and the scores")
    if exact:
        words.append(f"it depends on exact values ({', '.join(exact)})")
    return "; ".join(words)
