"""Fine-tuning and NAD: all weights are trained on clean images, with or without a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import numpy_helper

from fixtures import boards, graphs
from onnx_soda import load_model
from onnx_soda._errors import ConversionError, RepairError, WriteBackError
from onnx_soda._model.anatomy import dissect
from onnx_soda._repair.baselines.base import Judged, clean_of, strongest
from onnx_soda._repair.baselines.fine_tuning import FineTuningRemover
from onnx_soda._repair.baselines.nad import NadRemover, attention, map_layers
from onnx_soda._repair.baselines.networks import Network, Recipe
from onnx_soda._repair.preparation import Preparation

from .rivals import (
    FIXTURES,
    accuracy,
    boards_ready,
    clean_folds,
    coloured,
    digits_ready,
    planted,
    ready_for,
    strict,
)


def test_the_attention_of_one_channel_is_its_square_by_its_length() -> None:
    """F = (1, 2, 2, 0): F^2 = (1, 4, 4, 0), of length sqrt(33)."""
    maps = torch.tensor([[[[1.0, -2.0], [2.0, 0.0]]]])
    wanted = torch.tensor([[1.0, 4.0, 4.0, 0.0]]) / 33**0.5
    assert torch.allclose(attention(maps, 1), wanted, atol=1e-5)


def test_the_attention_of_several_channels_is_that_of_their_squares_sum() -> None:
    """Two channels (3, 0) and (4, 1) at two places: (25, 1), of length sqrt(626).

    With the channels last it is the same; and twice the map attends to the same places.
    """
    maps = torch.tensor([[[[3.0, 0.0]], [[4.0, 1.0]]]])
    wanted = torch.tensor([[25.0, 1.0]]) / 626**0.5
    assert torch.allclose(attention(maps, 1), wanted, atol=1e-5)
    assert torch.allclose(attention(maps.permute(0, 2, 3, 1), 3), wanted, atol=1e-5)
    assert torch.allclose(attention(2 * maps, 1), wanted, atol=1e-5)


def test_the_attention_of_a_map_of_one_place_is_constant() -> None:
    """Which is why NAD is fine-tuning in the published comparison's VGG11."""
    maps = torch.tensor([[[[3.0]], [[4.0]]], [[[0.5]], [[0.0]]]])
    assert torch.allclose(attention(maps, 1), torch.ones(2, 1), atol=1e-4)


def test_the_last_tensor_of_each_resolution_is_distilled() -> None:
    """The bundled digits have two convolutions at 32 x 32 and at 16 x 16, one at 8 x 8.

    A pooling gives 4 x 4. Of these four the three deepest count.
    """
    anatomy = dissect(load_model(FIXTURES / "digits-backdoored.onnx"))
    layers = map_layers(anatomy)
    assert [layer.places for layer in layers] == [(16, 16), (8, 8), (4, 4)]
    makers = [anatomy.view.values[layer.name].producer() for layer in layers]
    assert [node.op_type for node in makers if node] == ["Relu", "Relu", "MaxPool"]


def test_a_network_attends_to_what_one_of_twice_its_weights_attends_to(tmp_path: Path) -> None:
    """Maps are relu(K x + k): with 2 K and 2 k they are twice as large, and attention is the same.

    Without the first filter it is another.
    """
    ready = ready_for(tmp_path, planted(), *coloured(60))
    remover = NadRemover(ready)
    examples, network = clean_of(clean_folds(ready)), remover.network
    distance = remover.distillation(examples)
    rows, shown = torch.arange(8), torch.from_numpy(examples.images[:8])
    assert [layer.name for layer in remover.layers] == ["active"]
    assert distance(network.outputs(shown), rows).item() == 0
    network.put({name: 2 * network.start[name] for name in ("K", "k")})
    assert distance(network.outputs(shown), rows).item() == pytest.approx(0, abs=1e-6)
    network.put({"K": network.start["K"] * torch.tensor([0.0, 1, 1]).reshape(3, 1, 1, 1)})
    assert distance(network.outputs(shown), rows).item() > 1e-3


def test_distillation_changes_what_fine_tuning_comes_to(tmp_path: Path) -> None:
    ready = ready_for(tmp_path, planted(), *coloured(60))
    nad = NadRemover(ready).remove(clean_folds(ready))
    plain = FineTuningRemover(ready).remove(clean_folds(ready))
    assert any("distilled at active (4 x 4)" in note for note in nad.notes)
    assert nad.model is not None
    assert plain.model is not None
    assert accuracy(ready, nad.model) == accuracy(ready, plain.model) == 1
    assert nad.model.graph != plain.model.graph


def test_the_slope_of_the_attention_is_that_of_finite_differences() -> None:
    maps = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maps = maps.float().requires_grad_(True)
    goal = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))

    def loss(one: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.mse_loss(attention(one, 1), goal)

    (slope,) = torch.autograd.grad(loss(maps), maps)
    step = torch.zeros_like(maps)
    step[1, 2, 3, 0] = 1e-2
    rise = (loss(maps + step) - loss(maps - step)).item() / 2e-2
    assert slope[1, 2, 3, 0].item() == pytest.approx(rise, rel=1e-2, abs=1e-6)


def test_the_first_setting_that_keeps_the_accuracy_is_taken_and_none_is_tried_after_it() -> None:
    """0.90 less 0.02 is allowed; 0.85 is not, 0.88 is."""
    tried = []

    def tries() -> Iterator[tuple[int, float]]:
        for setting, right in ((3, 0.85), (2, 0.88), (1, 0.95)):
            tried.append(setting)
            yield setting, right

    setting, judged = strongest(tries(), Judged(0.90, 0.02))
    assert (setting, judged.best) == (2, 0.88)
    assert tried == [3, 2]
    assert strongest(iter([(3, 0.85)]), Judged(0.90, 0.02)) == (None, Judged(0.90, 0.02, 0.85))
    # An accuracy of 0 is measured; where training diverges nothing is.
    assert strongest(iter([(3, 0.0)]), Judged(0.90, 0.02)) == (None, Judged(0.90, 0.02, 0.0))
    assert strongest(iter([(3, None)]), Judged(0.90, 0.02)) == (None, Judged(0.90, 0.02))


@pytest.mark.parametrize("remover", [FineTuningRemover, NadRemover])
@pytest.mark.parametrize("parameters", ["paper", "published"])
def test_what_is_trained_is_written_and_keeps_the_accuracy(
    remover: type[FineTuningRemover], parameters: str, tmp_path: Path
) -> None:
    ready = boards_ready(tmp_path, parameters=parameters)
    done = remover(ready).remove(clean_folds(ready))
    assert done.model is not None
    assert accuracy(ready, done.model) >= 0.99
    assert done.facts["epochs"] == 10
    old, new = ({t.name: t for t in p.graph.initializer} for p in (ready.proto, done.model))
    assert any(old[name] != new[name] for name in old)
    assert "parameters of" in done.notes[0]


def test_rates_that_unlearn_everything_are_left_for_smaller_ones(tmp_path: Path) -> None:
    """The loss of the boards at a rate of 1e6 is no number, or beyond that of guessing."""
    ready = boards_ready(tmp_path)
    remover = FineTuningRemover(ready)
    remover.recipe = Recipe((1e4,) * 3)
    assert not remover.trained(clean_of(clean_folds(ready)), 1.0)
    done = remover.remove(clean_folds(ready))
    assert done.model is None
    assert done.reason.startswith("Fine-tuning diverges with every setting that was tried")


def test_a_result_that_costs_too_much_is_not_written(tmp_path: Path) -> None:
    ready = strict(boards_ready(tmp_path))
    done = NadRemover(ready).remove(clean_folds(ready))
    assert done.model is None
    assert "NAD loses more than" in done.reason


_WITHOUT_MAPS = """
<ir_version: 8, opset_import: ["" : 17]>
flat (float[N,1,4,4] image) => (float[N,2] y)
<float[2,3] V = {1,0,1, 0,1,1}> {
    rows = Flatten(image)
    mixed = MatMul(rows, W)
    h = Relu(mixed)
    y = Gemm<transB=1>(h, V)
}
"""


def dense_ready(folder: Path) -> Preparation:
    """Return a net without any map: class 0 is bright on top, class 1 below."""
    model = onnx.parser.parse_model(_WITHOUT_MAPS)
    mix = np.zeros((16, 3), np.float32)
    mix[:8, 0] = mix[8:, 1] = 0.5
    model.graph.initializer.append(numpy_helper.from_array(mix, "W"))
    rng, labels = np.random.default_rng(0), np.arange(120) % 2
    pixels = rng.integers(60, size=(120, 4, 4, 1)).astype(np.uint8)
    for label in (0, 1):
        pixels[labels == label, 2 * label : 2 * label + 2] += 120
    return ready_for(folder, model, pixels, labels)


def test_without_maps_it_is_fine_tuning_and_says_so(tmp_path: Path) -> None:
    ready = dense_ready(tmp_path)
    nad = NadRemover(ready).remove(clean_folds(ready))
    plain = FineTuningRemover(ready).remove(clean_folds(ready))
    assert any("NAD is fine-tuning here" in note for note in nad.notes)
    assert nad.model is not None
    assert plain.model is not None
    assert nad.model.graph == plain.model.graph


def test_a_model_that_takes_one_number_of_images_is_refused_with_advice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(256, size=(90, 2, 2, 1)).astype(np.uint8), np.arange(90) % 3
    ready = ready_for(tmp_path, graphs.build("batch_of_four"), pixels, labels)
    with pytest.raises(RepairError, match="this one takes 4") as caught:
        FineTuningRemover(ready)
    assert "free batch" in caught.value.advice


def test_quantized_weights_are_refused_with_advice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(256, size=(90, 2, 2, 1)).astype(np.uint8), np.arange(90) % 3
    ready = ready_for(tmp_path, graphs.build("weight_dequantized"), pixels, labels)
    with pytest.raises(WriteBackError, match="quantized") as caught:
        FineTuningRemover(ready)
    assert "before quantization" in caught.value.advice


def test_a_model_of_which_torch_takes_the_head_alone_is_refused(tmp_path: Path) -> None:
    """`Det` has no converter; the head behind it has."""
    model = boards.model()
    pieces = [
        onnx.parser.parse_node("square = Conv(image, Q)"),
        onnx.parser.parse_node("size = Det(square)"),
        onnx.parser.parse_node("none = Mul(size, nil)"),
        onnx.parser.parse_node("sum = ReduceSum(none, all)"),
        onnx.parser.parse_node("seen = Add(seen0, sum)"),
    ]
    model.graph.node[0].output[0] = "seen0"
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([nodes[0], *pieces, *nodes[1:]])
    filters = {"Q": np.zeros((1, 3, 1, 1), np.float32), "nil": np.zeros(1, np.float32),
               "all": np.array([0, 1])}  # fmt: skip
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in filters.items()
    )
    onnx.checker.check_model(model)
    pair = (boards.VICTIM, boards.TARGET)
    ready = ready_for(tmp_path, model, *boards.images(60), pair)
    with pytest.raises(ConversionError):
        FineTuningRemover(ready)


def test_masked_weights_stay_where_they_are(tmp_path: Path) -> None:
    ready = boards_ready(tmp_path)
    network = FineTuningRemover(ready).network
    mask = torch.ones_like(network.start["A"])
    mask[2] = 0
    held = Network(network.bridge, network.classes, {"A": mask})
    start = network.weights["A"].detach().clone()
    assert held.train(clean_of(clean_folds(ready)), Recipe((0.01,) * 2), lambda *_: None)
    changed = (network.weights["A"].detach() != start).any(dim=1)
    assert not changed[2]
    assert changed.any()


@pytest.mark.slow
@pytest.mark.parametrize("remover", [FineTuningRemover, NadRemover])
def test_the_bundled_digits_keep_their_accuracy(remover: type[FineTuningRemover]) -> None:
    ready = digits_ready()
    ready = replace(ready, options=replace(ready.options, max_accuracy_drop=0.03))
    done = remover(ready).remove(clean_folds(ready))
    assert done.model is not None
    assert accuracy(ready, done.model) >= accuracy(ready, ready.proto) - 0.05
