"""The layers of the paper's Table 6: which ones the words take, and every place as a neuron.

The net is small enough for paper. Two maps of 2 x 2 places hold m0 = p and m1 = p / 2. Behind them

    u0 = relu(m0 - m1)    u1 = relu(-m0 + 3 m1 - 1)    y = mean over places of u A

with A = (4, 0, 8), (0, 4, 4). For p = 4, 1, 0, 2 the sums in front of the ReLUs are 2, .5, 0, 1 and
1, -.5, -1, 0. One place is a quarter of the mean: 1 more of u0 adds (1, 0, 2), of u1 (0, 1, 1).

    do(m0 + 1) opens nothing of u0: it adds 1 everywhere. It takes 1 from u1 at the first place,
    where it is 1, and nothing where it is 0.
    do(m1 + 1) takes 1, .5, 0 and 1 from u0, and adds 3, 2.5, 2 and 3 to u1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import onnx.parser
import pytest
from scipy.stats import spearmanr

from onnx_soda import OptionError
from onnx_soda._detect.soda.analysis import analyse, attribute
from onnx_soda._detect.soda.attribution import Attribution
from onnx_soda._errors import TensorNotFoundError
from onnx_soda._model.anatomy import Anatomy, dissect
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import Body, Tail
from onnx_soda._options import AttributionMethod, Intervention, RuntimeOptions, ScanOptions
from onnx_soda._suspect import Observation, Summary, summarise

CPU = RuntimeOptions(provider="cpu", threads=1)
PLACES = ScanOptions(neurons="places", runtime=CPU)
WEIGHTS = (
    "float[2,1,1,1] K = {1, 0.5}, float[2,2,1,1] L = {1, -1, -1, 3}, float[2] bias = {0, -1}, "
    "float[2,3] A = {4, 0, 8, 0, 4, 4}"
)
NODES = (
    "maps = Conv(x, K)  c = Conv(maps, L, bias)  u = Relu(c)  g = GlobalAveragePool(u)  "
    "h = Flatten(g)  y = MatMul(h, A)"
)
# Rows: m0 at the four places, then m1.
MOVED = np.array(
    [
        *([1, -1, 1], [1, 0, 2], [1, 0, 2], [1, 0, 2]),
        *([-1, 3, 1], [-0.5, 2.5, 1.5], [0, 2, 2], [-1, 3, 1]),
    ]
)


def parsed(nodes: str, weights: str, size: int = 2) -> bytes:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        f"g (float[N,1,{size},{size}] x) => (float[N,3] y) <{weights}> {{ {nodes} }}"
    )
    return onnx.parser.parse_model(text).SerializeToString()


def taken(layer: str, nodes: str = NODES, weights: str = WEIGHTS, size: int = 2) -> Anatomy:
    return dissect(load_model(parsed(nodes, weights, size)), layer)


def seen_at(layer: str, nodes: str = NODES) -> tuple[Tail, Summary]:
    """The layer with the image of the docstring, once for each of two classes."""
    anatomy = taken(layer, nodes)
    images = np.array([[4, 1, 0, 2]] * 2, dtype=np.float32).reshape(2, 1, 2, 2)
    logits, activations, sides = Body(anatomy, CPU).observe(images)
    seen = Observation(np.array([0, 1]), logits, activations, sides)
    return Tail(anatomy, CPU), summarise(lambda: iter([seen]))


def attributed(layer: str, options: ScanOptions, nodes: str = NODES) -> Attribution:
    found = attribute(*seen_at(layer, nodes), options)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("word", "name", "neurons"), [("last", "h", 2), ("deep", "u", 2), ("middle", "maps", 2)]
)
def test_a_word_takes_the_layer_at_its_depth(word: str, name: str, neurons: int) -> None:
    layer = taken(word).layer
    assert (layer.role, layer.name, layer.neurons) == (word, name, neurons)


def test_a_layer_that_the_network_lacks_is_told() -> None:
    with pytest.raises(TensorNotFoundError, match=r"no shallow layer; it has: last, deep, middle"):
        taken("shallow")


def test_a_word_is_no_tensor_and_a_tensor_of_that_name_is_told_apart() -> None:
    """The second convolution is named "deep"; the deep layer is the map after its ReLU."""
    nodes = NODES.replace("c =", "deep =").replace("Relu(c)", "Relu(deep)")
    by_word = taken("deep", nodes)
    assert by_word.layer.name == "u"
    assert by_word.notes == ("A tensor is named 'deep', too; `layer=tensor:deep` takes it.",)
    assert taken("tensor:deep", nodes).layer.name == "deep"
    assert taken("tensor:maps", nodes).layer.name == taken("maps", nodes).layer.name == "maps"


def residual_network(blocks: tuple[int, ...]) -> str:
    """Stages of blocks: a convolution round which the input goes; halved in size in between."""
    nodes, value = ["r0 = Conv(x, K)"], "r0"
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            name, halve = f"s{stage}b{block}", stage > 1 and block == 0
            way = f"Conv<strides = [2, 2]>({value}, K)" if halve else f"Conv({value}, K)"
            nodes.append(f"{name}a = {way}")
            if halve:
                nodes.append(f"{name}c = {way}")
            round_it = f"{name}c" if halve else value
            nodes.append(f"{name}s = Add({name}a, {round_it})  {name} = Relu({name}s)")
            value = name
    return f"{'  '.join(nodes)}  g = GlobalAveragePool({value})  h = Flatten(g)  y = MatMul(h, A)"


@pytest.mark.parametrize(
    ("word", "name"), [("deep", "s4b2"), ("middle", "s2b2"), ("shallow", "s1b2")]
)
def test_words_take_the_ends_of_stages_in_a_residual_network(word: str, name: str) -> None:
    """19 convolutions; half of that lies nearer to the first block of stage 3 (10) than to the
    end of stage 2 (8)."""
    nodes = residual_network((3, 3, 6, 3))
    weights = "float[1,1,1,1] K = {1}, float[1,3] A = {1, 2, 3}"
    assert taken(word, nodes, weights, 16).layer.name == name


def test_every_place_of_a_map_is_a_neuron() -> None:
    found = attributed("middle", PLACES)
    assert found.method == "batched"
    for source in (0, 1):
        np.testing.assert_allclose(found.shift(source), MOVED, atol=1e-6)


def test_a_channel_is_set_at_all_its_places() -> None:
    """The convolution is 1 x 1, so places do not touch each other: their changes add up."""
    found = attributed("middle", replace(PLACES, neurons="channels"))
    np.testing.assert_allclose(found.shift(0), [MOVED[:4].sum(axis=0), MOVED[4:].sum(axis=0)])


@pytest.mark.parametrize("way", ["auto", "batched", "first-order"])
def test_places_of_an_affine_tail_have_a_closed_form(way: str) -> None:
    """A quarter of A's rows, for each of the four places. Every way gives it."""
    if way == "first-order":
        pytest.importorskip("onnx2torch", reason="needs the extra [repair]")
    options = replace(PLACES, attribution=cast("AttributionMethod", way))
    found = attributed("deep", options)
    assert found.method == {"auto": "closed-form"}.get(way, way)
    np.testing.assert_allclose(found.shift(0), [[1, 0, 2]] * 4 + [[0, 1, 1]] * 4, atol=1e-6)


def test_a_factor_counts_at_each_place() -> None:
    """do(u = 3 u - 2) at places where u0 is 2, .5, 0, 1 and u1 is 1, 0, 0, 0."""
    found = attributed("deep", replace(PLACES, intervention=Intervention(3, -2)))
    moves = np.array([2, -1, -2, 0])[:, np.newaxis] * [1, 0, 2]
    others = np.array([0, -2, -2, -2])[:, np.newaxis] * [0, 1, 1]
    np.testing.assert_allclose(found.shift(1), [*moves, *others], atol=1e-6)


def test_estimates_are_compared_with_interventions_and_corrected_by_them() -> None:
    """Slopes do not see what the intervention opens.

    u0 is closed at the third place and u1 at all but the first, where its sum is 0 or less. So m0
    is estimated as (1,-1,1), (1,0,2), 0, (1,0,2) and m1 as (-1,3,1), (-1,0,-2), 0, (-1,0,-2). The
    largest error is 1.5 + 2 for class 2 under m1 at the second place; the largest change is 3. With
    eight neurons all are run, so all estimates are corrected.
    """
    pytest.importorskip("onnx2torch", reason="needs the extra [repair]")
    guess = np.array(
        [
            *([1, -1, 1], [1, 0, 2], [0, 0, 0], [1, 0, 2]),
            *([-1, 3, 1], [-1, 0, -2], [0, 0, 0], [-1, 0, -2]),
        ]
    )
    found = attributed("middle", replace(PLACES, attribution="first-order"))
    ranks = [spearmanr(MOVED[:, c], guess[:, c]).statistic for c in range(3)]
    assert found.estimate is not None
    assert (found.estimate.neurons, found.estimate.images) == (8, 2)
    assert found.estimate.corrected == 8
    assert found.estimate.rank_correlation == pytest.approx(np.median(ranks))
    assert found.estimate.lowest_rank_correlation == pytest.approx(min(ranks))
    assert found.estimate.largest_error == pytest.approx(3.5 / 3)
    np.testing.assert_allclose(found.shift(0), MOVED, atol=1e-6)


def test_estimates_that_are_not_corrected_hold_to_first_order() -> None:
    """A tail that bends gently, moved a little: 576 neurons, and at most 30 of them corrected."""
    pytest.importorskip("onnx2torch", reason="needs the extra [repair]")
    rng = np.random.default_rng(0)
    weights = ", ".join(
        f"float[{shape}] {name} = {{{', '.join(f'{value:.3f}' for value in values)}}}"
        for name, shape, values in (
            ("K", "16,1,3,3", rng.standard_normal(144)),
            ("L", "4,16,3,3", rng.standard_normal(576) / 8),
            ("A", "4,3", rng.standard_normal(12)),
        )
    )
    nodes = NODES.replace("Conv(maps, L, bias)", "Conv(maps, L)").replace("Relu", "Tanh")
    anatomy = taken("middle", nodes, weights, 8)
    images = rng.random((40, 1, 8, 8), dtype=np.float32)
    logits, layer, sides = Body(anatomy, CPU).observe(images)
    every = Observation(np.repeat([0, 1], 20), logits, layer, sides)
    seen, tail = summarise(lambda: iter([every])), Tail(anatomy, CPU)
    little = replace(PLACES, intervention=Intervention(b=1e-3))
    exact = attribute(tail, seen, replace(little, attribution="batched"))
    guess = attribute(tail, seen, replace(little, attribution="first-order"))
    assert exact is not None
    assert guess is not None
    assert guess.estimate is not None
    assert guess.estimate.corrected <= 30
    assert guess.estimate.rank_correlation > 0.999
    largest = np.abs(exact.shift(0)).max()
    for source in (0, 1):
        np.testing.assert_allclose(guess.shift(source), exact.shift(source), atol=0.01 * largest)


def test_estimates_that_do_not_fit_into_memory_are_refused() -> None:
    little = replace(PLACES, attribution="first-order")
    tail, seen = seen_at("middle")
    tail.options = replace(CPU, memory_limit=100)
    with pytest.raises(OptionError, match="estimates for 8 neurons take") as caught:
        attribute(tail, seen, little)
    assert "`neurons=channels`" in caught.value.advice


def test_the_statistic_counts_every_place() -> None:
    result = analyse(*seen_at("middle"), PLACES)
    assert result is not None
    assert result.neurons == 8
    expected = np.corrcoef(np.abs(MOVED[:, 0]), np.abs(MOVED[:, 1:]).mean(axis=1))[0, 1]
    assert result.targets.pcc[0] == pytest.approx(expected, abs=1e-6)
