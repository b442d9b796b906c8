"""Which weights may change, on networks where that can be read off."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from onnx_soda._repair.masks import feeding_weights, outgoing_weights, upstream_weights


def named(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters())


def test_outgoing_weights_are_the_columns_of_the_neurons_and_not_the_bias() -> None:
    head = nn.Linear(4, 3)
    masks = outgoing_weights(head, named(head), torch.ones(1, 4), 1, np.array([1, 3]))
    assert list(masks) == ["weight"]
    # Three classes read neurons 1 and 3.
    assert masks["weight"].tolist() == [[0, 1, 0, 1]] * 3


def test_outgoing_weights_of_channels_are_those_of_the_kernel() -> None:
    head = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    masks = outgoing_weights(head, named(head), torch.ones(1, 3, 2, 2), 1, np.array([2]))
    assert masks["0.weight"].reshape(2, 3).tolist() == [[0, 0, 1]] * 2


def test_feeding_weights_are_the_rows_of_the_neurons_and_nothing_shared() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 3))  # no ReLU: no neuron is dead
    layer = body(torch.randn(8, 2))
    masks = feeding_weights(layer, named(body), 1, np.array([1]))
    # The first layer moves all three neurons, so none of its weights is the second neuron's own.
    assert set(masks) == {"1.weight", "1.bias"}
    assert masks["1.weight"].tolist() == [[0] * 5, [1] * 5, [0] * 5]
    assert masks["1.bias"].tolist() == [0, 1, 0]


def test_a_weight_that_two_neurons_share_is_left_alone_if_one_is_not_outstanding() -> None:
    shared = nn.Parameter(torch.ones(1))
    layer = torch.stack([shared * 2, shared * 3], dim=1)
    assert feeding_weights(layer, {"w": shared}, 1, np.array([0])) == {}


def test_upstream_weights_are_those_of_all_paths_shared_or_not() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 3))
    layer = body(torch.randn(8, 2))
    masks = upstream_weights(layer, named(body), 1, np.array([1]))
    assert masks["0.weight"].tolist() == [[1] * 2] * 5  # feeds all three neurons
    assert masks["0.bias"].tolist() == [1] * 5
    assert masks["1.weight"].tolist() == [[0] * 5, [1] * 5, [0] * 5]
    assert masks["1.bias"].tolist() == [0, 1, 0]
