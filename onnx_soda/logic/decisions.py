"""Which tensors are decisions: few values, and all that they know of the image went through a step.

A tensor is a decision if every path from the image to it passes an operation that leaves few
values. What happens to it afterwards does not matter: a function of decisions is a decision,
whatever operators it is written with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_soda.logic.constants import constant_of
from onnx_soda.logic.flow import Flow, Step
from onnx_soda.logic.steepness import Slope
from onnx_soda.logic.weights import Trunk

__all__ = ["EXACT", "Decisions", "find_decisions", "is_guard"]

_COMPARISONS = frozenset({
    "And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Xor",
})  # fmt: skip
EXACT = frozenset({
    "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Equal", "Mod", "Unique",
})  # fmt: skip
"""Operations that ask for one value among many."""
_OTHERS = frozenset({
    "ArgMax", "ArgMin", "Bernoulli", "Binarizer", "Hardmax", "IsInf", "IsNaN", "NonMaxSuppression",
    "NonZero", "OneHot", "Shrink", "Sign",
})  # fmt: skip
_DISCRETE = _COMPARISONS | EXACT | _OTHERS
_ROUNDING = frozenset({"Ceil", "Floor", "Round"})
# After these there are fewer values than before, so it is these that are forced.
_NARROWING = (_COMPARISONS - {"And", "Not", "Or", "Xor"}) | {"ArgMax", "ArgMin", "Mod", "Sign"}
# Outputs from this on are indices.
_INDEX_OUTPUT = {"MaxPool": 1, "TopK": 1}
# With this many values for one unit of its input, rounding is quantization.
_LEVELS = 8.0
_WHOLE = frozenset({
    ir.DataType.BOOL, ir.DataType.INT4, ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32,
    ir.DataType.INT64, ir.DataType.UINT4, ir.DataType.UINT8, ir.DataType.UINT16,
    ir.DataType.UINT32, ir.DataType.UINT64,
})  # fmt: skip


@dataclass(frozen=True, eq=False)
class Decisions:
    """The decisions of a graph.

    Attributes:
        tensors: Tensors that are decisions.
        born: Steps that made one out of something continuous.
    """

    tensors: frozenset[ir.Value]
    born: frozenset[Step]

    def origin(self, flow: Flow, value: ir.Value) -> ir.Value:
        """Return the earliest decision that a decision is a function of.

        Several comparisons that are put together are one decision where they meet.
        """
        while True:
            makers = flow.makers.get(value, ())
            if any(step.op in _NARROWING for step in makers):
                return value
            sources = {v for step in makers for v in flow.active_inputs(step)}
            if len(sources) != 1 or not sources <= self.tensors:
                return value
            value = sources.pop()

    def births(self, flow: Flow, value: ir.Value) -> list[Step]:
        """Return the steps that made the decisions which a decision is put together from."""
        return [step for step in self._cone(flow, value) if step in self.born]

    def deciding(self, flow: Flow, value: ir.Value) -> list[Step]:
        """Return its births, and the steps that decided further by what they had made."""
        steps = self._cone(flow, value)
        return [step for step in steps if step in self.born or step.op in _DISCRETE]

    def _cone(self, flow: Flow, value: ir.Value) -> list[Step]:
        """Return the steps between its births and a decision, in order."""
        found: set[Step] = set()
        stack = [value]
        while stack:
            for step in flow.makers.get(stack.pop(), ()):
                if step not in found:
                    found.add(step)
                    stack.extend(v for v in flow.active_inputs(step) if v in self.tensors)
        return [step for step in flow.steps if step in found]


def find_decisions(flow: Flow, slopes: dict[ir.Value, Slope], trunk: Trunk) -> Decisions:
    """Mark the decisions of a graph, from the image on."""
    tensors: set[ir.Value] = set()
    born: set[Step] = set()
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


def _decides(step: Step, at: int, output: ir.Value, slopes: dict[ir.Value, Slope]) -> bool:
    if step.op in _INDEX_OUTPUT:
        return at >= _INDEX_OUTPUT[step.op]
    if step.op in _DISCRETE:
        return True
    if step.op in _ROUNDING or _is_whole_cast(step, output):
        return slopes[output].height < _LEVELS if output in slopes else True
    return output in slopes and slopes[output].is_step


def _is_whole_cast(step: Step, output: ir.Value) -> bool:
    if step.op not in ("Cast", "CastLike") or output.dtype not in _WHOLE:
        return False
    return not step.data or step.data[0].dtype not in _WHOLE


def is_guard(births: list[Step]) -> bool:
    """Tell whether a decision only asks whether numbers are infinite, or not numbers at all."""
    return bool(births) and all(_asks_for_infinity(step) for step in births)


def _asks_for_infinity(step: Step) -> bool:
    if step.op in ("IsInf", "IsNaN"):
        return True
    constants = [constant_of(value) for value in step.inputs]
    return any(c is not None and c.dtype.kind == "f" and np.isinf(c).all() for c in constants)
