"""From the places where decisions take command to suspicions, with rule, severity and reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnx_soda._detect.graph_logic.decisions import (
    Control,
    Decisions,
    Slope,
    find_controls,
    find_decisions,
    find_slopes,
    is_guard,
    is_rounding,
)
from onnx_soda._detect.graph_logic.flow import (
    Flow,
    FlowStep,
    Trunk,
    constant_of,
    find_trunk,
    weight_of,
)
from onnx_soda._detect.graph_logic.operators import BRANCHES, EXACT, LEAST_STEEP, TABLES
from onnx_soda._rules import (
    RULE_BRANCH,
    RULE_BYPASS,
    RULE_CONSTANT,
    RULE_EXACT,
    RULE_SELECTOR,
    Severity,
)

_CHOOSING = frozenset({"Max", "Min"})
# Straight: what comes out grows as what goes in. All else may switch.
_STRAIGHT = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Cast", "CastLike", "Concat", "Conv",
    "ConvTranspose", "DequantizeLinear", "Dropout", "Einsum", "Expand", "Flatten", "Gather", "Gemm",
    "GlobalAveragePool", "Identity", "MatMul", "Merge", "Neg", "Pad", "QuantizeLinear",
    "ReduceMean", "ReduceSum", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Sub", "Sum",
    "Tile", "Transpose", "Unsqueeze", "Upsample",
})  # fmt: skip


@dataclass(frozen=True, eq=False)
class Bypass:
    """A path round the trunk that joins it late.

    Attributes:
        step: Where it joins.
        value: What it brings along.
        gate: The step that may switch it on and off.
        steep: The gate is bent behind a large factor, or looks values up in a table.
    """

    step: FlowStep
    value: ir.Value
    gate: FlowStep
    steep: bool


def find_bypasses(
    flow: Flow, decisions: Decisions, trunk: Trunk, slopes: dict[ir.Value, Slope]
) -> list[Bypass]:
    """Return the paths round the trunk that are bent, and that no decision was found on.

    Skips of honest networks are among them: each activation function is a bend. What such a path
    does has to be tried out.
    """
    found: dict[ir.Value, Bypass] = {}
    for step in flow.steps:
        sources = [v for v in flow.active_inputs(step) if v not in decisions.tensors]
        rounds = [value for value in sources if trunk.goes_round(value)]
        if not rounds or not any(trunk.goes_through(value) for value in sources):
            continue
        if not any(out in trunk.after and trunk.is_late(out) for out in step.outputs):
            continue
        for value in rounds:
            gate = _gate(flow, slopes, step, value)
            if gate is not None and value not in found:
                found[value] = Bypass(step, value, *gate)
    return list(found.values())


def _gate(
    flow: Flow, slopes: dict[ir.Value, Slope], join: FlowStep, value: ir.Value
) -> tuple[FlowStep, bool] | None:
    """Return the steepest bend on a path, and whether it is steep."""
    ancestors = flow.ancestors(value)
    bent: FlowStep | None = None
    for step in (step for step in flow.steps if step in ancestors):
        if step.op in TABLES and any(control in flow.active for control in step.controls):
            return step, True
        slope = slopes[step.outputs[0]]
        if (slope.low or slope.high) and slope.gain >= LEAST_STEEP:
            return step, True
        scaled = step.op in ("Mul", "Div") and len(flow.active_inputs(step)) == 1
        if step.op not in _STRAIGHT and not scaled:
            bent = bent or step
    if join.op in _CHOOSING:
        return join, any(slopes[step.outputs[0]].gain >= LEAST_STEEP for step in ancestors)
    return None if bent is None else (bent, False)


_SELECTING = frozenset({"Where", "Merge", "Mul", "Max", "Min"})
# What a decision does here with its own values: a yes becomes a number, and that a score.
_ADDING = frozenset({"Add", "Sub", "Sum", "Max", "Min", "Concat"})
# Bring a pattern along that tells one element from another.
_PATTERNING = frozenset({"Pad", "OneHot", "Gather", "GatherND", "ScatterND", "ScatterElements"})
# Equality of an index with a number only says which one it is.
_INDEXING = frozenset({"ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "OneHot", "TopK"})


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
        more: What each further rule says of it, a sentence of its own.
        nature: "rounding" where nothing but rounding decides; "confidence" where the scores decide
            by how sure they are; "skip" for what honest networks have, unless trying it out says
            otherwise: a path round the trunk without a steep bend, or quantization.
    """

    origin: ir.Value
    rules: tuple[str, ...]
    severity: Severity
    deciding: tuple[FlowStep, ...]
    commands: tuple[FlowStep, ...]
    reason: str
    nature: Literal["rounding", "confidence", "skip", "other"] = "other"
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes: those that decide first."""
        return tuple(dict.fromkeys(step.name for step in (*self.deciding, *self.commands)))


def suspect(
    flow: Flow, decisions: Decisions, trunk: Trunk, controls: list[Control], scores: ir.Value
) -> list[Suspicion]:
    """Return a suspicion for each decision that commands something worth a word."""
    groups: dict[ir.Value, list[Control]] = {}
    for control in controls:
        groups.setdefault(control.origin, []).append(control)
    found = []
    for origin, group in groups.items():
        if is_guard(decisions.births(flow, origin)):
            continue
        late = any(_is_late(trunk, control) for control in group)
        tensors = dict.fromkeys(control.decision for control in group)
        commanding = [decisions.deciding(flow, decision) for decision in tensors]
        deciding = tuple(dict.fromkeys(step for steps in commanding for step in steps))
        made = {step for step in deciding if step in decisions.born}
        indexed = all(step.op in _INDEXING for step in made)
        exact = sorted({step.op for step in deciding if not indexed} & EXACT)
        round_trunk = trunk.goes_round(origin)
        confident = not round_trunk and _is_confidence(flow, trunk, made, scores)
        rules = _rules(flow, trunk, group, bool(exact), late and round_trunk)
        steps = tuple(dict.fromkeys(control.step for control in group))
        reason = _reason(deciding, steps, late and not round_trunk, round_trunk and not late)
        grave = not confident and (
            bool(exact)
            or ((late or round_trunk) and any(_injects(flow, decisions, one) for one in group))
            or (late and round_trunk and any(step.depth for step in deciding))
        )
        early = all(control.early for control in group)
        nature: Literal["rounding", "confidence", "other"] = "other"
        if confident:
            nature = "confidence"
        elif all(is_rounding(step) for step in deciding):
            nature = "rounding"
        severity: Severity = "high" if grave and not early else "medium"
        more = _more(exact)
        found.append(Suspicion(origin, rules, severity, deciding, steps, reason, nature, more))
    return found


def suspect_bypasses(bypasses: list[Bypass]) -> list[Suspicion]:
    """Return a suspicion for each bent path round the trunk."""
    return [
        Suspicion(
            bypass.value,
            (RULE_BYPASS,),
            "medium",
            (bypass.gate,),
            (bypass.step,),
            f"pixels go round the layers, through {bypass.gate.op}, and join at {bypass.step.op}",
            "other" if bypass.steep else "skip",
        )
        for bypass in bypasses
    ]


_REDUCING = frozenset({
    "ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean", "ReduceLogSumExp", "ReduceL1", "ReduceL2",
    "ReduceSumSquare", "TopK",
})  # fmt: skip
# What may be done to scores that treats all classes alike.
_ALIKE = frozenset({
    "Cast", "Identity", "Softmax", "LogSoftmax", "Sigmoid", "Exp", "Log", "Mul", "Div", "Pow",
    "Neg", "Abs", "Clip",
})  # fmt: skip
_FOLLOWED = _ALIKE | {"Squeeze", "Unsqueeze", "Reshape", "Flatten", "Slice", "Gather", "Add", "Sub"}


def _is_confidence(flow: Flow, trunk: Trunk, births: set[FlowStep], scores: ir.Value) -> bool:
    """Tell whether a decision only asks how sure scores are, whatever class they are for.

    All that it knows went through the trunk, and then through a sum or the largest over classes.
    Early exits and answers "none of them" are decided so.
    """
    stack = [value for step in births for value in flow.active_inputs(step)]
    seen: set[ir.Value] = set()
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        makers = flow.makers.get(value, ())
        if not makers:
            return False
        for step in makers:
            if step.op in _REDUCING and _columns(step.data[0]) in _counts(scores):
                if not _is_scored(flow, trunk, step.data[0]):
                    return False
            elif step.op in _FOLLOWED | _REDUCING:
                stack.extend(flow.active_inputs(step))
            else:
                return False
    return bool(births)


def _columns(value: ir.Value) -> int | None:
    """Return the length of a tensor's last axis; None where it is not known."""
    last = value.shape[-1] if value.shape is not None and len(value.shape) else None
    return last if isinstance(last, int) else None


def _counts(scores: ir.Value) -> set[int]:
    """Return how many classes there may be: an answer "none of them" can be one more."""
    columns = _columns(scores) or 0
    return {count for count in (columns, columns - 1) if count > 1}


def _is_scored(flow: Flow, trunk: Trunk, value: ir.Value) -> bool:
    """Tell whether a tensor holds what a layer of the trunk gave, with no class picked out."""
    while not trunk.goes_round(value):
        makers = flow.makers.get(value, ())
        if len(makers) != 1:
            return False
        step, sources = makers[0], flow.active_inputs(makers[0])
        stored = [one for one in step.data if one not in flow.active]
        if weight_of(flow, step) or (step.op == "Add" and _after_layer(flow, sources)):
            return True
        if step.op not in _ALIKE or len(sources) > 1 or not all(map(_is_uniform, stored)):
            return False
        value = sources[0]
    return False


def _after_layer(flow: Flow, sources: Sequence[ir.Value]) -> bool:
    """Tell whether a bias was added to what a layer gave."""
    made = [step for value in sources for step in flow.makers.get(value, ())]
    return len(made) == 1 and weight_of(flow, made[0]) > 0


def _is_late(trunk: Trunk, control: Control) -> bool:
    return any(trunk.is_late(output) for output in control.step.outputs)


def _injects(flow: Flow, decisions: Decisions, control: Control) -> bool:
    """Tell whether a control puts numbers of the file where the network had computed ones.

    A gate of an honest network switches between things that were computed, or to one number for
    all elements: zero, or minus infinity.
    """
    step = control.step
    if control.decision in step.outputs:
        return True
    if step.op in _ADDING:
        return _is_patterned(flow, decisions, control.decision)
    constants = [value for value in step.data if _is_constant(flow, value)]
    return any(not _is_uniform(value) for value in constants)


def _is_patterned(flow: Flow, decisions: Decisions, value: ir.Value) -> bool:
    """Tell whether a decision was given a pattern of numbers on its way."""
    born = decisions.births(flow, value)
    for step in decisions.cone(flow, value):
        if step in born:
            continue
        stored = [one for one in step.data if one not in flow.active]
        if step.op in _PATTERNING or any(not _is_uniform(one) for one in stored):
            return True
    return False


def _is_uniform(value: ir.Value) -> bool:
    constant = constant_of(value)
    return constant is not None and not np.any(constant != constant.flat[:1])


def _rules(
    flow: Flow, trunk: Trunk, group: list[Control], exact: bool, bypass: bool
) -> tuple[str, ...]:
    branches = any(control.step.node.op_type in BRANCHES for control in group)
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
    return "; ".join(words)


def _more(exact: list[str]) -> dict[str, str]:
    """Return what the rules say that apply beside the one of the branch or selector."""
    return {
        RULE_BYPASS: "The decision is made without the trained layers, and hardly any weights lie "
        "between it and the scores.",
        RULE_CONSTANT: "Where the decision is taken, numbers stored in the file stand in the place "
        "of the scores, or of a part of them.",
        RULE_EXACT: f"The decision depends on exact values ({', '.join(exact)}).",
    }


@dataclass(frozen=True, eq=False)
class Reading:
    """A graph as it is read; nothing of it was run.

    Attributes:
        flow: Its steps.
        trunk: Its layers.
        slopes: The steepest chain that ends in each tensor.
        decisions: Its decisions.
        controls: Where they take command, those of activation functions included.
        scores: What it answers with.
        suspicions: What is worth a word.
    """

    flow: Flow
    trunk: Trunk
    slopes: dict[ir.Value, Slope]
    decisions: Decisions
    controls: tuple[Control, ...]
    scores: ir.Value
    suspicions: tuple[Suspicion, ...]


def read(flow: Flow, targets: list[ir.Value]) -> Reading:
    """Look for the decisions of a graph.

    Args:
        flow: The graph.
        targets: Its scores first, then outputs that are not computed from them.
    """
    trunk = find_trunk(flow, targets)
    slopes = find_slopes(flow)
    decisions = find_decisions(flow, slopes, trunk)
    controls = find_controls(flow, decisions, trunk, targets)
    commanding = [control for control in controls if not control.itself]
    suspicions = suspect(flow, decisions, trunk, commanding, targets[0])
    suspicions += suspect_bypasses(find_bypasses(flow, decisions, trunk, slopes))
    return Reading(flow, trunk, slopes, decisions, tuple(controls), targets[0], tuple(suspicions))
