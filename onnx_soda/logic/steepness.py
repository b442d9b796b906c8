"""How steep an element-wise chain is, and whether it is flat on both sides: a step.

A comparison can be written without one: a sigmoid, a clip or the difference of two rectifiers,
behind a large factor, is 0 on one side of a threshold and 1 on the other. Trained gates (SE blocks,
hard swish) have the same operators without the factor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnx_soda.logic.constants import constant_of, size_of
from onnx_soda.logic.flow import Flow, Step

__all__ = ["LEAST_STEEP", "Slope", "find_slopes"]

# Steps over less than a sixteenth of the usual range of a tensor are decisions. Factors of
# activations are at most 1, those of normalised pixels about 5, of trained gates below 10.
LEAST_STEEP = 16.0
# A matrix with a larger entry is a factor, not a trained layer.
_LARGEST_TRAINED = 100.0
_FACTOR_ELEMENTS = 4096
_MATRICES = frozenset({"Conv", "Gemm", "MatMul"})
_CARRIERS = frozenset({
    "Identity", "Cast", "CastLike", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose",
    "Add",    "Sub", "Neg", "Merge", "Dropout", "Expand", "Tile", "Sqrt", "Abs", "QuantizeLinear",
    "DequantizeLinear", "Concat", "Slice", "Pad", "Round", "Floor", "Ceil",
})  # fmt: skip
# Flat on both sides, with their slope at zero.
_SATURATING = {"Sigmoid": 0.25, "Tanh": 1.0, "Erf": 1.128, "Softsign": 1.0, "HardSigmoid": 0.2}
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
    slopes = {flow.image: Slope(flow.image)}
    for step in flow.steps:
        slope = _through(flow, step, slopes)
        for output in step.outputs:
            slopes[output] = slope or Slope(output)
    return slopes


def _through(flow: Flow, step: Step, slopes: dict[ir.Value, Slope]) -> Slope | None:
    known = [slopes[value] for value in flow.active_inputs(step) if value in slopes]
    if not known or len({slope.source for slope in known}) > 1:
        return None
    slope = _joined(step, known)
    if step.op in ("Mul", "Div") and len(known) == 1:
        return _scaled(flow, step, slope)
    if step.op in _MATRICES:
        return _from_matrix(flow, step)
    if step.op in _CARRIERS:
        return slope
    if step.op == "Pow":
        return _raised(step, slope)
    return _bent(step, slope)


def _joined(step: Step, known: list[Slope]) -> Slope:
    """Put branches of one source together: relu(x) - relu(x - 1) is flat on both sides."""
    low, high = any(s.low for s in known), any(s.high for s in known)
    difference = step.op == "Sub" and len(known) > 1 and low
    gain, height = max(s.gain for s in known), max(s.height for s in known)
    return Slope(known[0].source, gain, low, high or difference, height)


def _scaled(flow: Flow, step: Step, slope: Slope) -> Slope:
    factors = [constant_of(value) for value in step.inputs if value not in flow.active]
    if len(factors) != 1 or factors[0] is None or not factors[0].size:
        return slope
    size = float(np.median(np.abs(factors[0].astype(np.float64))))
    if step.op == "Div":
        size = 1 / size if size else 1.0
    # Behind the flat parts a factor makes the step higher, not steeper.
    factor = 1.0 if slope.low and slope.high else size
    return replace(slope, gain=slope.gain * factor, height=slope.height * size)


def _raised(step: Step, slope: Slope) -> Slope | None:
    """A high power is flat up to one and steep from there on, like exp."""
    exponent = constant_of(step.inputs[1])
    if exponent is None or not exponent.size:
        return None
    return replace(slope, gain=slope.gain * max(float(np.abs(exponent).max()), 1.0), low=True)


def _from_matrix(flow: Flow, step: Step) -> Slope | None:
    largest = 1.0
    for value in step.inputs:
        if value not in flow.active and size_of(value) <= _FACTOR_ELEMENTS:
            constant = constant_of(value)
            if constant is not None and constant.size:
                largest = max(largest, float(np.abs(constant).max()))
    return Slope(step.outputs[0], largest, height=largest) if largest > _LARGEST_TRAINED else None


def _bent(step: Step, slope: Slope) -> Slope | None:
    if step.op in _SATURATING:
        factor = _SATURATING[step.op]
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


def _clipped(step: Step, slope: Slope) -> Slope:
    """Clip is flat outside its bounds, and less steep the further they are apart."""
    bounds = [constant_of(value) for value in step.node.inputs[1:3]]
    lowest = _attribute(step, "min", bounds[0] if bounds else None)
    highest = _attribute(step, "max", bounds[1] if len(bounds) > 1 else None)
    width = max(highest - lowest, 1e-6) if lowest is not None and highest is not None else 1.0
    low = slope.low or lowest is not None
    high = slope.high or highest is not None
    return replace(slope, gain=slope.gain / width, low=low, high=high)


def _attribute(step: Step, name: str, given: object) -> float | None:
    if name in step.node.attributes:
        return step.node.attributes[name].as_float()
    return float(np.asarray(given).flat[0]) if given is not None else None
