"""Normalisation over channels, features, groups and instances; inference only."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from onnx_soda.repair.operators.registry import (
    Attributes,
    Computed,
    converter,
    own_converter,
)

__all__: list[str] = []


@own_converter("BatchNormalization", since=7)
def _batch_norm(node: Attributes) -> Computed:
    """Convert BatchNormalization (https://onnx.ai/onnx/operators/onnx__BatchNormalization.html).

    Always in inference mode, also after `.train()`: a repair must not move the statistics.
    Revisions 7 and 9 differ from 14 and 15 in how they say that they train.
    """
    if node.integer("training_mode", 0) or node.outputs > 1:
        raise NotImplementedError("training mode")
    if not node.integer("spatial", 1):
        raise NotImplementedError("statistics per place (spatial=0)")
    return partial(batch_norm, epsilon=node.number("epsilon", 1e-5))


def batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float
) -> Tensor:
    """Normalise a tensor of shape (N, C, ...) by given statistics of shape (C,).

    No gradient goes to the statistics: they are estimates, not weights. (Exporters write equal
    tensors once, so an initializer may be both.)
    """
    return functional.batch_norm(x, mean.detach(), variance.detach(), scale, bias, eps=epsilon)


@own_converter("InstanceNormalization", since=6)
def _instance_norm(node: Attributes) -> Computed:
    """Convert InstanceNormalization.

    https://onnx.ai/onnx/operators/onnx__InstanceNormalization.html; 22 adds a type.
    """
    epsilon = node.number("epsilon", 1e-5)
    return lambda x, scale, bias: functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@own_converter("LayerNormalization", since=17)
def _layer_norm(node: Attributes) -> Computed:
    """Convert LayerNormalization.

    https://onnx.ai/onnx/operators/onnx__LayerNormalization.html
    """
    if node.outputs > 1:
        raise NotImplementedError("mean and deviation as outputs")
    return partial(layer_norm, axis=node.integer("axis", -1), epsilon=node.number("epsilon", 1e-5))


def layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int, epsilon: float
) -> Tensor:
    """Normalise over the axes from `axis` on; scale and bias are broadcast to them."""
    shape = x.shape[axis:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return functional.layer_norm(x, shape, scale, bias, epsilon)
    normal = functional.layer_norm(x, shape, eps=epsilon) * scale
    return normal if bias is None else normal + bias


@converter("RMSNormalization", 23)
def _rms_norm(node: Attributes) -> Computed:
    """Convert RMSNormalization (https://onnx.ai/onnx/operators/onnx__RMSNormalization.html)."""
    axis, epsilon = node.integer("axis", -1), node.number("epsilon", 1e-5)
    return lambda x, scale: functional.rms_norm(x, x.shape[axis:], eps=epsilon) * scale


@converter("GroupNormalization", 21)
def _group_norm(node: Attributes) -> Computed:
    """Convert GroupNormalization (https://onnx.ai/onnx/operators/onnx__GroupNormalization.html).

    Scale and bias have one entry per channel. Revision 18, with one per group, is deprecated and
    refused by onnx's checker.
    """
    groups, epsilon = node.integer("num_groups", 1), node.number("epsilon", 1e-5)
    return lambda x, scale, bias: functional.group_norm(x, groups, scale, bias, epsilon)


@converter("LpNormalization", 1, 22)
def _lp_norm(node: Attributes) -> Computed:
    """Convert LpNormalization (https://onnx.ai/onnx/operators/onnx__LpNormalization.html)."""
    axis, power = node.integer("axis", -1), node.integer("p", 2)

    def normalise(x: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(x, power, axis, keepdim=True)
        return x / norm.clamp_min(torch.finfo(x.dtype).tiny)  # a zero vector stays one

    return normalise
