"""One small network per family of operators, at every opset at which one of them changes."""

from __future__ import annotations

import pytest
import torch
from onnx import defs

from fixtures.families import FAMILIES, build_family
from onnx_soda.model.versions import newest_opset
from onnx_soda.repair.bridge import to_torch


def _opsets(name: str) -> list[int]:
    """Return the first opset of the family, and those at which an operator of it has a revision."""
    first, newest = FAMILIES[name].since, newest_opset()
    found = {first}
    for opset in range(first, newest + 1):
        nodes = build_family(name, opset).graph.node
        revisions = {defs.get_schema(node.op_type, opset).since_version for node in nodes}
        found.update({opset} & revisions)
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


def test_an_opset_older_than_the_family_is_refused() -> None:
    with pytest.raises(ValueError, match="older than 23"):
        build_family("RMS normalisation", 22)
