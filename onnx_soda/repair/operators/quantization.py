"""DequantizeLinear, where a model takes quantized images."""

from __future__ import annotations

from torch import Tensor

from onnx_soda.repair.operators.registry import Attributes, Computed, converter

__all__: list[str] = []


@converter("DequantizeLinear", 10, 13, 19, 21, 23, 24, 25)
def _dequantize(node: Attributes) -> Computed:
    """Convert DequantizeLinear (https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html).

    Revision 13 adds scales per axis, 21 per block; 19 to 25 add types.
    """
    if node.integer("block_size", 0):
        raise NotImplementedError("scales per block")
    axis = node.integer("axis", 1)

    def dequantize(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        shape = [-1 if scale.dim() and i == axis % x.dim() else 1 for i in range(x.dim())]
        values = x.to(scale.dtype)
        if zero is not None:
            values = values - zero.to(scale.dtype).reshape(shape)
        return values * scale.reshape(shape)

    return dequantize
