"""How much of what was trained lies before and behind a tensor."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnx_soda.logic.constants import size_of
from onnx_soda.logic.flow import Flow, Step

__all__ = ["Trunk", "find_trunk", "weight_of"]

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

    def is_layer(self, flow: Flow, step: Step) -> bool:
        """Tell whether a step is a layer of the trunk and not a small table of constants."""
        return weight_of(flow, step) > _ROUND_SHARE * self.total


def weight_of(flow: Flow, step: Step) -> int:
    """Return the number of weights of a step."""
    if step.op not in _WEIGHTED:
        return 0
    return sum(size_of(value) for value in step.inputs if value not in flow.active)


def find_trunk(flow: Flow, targets: list[ir.Value]) -> Trunk:
    """Count the weights along the paths from the image to the scores."""
    before: dict[ir.Value, int] = {flow.image: 0}
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
