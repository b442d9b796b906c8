"""Attention, as exporters write it from opset 23 on."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from onnx_soda.repair.operators.registry import Attributes, Computed, converter

__all__: list[str] = []

# Inputs are query, key, value and mask; those behind them are a cache of earlier tokens.
_PLAIN_INPUTS = 4


@converter("Attention", 23, 24, 25)
def _attention(node: Attributes) -> Computed:
    """Convert Attention (https://onnx.ai/onnx/operators/onnx__Attention.html).

    Without cache, soft cap and further outputs, which image classifiers do not have. Revision 24
    adds an external cache, 25 windows; without them they mean the same.
    """
    if node.inputs > _PLAIN_INPUTS or node.outputs > 1:
        raise NotImplementedError("a cache or the scores as output")
    if node.number("softcap", 0):
        raise NotImplementedError("softcap")
    if {node.integer(f"{side}_window_size", -1) for side in ("left", "right")} != {-1}:
        raise NotImplementedError("a window")
    return partial(
        attend,
        heads=(node.integer("q_num_heads", 0), node.integer("kv_num_heads", 0)),
        scale=node.bound("scale"),
        causal=bool(node.integer("is_causal", 0)),
    )


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    heads: tuple[int, int],
    scale: float | None,
    causal: bool,
) -> Tensor:
    """Return the attention of queries to keys and values.

    Args:
        query: Shape (N, heads, tokens, features), or (N, tokens, heads * features).
        key: As `query`; may have fewer heads, which then serve several of the query.
        value: As `key`.
        mask: Boolean (attend where true) or added to the scores; broadcast to them.
        heads: Number of heads of the query, and of key and value, where the tensors have rank 3.
        scale: Factor of the scores; 1 / sqrt(features) where None.
        causal: A token attends to earlier ones and itself only.
    """
    flat = query.dim() == 3
    if flat:
        query = _by_head(query, heads[0])
        key, value = _by_head(key, heads[1]), _by_head(value, heads[1])
    if causal and mask is not None:
        mask, causal = _and_causal(mask, query.shape[-2], key.shape[-2]), False
    result = functional.scaled_dot_product_attention(
        query, key, value, mask, is_causal=causal, scale=scale, enable_gqa=True
    )
    return result.transpose(1, 2).flatten(2) if flat else result


def _by_head(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _and_causal(mask: Tensor, queries: int, keys: int) -> Tensor:
    earlier = torch.ones(queries, keys, dtype=torch.bool, device=mask.device).tril()
    if mask.dtype == torch.bool:
        return mask & earlier
    return mask.masked_fill(~earlier, -torch.inf)
