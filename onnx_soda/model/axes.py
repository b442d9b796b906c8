"""Which axis of a tensor holds the neurons: the features, not the places."""

from __future__ import annotations

import onnx_ir as ir

from onnx_soda.model.graph import GraphView

__all__ = ["neuron_axis"]

# Operators that tell that the last axis of their tensors holds the features.
_FEATURES_LAST = frozenset({"LayerNormalization", "MatMul", "Gemm", "RMSNormalization"})
# Operators whose result has its axes in the order of what they read.
_ELEMENTWISE = frozenset(
    {
        "Abs", "Add", "Cast", "Celu", "Clip", "DequantizeLinear", "Div", "Dropout", "Elu", "Erf",
        "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Min",
        "Mish", "Mul", "Neg", "Pow", "PRelu", "QuantizeLinear", "Reciprocal", "Relu", "Selu",
        "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Swish", "Tanh", "ThresholdedRelu",
    }
)  # fmt: skip
# Convolutions and poolings of ONNX put channels first; what comes after this has them last.
_TO_CHANNELS_LAST = [0, 2, 3, 1]


def neuron_axis(view: GraphView, value: ir.Value) -> int:
    """Return the axis of a tensor's neurons.

    The last one of a (N, features) tensor and of a token sequence; the channels of a feature map,
    which networks made with Keras, TensorFlow or JAX often hold last.

    Args:
        view: The graph.
        value: The tensor.
    """
    shape = view.shape(value)
    rank = len(shape) if shape else 2
    if rank <= 3:
        return rank - 1
    neighbours = {node.op_type for node, _ in value.uses()}
    producer = value.producer()
    if producer is not None:
        neighbours.add(producer.op_type)
    last = bool(neighbours & _FEATURES_LAST) or _channels_last(view, value)
    return rank - 1 if last else 1


def _channels_last(view: GraphView, value: ir.Value) -> bool:
    """Follow a feature map back, through what keeps its axes, to what put them in order."""
    node = value.producer()
    while node is not None and node.op_type in _ELEMENTWISE:
        maps = view.activation_inputs(node)
        node = maps[0].producer() if maps else None
    if node is None or node.op_type != "Transpose":
        return False
    order = node.attributes.get("perm")
    return order is not None and list(order.as_ints()) == _TO_CHANNELS_LAST
