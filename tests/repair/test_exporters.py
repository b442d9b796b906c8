"""Networks as torch's exporters and ONNX Runtime's quantization write them today."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import quantization
from torch import nn

from onnx_soda._bridge.bridge import to_torch
from onnx_soda._model.runtime import relative_difference
from tests.repair.helpers import run_onnx

IMAGES = np.random.default_rng(0).random((4, 3, 16, 16), np.float32)


class Attention(nn.Module):
    """One block of a vision transformer, with a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.places = nn.Parameter(torch.randn(1, 17, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mix = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.places
        normal = self.norm(tokens)
        tokens = tokens + self.attention(normal, normal, normal, need_weights=False)[0]
        scores: torch.Tensor = self.head((tokens + self.mix(tokens))[:, 0])
        return scores


def _convolutional() -> nn.Module:
    """Blocks of MobileNet and SqueezeNet, with a tail of shapes that are computed."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardswish(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.MaxPool2d(2, ceil_mode=True), nn.GroupNorm(2, 8), nn.SiLU(), nn.Dropout(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip


NETWORKS = {"convolutional": _convolutional, "attention": Attention}
# The oldest that the old exporter can write the network for, and its default.
OPSETS = [("convolutional", 9), ("convolutional", 17), ("attention", 14), ("attention", 20)]


def _export(name: str, path: Path, opset: int | None, new: bool) -> nn.Module:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    shapes = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)} if new else {
        "input_names": ["images"], "dynamic_axes": {"images": {0: "N"}}
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own
        torch.onnx.export(
            network, (torch.from_numpy(IMAGES),), str(path), opset_version=opset, dynamo=new,
            **({"verbose": False} if new else {}), **shapes,
        )  # fmt: skip
    return network


def _check(network: nn.Module, path: Path) -> None:
    model = onnx.load(path)
    bridge = to_torch(model, images=IMAGES)
    assert (bridge.scope, bridge.notes) == ("full", ())
    images = torch.from_numpy(IMAGES)
    with torch.no_grad():
        wanted, found = network(images).numpy(), bridge.module(images).numpy()
    assert relative_difference([found], [wanted]) <= 1e-5
    # All weights of the network, or what the exporter folded them into, can be trained.
    bridge.module(images).square().sum().backward()
    assert all(weight.grad is not None for weight in bridge.parameters.values())
    assert bridge.write_back() == model


@pytest.mark.parametrize(("name", "opset"), OPSETS)
def test_what_the_old_exporter_writes(name: str, opset: int, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    _check(_export(name, path, opset, new=False), path)


@pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None, reason="torch's new exporter needs onnxscript"
)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_the_new_exporter_writes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    _check(_export(name, path, None, new=True), path)


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.left = [{"images": IMAGES}]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_network_that_onnx_runtime_quantized(per_channel: bool, tmp_path: Path) -> None:
    """Converted to floats, said so, close to the file; its quantized weights stay as they are."""
    before, after = tmp_path / "network.onnx", tmp_path / "quantized.onnx"
    _export("convolutional", before, 17, new=False)
    quantization.quantize_static(before, after, _Reader(), per_channel=per_channel)
    model = onnx.load(after)
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}
    bridge = to_torch(model, images=IMAGES)
    assert bridge.scope == "full"
    assert "The model is quantized" in bridge.notes[0]
    with torch.no_grad():
        found = bridge.module(torch.from_numpy(IMAGES)).numpy()
    wanted = run_onnx(model, {"images": IMAGES})
    assert 0 < relative_difference([found], wanted) < 0.1
    assert bridge.write_back().SerializeToString() == model.SerializeToString()
