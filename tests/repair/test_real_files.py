"""Trained classifiers: the bundled ones, those of the benchmarks, and the shared zoo."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from onnx_soda._bridge.bridge import to_torch
from onnx_soda._model.runtime import relative_difference
from tests.repair.helpers import run_onnx

PROJECT = Path(__file__).resolve().parents[2]
BUNDLED = sorted((PROJECT / "fixtures").glob("digits-*.onnx"))
TRAINED = sorted((PROJECT / "benchmarks" / "models").glob("*.onnx"))
SHARED = PROJECT.parent / "shared" / "zoo"
# One of each architecture and data set is enough.
ONE_OF_EACH = {path.stem.rsplit("-", 3)[0]: path for path in TRAINED}


def _digits() -> NDArray[np.float32]:
    with h5py.File(PROJECT / "fixtures" / "digits-clean.h5") as file:
        pixels = file["images"][:64]
    return (pixels.transpose(0, 3, 1, 2) / 255).astype(np.float32)


@pytest.mark.parametrize("path", [*BUNDLED, *ONE_OF_EACH.values()], ids=lambda path: path.stem)
def test_trained_classifiers_are_converted_whole(path: Path) -> None:
    _check(path)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no zoo in {SHARED}")
def test_the_shared_zoo_is_converted_whole() -> None:
    paths = sorted(SHARED.glob("*.onnx"))
    assert paths
    for path in paths:
        _check(path)


def _check(path: Path) -> None:
    model = onnx.load(path)
    bridge = to_torch(model)
    assert (bridge.scope, bridge.notes) == ("full", ())
    assert bridge.parity <= 1e-5
    assert bridge.write_back().SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_after_training_the_written_file_computes_what_the_module_does(path: Path) -> None:
    images = _digits()
    model = onnx.load(path)
    bridge = to_torch(model, images=images)
    optimiser = torch.optim.SGD(bridge.module.parameters(), lr=0.01)
    before = run_onnx(model, {"images": images})
    for _ in range(3):
        optimiser.zero_grad()
        bridge.module(torch.from_numpy(images)).square().mean().backward()
        optimiser.step()
    assert all(weight.grad is not None for weight in bridge.parameters.values())
    written = run_onnx(bridge.write_back(), {"images": images})
    with torch.no_grad():
        module = bridge.module(torch.from_numpy(images)).numpy()
    assert relative_difference(written, [module]) <= 1e-5
    assert relative_difference(written, before) > 1e-3  # it did train
