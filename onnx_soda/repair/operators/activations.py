"""Activation functions that onnx2torch lacks or has for one choice of their attributes only."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from onnx_soda.repair.operators.registry import Attributes, Computed, converter, own_converter

__all__: list[str] = []

# Defaults of Selu, as its page writes them.
_SELU_ALPHA = 1.67326319217681884765625
_SELU_GAMMA = 1.05070102214813232421875


@converter("Gelu", 20)
def _gelu(node: Attributes) -> Computed:
    """Convert Gelu (https://onnx.ai/onnx/operators/onnx__Gelu.html)."""
    return partial(functional.gelu, approximate=node.text("approximate", "none"))


@converter("Mish", 18, 22)
def _mish(_node: Attributes) -> Computed:
    """Convert Mish (https://onnx.ai/onnx/operators/onnx__Mish.html)."""
    return functional.mish


@converter("Swish", 24)
def _swish(node: Attributes) -> Computed:
    """Convert Swish (https://onnx.ai/onnx/operators/onnx__Swish.html)."""
    alpha = node.number("alpha", 1)
    return lambda x: x * torch.sigmoid(alpha * x)


@own_converter("PRelu", since=7)
def _prelu(_node: Attributes) -> Computed:
    """Convert PRelu (https://onnx.ai/onnx/operators/onnx__PRelu.html).

    Since revision 7 the slope is broadcast from the last axis on; 9 and 16 add types.
    """
    return lambda x, slope: torch.where(x < 0, x * slope, x)


@own_converter("Selu", since=6)
def _selu(node: Attributes) -> Computed:
    """Convert Selu (https://onnx.ai/onnx/operators/onnx__Selu.html); 22 adds a type."""
    alpha, gamma = node.number("alpha", _SELU_ALPHA), node.number("gamma", _SELU_GAMMA)
    return lambda x: gamma * functional.elu(x, alpha)


@converter("ThresholdedRelu", 10, 22)
def _thresholded_relu(node: Attributes) -> Computed:
    """Convert ThresholdedRelu (https://onnx.ai/onnx/operators/onnx__ThresholdedRelu.html)."""
    alpha = node.number("alpha", 1)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


@converter("Shrink", 9)
def _shrink(node: Attributes) -> Computed:
    """Convert Shrink (https://onnx.ai/onnx/operators/onnx__Shrink.html)."""
    bias, limit = node.number("bias", 0), node.number("lambd", 0.5)

    def shrink(x: Tensor) -> Tensor:
        outside = torch.where(x < -limit, x + bias, torch.zeros_like(x))
        return torch.where(x > limit, x - bias, outside)

    return shrink


@converter("Hardmax", 1, 11)
def _hardmax_of_rows(node: Attributes) -> Computed:
    """Convert Hardmax up to revision 11, which takes all axes from `axis` on as one."""
    axis = node.integer("axis", 1)
    return lambda x: hardmax(x.flatten(axis), -1).reshape(x.shape)


@converter("Hardmax", 13)
def _hardmax(node: Attributes) -> Computed:
    """Convert Hardmax-13 (https://onnx.ai/onnx/operators/onnx__Hardmax.html)."""
    return partial(hardmax, axis=node.integer("axis", -1))


def hardmax(x: Tensor, axis: int) -> Tensor:
    """Return 1 at the first maximum along an axis and 0 elsewhere."""
    places = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, places, 1)
