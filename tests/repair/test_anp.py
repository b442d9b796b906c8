"""ANP: channels whose perturbed weights turn answers first are pruned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_soda import load_model
from onnx_soda._bridge.operators.layers import batch_norm, batch_statistics
from onnx_soda._errors import RepairError
from onnx_soda._model.anatomy import dissect
from onnx_soda._repair.baselines.anp import AnpRemover, Pruner, find_channels
from onnx_soda._repair.baselines.base import clean_of
from onnx_soda._repair.preparation import Preparation

from .helpers import run_onnx
from .rivals import PLANTED, clean_folds, coloured, planted, ready_for, strict
from .test_nad import dense_ready


def on_blue(model: onnx.ModelProto) -> NDArray[np.int64]:
    """Return the classes of ten red images with blue of 1."""
    images = np.tile(np.array([0.8, 0.2, 1.0], np.float32).reshape(1, 3, 1, 1), (10, 1, 4, 4))
    given: NDArray[np.int64] = run_onnx(model, {"image": images})[0].argmax(axis=1)
    return given


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Preparation:
    return ready_for(tmp_path_factory.mktemp("planted"), planted(), *coloured(60))


def test_the_channel_of_the_backdoor_is_pruned_and_no_other(ready: Preparation) -> None:
    assert set(on_blue(ready.proto)) == {1}
    done = AnpRemover(ready).remove(clean_folds(ready))
    assert done.model is not None
    assert any("prunes 1 of 3 channels" in note for note in done.notes)
    assert set(on_blue(done.model)) == {0}
    # Pruned to what it gives on average, 2 x 0.3 - 0.85, and not to 0.
    (offset,) = [one for one in done.model.graph.initializer if one.name == "k"]
    assert numpy_helper.to_array(offset) == pytest.approx([0, 0, -0.25], abs=0.03)


def test_masks_tell_the_backdoor_from_what_tells_classes(ready: Preparation) -> None:
    """The mask of the planted channel goes to 0 first, those of the classes stay near 1."""
    remover = AnpRemover(ready)
    examples = clean_of(clean_folds(ready))
    pruner = Pruner(remover.network, remover.layers, remover._centres(examples))
    told: list[int] = []
    masks = pruner.learn_masks(examples, 0.2, lambda done, _: told.append(done))
    assert masks[2] <= 0.2
    assert min(masks[0], masks[1]) >= 0.8
    assert told == list(range(1, len(told) + 1))


_NORMALISED = """
<ir_version: 8, opset_import: ["" : 17]>
normalised (float[N,3,4,4] image) => (float[N,2] y) {
    c = Conv(image, K)
    seen = BatchNormalization<epsilon=0.0>(c, gamma, beta, mu, variance)
    active = Relu(seen)
    mean = GlobalAveragePool(active)
    h = Flatten(mean)
    y = Gemm(h, V)
}
"""


def with_batch_norm(pixels: NDArray[np.uint8]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a net with a BatchNorm of the images' own statistics, and the same folded."""
    rng = np.random.default_rng(3)
    filters = rng.normal(size=(3, 3)).astype(np.float32)
    seen = (pixels / 255) @ filters.T
    mu, variance = seen.mean(axis=(0, 1, 2)), seen.var(axis=(0, 1, 2))
    gamma, beta = rng.uniform(0.5, 1.5, 3), rng.uniform(0.2, 0.6, 3)
    last = rng.normal(size=(3, 2))
    scale = gamma / np.sqrt(variance)
    plain, folded = (onnx.parser.parse_model(text) for text in (_NORMALISED, PLANTED))
    stored = {"K": filters, "gamma": gamma, "beta": beta, "mu": mu, "variance": variance, "V": last}
    put_in = {"K": scale[:, None] * filters, "k": beta - scale * mu, "V": last}
    for model, weights in ((plain, stored), (folded, put_in)):
        for name, value in weights.items():
            shape = (3, 3, 1, 1) if name == "K" else value.shape
            array = value.astype(np.float32).reshape(shape)
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    return plain, folded


def test_a_folded_batch_norm_is_masked_and_pruned_as_one_that_is_not(tmp_path: Path) -> None:
    """Masked by 0.5 and pruned, both give the same; so beta is what a channel gives on average."""
    pixels, labels = coloured(60)
    nets = with_batch_norm(pixels)
    images = (pixels[:20].transpose(0, 3, 1, 2) / 255).astype(np.float32)
    first, second = (run_onnx(net, {"image": images})[0] for net in nets)
    assert np.allclose(first, second, atol=1e-4)
    answers = []
    for place, net in enumerate(nets):
        folder = tmp_path / str(place)
        folder.mkdir()
        ready = ready_for(folder, net, pixels, labels)
        remover = AnpRemover(ready)
        every = clean_of(clean_folds(ready))
        pruner = Pruner(remover.network, remover.layers, remover._centres(every))
        masks = torch.tensor([1.0, 0.5, 0.0])
        half, gone = pruner.weights(masks, torch.ones(3)), pruner.pruned(masks, 0.1)
        for weights in (half, gone):
            remover.network.put(remover.network.start)
            remover.network.put(weights)
            answers.append(run_onnx(remover.network.bridge.write_back(), {"image": images})[0])
    # The mean of the folds is not quite that of all images.
    assert np.allclose(answers[0], answers[2], atol=0.02)
    assert np.allclose(answers[1], answers[3], atol=0.02)
    assert not np.allclose(answers[0], first, atol=0.05)
    assert not np.allclose(answers[1], first, atol=0.05)


def test_a_batch_norm_takes_the_statistics_of_the_batch_where_it_is_told_to() -> None:
    """1 and 3 have a mean of 2 and a deviation of 1: they become -1 and 1, times 2, plus 0.5.

    By the stored mean of 1 and deviation of 2 they are 0 and 1.
    """
    x, half, two = torch.tensor([[1.0], [3.0]]), torch.tensor([0.5]), torch.tensor([2.0])
    stored = torch.tensor([1.0]), torch.tensor([4.0])
    with batch_statistics():
        inside = batch_norm(x, two, half, *stored, epsilon=0.0)
    outside = batch_norm(x, two, half, *stored, epsilon=0.0)
    assert inside.flatten().tolist() == pytest.approx([-1.5, 2.5])
    assert outside.flatten().tolist() == pytest.approx([0.5, 2.5])


def test_pruning_leaves_other_channels_to_the_last_bit(ready: Preparation) -> None:
    remover = AnpRemover(ready)
    pruner = Pruner(remover.network, remover.layers, {"k": torch.tensor([0.1, 0.2, 0.3])})
    pruned = pruner.pruned(torch.tensor([1.0, 0.0, 0.6]), 0.5)
    start = remover.network.start
    assert torch.equal(pruned["K"][[0, 2]], start["K"][[0, 2]])
    assert torch.equal(pruned["k"][[0, 2]], start["k"][[0, 2]])
    assert not pruned["K"][1].any()
    assert pruned["k"][1] == 0.2


def test_channels_are_those_of_batch_norms_and_of_convolutions_without_one() -> None:
    """Of a convolution before a BatchNorm the BatchNorm's; and none after the last layer."""
    plain, folded = with_batch_norm(coloured(5)[0])
    for net, wanted in ((plain, ("gamma", "beta", False)), (folded, ("K", "k", True))):
        anatomy = dissect(load_model(net.SerializeToString()))
        known = {tensor.name: None for tensor in net.graph.initializer}
        (found,) = find_channels(anatomy.view, anatomy.layer.value, known)
        assert (found.scale, found.offset, found.folded) == wanted
        assert find_channels(anatomy.view, anatomy.layer.value, {}) == []


def test_a_model_without_convolutions_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(RepairError, match="this model has none") as caught:
        AnpRemover(dense_ready(tmp_path))
    assert caught.value.advice


def test_where_every_threshold_costs_too_much_nothing_is_written(ready: Preparation) -> None:
    held = strict(ready)
    done = AnpRemover(held).remove(clean_folds(held))
    assert done.model is None
    assert "ANP loses more than" in done.reason
