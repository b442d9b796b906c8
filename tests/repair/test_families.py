"""One small network per family of operators, at the opsets at which one of them changes."""

from __future__ import annotations

import pytest
import torch
from onnx import defs

from fixtures.families import FAMILIES, build_family
from onnx_soda._bridge.bridge import TorchModel, to_torch
from onnx_soda._model.runtime import relative_difference
from onnx_soda._preflight.definitions import newest_opset
from tests.repair.helpers import run_onnx

# In nearly every family, and with a revision every other opset: those of "reshaping" are enough.
COMMON = {
    "Conv",
    "Relu",
    "GlobalAveragePool",
    "Flatten",
    "Gemm",
    "Identity",
    "Reshape",
    "Transpose",
}
ALL_OPSETS = {"convolution", "reshaping"}


def _opsets(name: str) -> list[int]:
    """Return the oldest and newest opset, and those at which an operator of the family changes.

    `python -m benchmarks.bridge_coverage` goes through all.
    """
    first, newest = FAMILIES[name].since, newest_opset()
    found = {first, newest}
    for opset in range(first, newest + 1):
        operators = {node.op_type for node in build_family(name, opset).graph.node}
        own = operators if name in ALL_OPSETS else operators - COMMON
        found.update({opset} & {defs.get_schema(one, opset).since_version for one in own})
    return sorted(found)


CASES = [(name, opset) for name in FAMILIES for opset in _opsets(name)]


@pytest.mark.parametrize(("name", "opset"), CASES)
def test_a_family_is_converted_whole_and_can_be_trained(name: str, opset: int) -> None:
    model = build_family(name, opset)
    bridge = to_torch(model)
    assert (bridge.scope, bridge.notes) == ("full", ())
    assert bridge.parity <= 1e-5
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images.requires_grad_(True)
    bridge.module(images).square().sum().backward()
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()
    assert images.grad.abs().max() > 0
    for weight in bridge.parameters.values():
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()
    assert bridge.write_back() == model
    _check_round_trip(bridge, images.detach())


def _check_round_trip(bridge: TorchModel, images: torch.Tensor) -> None:
    """Change every weight: ONNX Runtime on the written file computes what the module does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        before = bridge.module(images).numpy()
        for weight in bridge.parameters.values():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
        wanted = bridge.module(images).numpy()
    found = run_onnx(bridge.write_back(), {"image": images.numpy()})
    assert relative_difference(found, [wanted]) <= 1e-5
    assert relative_difference([before], [wanted]) > 1e-3


def test_an_opset_older_than_the_family_is_refused() -> None:
    with pytest.raises(ValueError, match="older than 23"):
        build_family("RMS normalisation", 22)
