"""Leave-one-out and SubSample: tables by hand, against the loop, and what scans say.

The nets of `fixtures.graphs` have h = relu(p0, p1, p2) and logits h A + bias with

    A = |  1 -2  3 |      bias = (0.5, -0.5, 1)
        |  2  4  0 |
        | -3  6  0 |

The images are those of tests/causal/test_hand_computed.py: h = (2,0,0) and (4,0,2) of class 0,
(0,3,0) of class 1, (1,1,1) of class 2.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fixtures import boards
from fixtures.graphs import MATRIX
from onnx_soda._detect.baselines.influence import (
    TAKEN_OUT,
    LeaveOneOut,
    SubSample,
    by_running,
    of_affine_tail,
)
from onnx_soda._detect.soda.attribution import Interventions
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import Body, Tail
from onnx_soda._suspect import Observation, summarise
from tests.baselines.nets import CPU, LEVEL, net, told, write_images
from tests.causal.test_agreement import random_net
from tests.causal.test_hand_computed import tail_and_observation
from tests.cli.helpers import (
    BACKDOORED_MODEL,
    CLEAN_SET,
    checked,
    graph,
    grey_pixels,
    soda,
)


def nothing(_: int, __: int) -> None:
    """Take no notice of progress."""


def missing(*neurons: int) -> NDArray[np.bool_]:
    return np.isin(np.arange(3), neurons)


def experiment(head: str) -> Interventions:
    tail, seen = tail_and_observation(head)
    return Interventions(tail, seen.layer, seen.labels, TAKEN_OUT, seen.sides)


@pytest.mark.parametrize("head", ["gemm", "conv_pool", "keras", "batch_of_four"])
def test_on_an_affine_tail_it_is_weight_times_mean_activation(head: str) -> None:
    """Mean h is (3, 0, 1) in class 0, (0, 3, 0) in class 1, (1, 1, 1) in class 2."""
    tail, seen = tail_and_observation(head)
    table = of_affine_tail(tail, summarise(lambda: iter([seen])), "channels")
    for source, mean in ((0, [3, 0, 1]), (1, [0, 3, 0]), (2, [1, 1, 1])):
        expected = np.abs(MATRIX) * np.array(mean)[:, np.newaxis]
        np.testing.assert_allclose(table.shift(source), expected, atol=1e-6)


def test_behind_a_bend_it_is_measured() -> None:
    """Scores under 0 are cut off.

    Class 1, h = (0,3,0), scores (6.5, 11.5, 1). Without h1 the bias is left, (0.5, 0, 1): the
    change is (6, 11.5, 0). h0 and h2 are 0 as it is.
    Class 0: (2,0,0) scores (2.5, 0, 7), without h0 (0.5, 0, 1): the change is (2, 0, 6).
    (4,0,2) scores (0, 3.5, 13), without h0 (0, 11.5, 1): (0, 8, 12), without h2 (4.5, 0, 13):
    (4.5, 3.5, 0). The means are (1, 4, 9) for h0, 0 for h1, (2.25, 1.75, 0) for h2.
    """
    table = by_running(experiment("conv_relu_pool"), [missing()], nothing)
    np.testing.assert_allclose(table.shift(1), [[0, 0, 0], [6, 11.5, 0], [0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(table.shift(0), [[1, 4, 9], [0, 0, 0], [2.25, 1.75, 0]], atol=1e-6)


def test_other_neurons_may_be_missing_too() -> None:
    """Class 2, h = (1,1,1). With all neurons the scores are (0.5, 7.5, 4):

    without h0 (0, 9.5, 1), without h1 (0, 3.5, 4), without h2 (3.5, 1.5, 4).
    Where h2 is missing they are (3.5, 1.5, 4): without h0 (2.5, 3.5, 1), without h1 (1.5, 0, 4),
    and h2 itself is put back.
    """
    alone = by_running(experiment("conv_relu_pool"), [missing()], nothing).shift(2)
    np.testing.assert_allclose(alone, [[0.5, 2, 3], [0.5, 4, 0], [3, 6, 0]], atol=1e-6)
    without = by_running(experiment("conv_relu_pool"), [missing(2)], nothing).shift(2)
    np.testing.assert_allclose(without, [[1, 2, 3], [2, 1.5, 0], [3, 6, 0]], atol=1e-6)
    both = by_running(experiment("conv_relu_pool"), [missing(), missing(2)], nothing)
    np.testing.assert_allclose(both.shift(2), (alone + without) / 2, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_on_an_affine_tail_subsample_is_leave_one_out(seed: int) -> None:
    """The toolkit's loop in NumPy: 10 fresh halves of the others for each neuron."""
    rng = np.random.default_rng(seed)
    neurons, classes, images = 12, 5, 20
    head, bias = rng.integers(-8, 9, (neurons, classes)), rng.integers(-8, 9, classes)
    layer, labels = rng.integers(0, 9, (images, neurons)), np.arange(images) % classes
    change = np.zeros((images, neurons, classes))
    for neuron in range(neurons):
        others = np.setdiff1d(np.arange(neurons), neuron)
        for _ in range(10):
            kept = np.isin(np.arange(neurons), rng.permutation(others)[: neurons // 2])
            without = (layer * kept) @ head + bias
            kept[neuron] = True
            change[:, neuron] += np.abs((layer * kept) @ head + bias - without) / 10
    tail = Tail(dissect(load_model(net(head.astype(float), bias.astype(float)))), CPU)
    seen = Observation(labels, (layer @ head + bias).astype(np.float32), layer, {})
    table = of_affine_tail(tail, summarise(lambda: iter([seen])), "channels")
    half = [rng.permutation(neurons) >= neurons // 2 for _ in range(10)]
    run = by_running(Interventions(tail, layer, labels, TAKEN_OUT), half, nothing)
    for source in range(classes):
        expected = change[labels == source].mean(axis=0)
        np.testing.assert_allclose(table.shift(source), expected, atol=1e-6)
        np.testing.assert_allclose(run.shift(source), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["channels", "places"])
def test_places_of_a_feature_map_count_as_they_are_asked_to(kind: str) -> None:
    """The closed form against the loop, over a map whose channels have 36 places each."""
    rng = np.random.default_rng(7)
    anatomy = dissect(load_model(random_net(rng, 4, 3, "affine")), layer="maps")
    pixels, labels = rng.standard_normal((9, 1, 6, 6)).astype(np.float32), np.arange(9) % 3
    tail = Tail(anatomy, CPU)
    logits, layer, sides = Body(anatomy, CPU).observe(pixels)
    seen = summarise(lambda: iter([Observation(labels, logits, layer, sides)]))
    chosen = "channels" if kind == "channels" else "places"
    table = of_affine_tail(tail, seen, chosen)
    measured = Interventions(tail, layer, labels, TAKEN_OUT, sides, chosen)
    run = by_running(measured, [np.zeros(measured.neurons, dtype=np.bool_)], nothing)
    for source in range(3):
        np.testing.assert_allclose(table.shift(source), run.shift(source), atol=1e-5)


# Five classes read the neurons 0 to 2 alike; class 5 alone reads neuron 3.
HEAD = np.array(
    [
        [3, 3, 3.5, 3, 3, 0],
        [2, 2, 2, 1.5, 2.5, 0],
        [1, 1.5, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 3],
    ]
)


def apart(folder: Path) -> Path:
    """Images that fill neurons 0 to 2 alike; images of 2 have a little of neuron 3, those of 5 all.

    So the mean logit of 5 is 0.6 for images of 2, and 0 for those of 0, 1, 3 and 4.
    """
    hidden = np.full((6, 4), 2 * LEVEL)
    hidden[:, 3] = [0, 0, LEVEL, 0, 0, 5 * LEVEL]
    return write_images(folder / "apart.npz", hidden)


@pytest.mark.parametrize("method", ["leave-one-out", "subsample"])
@pytest.mark.parametrize("parameters", ["paper", "published"])
def test_a_class_with_neurons_of_its_own_is_flagged(
    tmp_path: Path, method: str, parameters: str
) -> None:
    numbers, said = told(net(HEAD), apart(tmp_path), method, parameters=parameters)
    assert numbers.outcome == "flagged"
    first = numbers.named[0]
    assert (first.victim_class, first.target_class, first.flagged) == (2, 5, True)
    assert numbers.threshold == (3 if parameters == "published" else 2)
    assert numbers.details["victim_threshold"] == 2
    assert numbers.details["toolkit_zeros"] == (parameters == "published")
    assert ("SubSample is leave-one-out here" in said) == (method == "subsample")


def test_the_two_name_the_same_where_the_tail_is_affine(tmp_path: Path) -> None:
    data = apart(tmp_path)
    one, _ = told(net(HEAD), data, "leave-one-out")
    other, _ = told(net(HEAD), data, "subsample")
    run, _ = told(net(HEAD), data, "subsample", attribution="batched")
    assert one.named == other.named
    assert (other.details["method"], run.details["method"]) == ("closed-form", "batched")
    # 6 classes of 12 images, 10 groups of 4 neurons and what is without them: through the tail,
    # which is a part of the model.
    assert 0 < run.passes < 72 * 10 * 5
    np.testing.assert_allclose(run.details["pcc"], other.details["pcc"], atol=1e-5)


def test_a_neuron_that_clean_images_leave_at_0_has_no_influence(tmp_path: Path) -> None:
    """The backdoor of the boards is one such neuron: without it nothing changes on clean images."""
    _, _, clean, _ = boards.write(tmp_path, each=12)
    found = [
        told(boards.model(backdoored).SerializeToString(), clean, "leave-one-out")[0]
        for backdoored in (True, False)
    ]
    np.testing.assert_allclose(found[0].details["pcc"], found[1].details["pcc"], atol=1e-6)


def test_neurons_that_are_too_many_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx_soda._detect.baselines.influence._MOST_RUNS", 29)
    numbers, said = told(net(HEAD), apart(tmp_path), "leave-one-out", attribution="batched")
    assert (numbers.outcome, numbers.named) == ("abstains", ())
    assert "4 neurons are too many to be taken out one by one" in said
    # One more is enough for an image of each of the 6 classes and 5 runs of it.
    monkeypatch.setattr("onnx_soda._detect.baselines.influence._MOST_RUNS", 30)
    numbers, said = told(net(HEAD), apart(tmp_path), "leave-one-out", attribution="batched")
    assert numbers.outcome == "flagged"
    assert "measured on 6 images" in said


@pytest.mark.parametrize("detector", [LeaveOneOut, SubSample])
def test_two_classes_have_no_outlier(tmp_path: Path, detector: type[LeaveOneOut]) -> None:
    data = write_images(tmp_path / "two.npz", np.eye(2))
    numbers, said = told(net(np.eye(2)), data, detector.name)
    assert numbers.outcome == "abstains"
    assert "Among 2 classes" in said


@pytest.mark.parametrize("method", ["leave-one-out", "subsample", "head-qp", "freeeagle"])
def test_where_no_layer_is_on_all_paths_they_abstain(tmp_path: Path, method: str) -> None:
    """Two hidden layers side by side, whose scores are added up."""
    images, labels = grey_pixels()
    np.savez(tmp_path / "grey.npz", images=images, labels=labels)
    twins = graph(
        "f = Flatten(x)  m = MatMul(f, W)  h = Relu(m)  n = MatMul(f, W)  k = Tanh(n)  "
        "a = MatMul(h, A)  b = MatMul(k, A)  y = Add(a, b)",
        "float[4,3] W = {1,0,0, 0,1,0, 0,0,1, 0,0,0}, float[3,3] A = {1,-2,3, 2,4,0, -3,6,0}",
    )
    numbers, said = told(twins, tmp_path / "grey.npz", method)
    assert numbers.outcome == "abstains"
    assert "There is no hidden layer that all paths to the scores pass through." in said


def test_the_command_says_the_same_for_both_on_the_bundled_model() -> None:
    told = {}
    for method in ("leave-one-out", "subsample"):
        ran = soda("scan", BACKDOORED_MODEL, "--data", CLEAN_SET, "--method", method,
                   "--fail-on", "medium", "--format", "json", "--quiet")  # fmt: skip
        report = checked(ran.stdout, ran.returncode)
        told[method] = report["evidence"][method]["numbers"]
        assert told[method]["details"]["method"] == "closed-form"
        assert len(told[method]["details"]["pcc"]) == 10
        assert ("SODA105" in json.dumps(report["findings"])) == (
            told[method]["outcome"] == "flagged"
        )
    assert told["leave-one-out"]["named"] == told["subsample"]["named"]


def test_without_images_there_is_no_influence() -> None:
    ran = soda("scan", BACKDOORED_MODEL, "--method", "subsample", "--format", "json", "--quiet")
    report = checked(ran.stdout, ran.returncode)
    assert report["verdict"] == "inconclusive"
    assert any("No clean images were given" in reason for reason in report["reasons"])


def test_parameters_of_nobody_are_refused() -> None:
    ran = soda("scan", BACKDOORED_MODEL, "--method", "subsample", "--parameters", "own")
    assert ran.returncode == 2
    assert "'own' is not one of 'paper', 'published'" in ran.stderr
