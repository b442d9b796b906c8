"""DFR and Fine-Pruning: a last layer that is fitted anew, or pruned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from scipy.special import softmax

from fixtures import graphs
from onnx_soda import load_model
from onnx_soda._bridge.bridge import stored_tensors
from onnx_soda._errors import RepairError
from onnx_soda._repair.baselines.base import Examples
from onnx_soda._repair.baselines.dfr import (
    OPTIMAL,
    DfrRemover,
    averaged,
    balanced_draws,
    fit_softmax,
    fit_standardised,
)
from onnx_soda._repair.baselines.fine_pruning import (
    FinePruningRemover,
    least_active_first,
    prune_while,
)
from onnx_soda._repair.baselines.heads import Affine, features_of, find_head
from onnx_soda._repair.preparation import Preparation

from .rivals import accuracy, boards_ready, clean_folds, digits_ready, ready_for, strict


def features() -> tuple[np.ndarray, np.ndarray]:
    """Return 300 images of three classes in five features, on unlike scales; classes overlap."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    centres = rng.normal(size=(3, 5))
    scales = np.array([0.1, 1, 3, 1, 10])
    return scales * (centres[labels] + rng.normal(size=(300, 5)) + 2), labels


def test_the_fit_is_an_optimum() -> None:
    """The gradient is computed here anew: mean of (p - y) x, plus twice the penalty times W."""
    shown, labels = features()
    fit = fit_softmax(shown, labels, 3, 0.01)
    wrong = (softmax(fit.affine.logits(shown), axis=1) - np.eye(3)[labels]) / 300
    slope = wrong.T @ shown + 2 * 0.01 * fit.affine.matrix
    length = np.sqrt(np.square(slope).sum() + np.square(wrong.sum(axis=0)).sum())
    assert length < 1e-6
    assert fit.slope == pytest.approx(length, abs=1e-9)


def test_the_fit_without_an_offset_has_none() -> None:
    shown, labels = features()
    for fit in (
        fit_softmax(shown, labels, 3, 0.01, offset=False),
        fit_standardised(shown, labels, 3, 1.0, offset=False),
    ):
        assert not fit.affine.offset.any()
        assert fit.slope < 1e-6


@pytest.mark.parametrize("strength", [1.0, 0.01])
def test_the_fit_is_that_of_scikit_learn(strength: float) -> None:
    """Its offset is unique but for a constant, so both are compared without their means."""
    linear = pytest.importorskip("sklearn.linear_model")
    preparing = pytest.importorskip("sklearn.preprocessing")
    shown, labels = features()
    scaled = preparing.StandardScaler().fit_transform(shown)
    theirs = linear.LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(scaled, labels)
    ours = fit_standardised(shown, labels, 3, strength).affine.logits(shown)
    wanted = theirs.decision_function(scaled)
    ours, wanted = (scores - scores.mean(axis=1, keepdims=True) for scores in (ours, wanted))
    assert np.allclose(ours, wanted, atol=1e-4)


def test_fits_are_averaged() -> None:
    """Means of 1 and 3, of 0 and 2; and the larger slope."""
    one = fit_softmax(*features(), 3, 0.1)
    two = fit_softmax(*features(), 3, 1.0)
    both = averaged([one, two])
    assert np.allclose(both.affine.matrix, (one.affine.matrix + two.affine.matrix) / 2)
    assert np.allclose(both.affine.offset, (one.affine.offset + two.affine.offset) / 2)
    assert both.slope == max(one.slope, two.slope)


def test_draws_have_as_many_images_of_each_class() -> None:
    """Two of class 1: each draw has two of each of the three. Equal classes need one draw."""
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    draws = list(balanced_draws(labels, 4))
    assert len(draws) == 4
    assert {tuple(np.bincount(labels[rows])) for rows in draws} == {(2, 2, 2)}
    assert len({tuple(rows) for rows in draws}) > 1
    assert [list(rows) for rows in balanced_draws(np.array([1, 0, 0, 1]), 4)] == [[0, 1, 2, 3]]


def head_ready(folder: Path, head: str) -> Preparation:
    """Return one of the small nets of `fixtures.graphs`, with images of 2 x 2 pixels."""
    rng = np.random.default_rng(0)
    shape = (90, 4) if head == "flat_input" else (90, 2, 2, 1)
    pixels, labels = rng.integers(256, size=shape).astype(np.uint8), np.arange(90) % 3
    return ready_for(folder, graphs.build(head), pixels, labels)


@pytest.mark.parametrize(
    "head",
    ["gemm", "matmul_add", "add_bias_first", "weight_behind_identity", "weight_constant",
     "weight_transposed", "softmax", "keras", "batch_of_four"],
)  # fmt: skip
def test_the_last_layer_is_found_and_put_back_however_it_is_written(
    head: str, tmp_path: Path
) -> None:
    """The matrix is the one of the page, three classes of three features: it could lie both ways.

    Twice the matrix and an offset of 5 give the logits 2 h A + 5.
    """
    ready = head_ready(tmp_path, head)
    found = find_head(ready, "this test needs")
    assert np.allclose(found.affine.matrix, graphs.MATRIX.T)
    assert np.allclose(found.affine.offset, graphs.BIAS)
    other = Affine(2 * found.affine.matrix, np.full(3, 5.0))
    changed = load_model(found.with_affine(other).SerializeToString())
    anew = ready.suspect.with_model(changed)
    shown = ready.inputs_of(ready.parts.measure)
    wanted = 2 * graphs.hidden(ready.suspect.pixels(ready.parts.measure)) @ graphs.MATRIX + 5
    assert np.allclose(anew.body.logits(shown), wanted, atol=1e-4)


@pytest.mark.parametrize("head", ["conv_relu_pool", "conv_pool", "weight_dequantized"])
def test_a_last_layer_that_is_no_matrix_is_refused_with_advice(head: str, tmp_path: Path) -> None:
    ready = head_ready(tmp_path, head)
    with pytest.raises(RepairError, match="a matrix of floating-point weights") as caught:
        DfrRemover(ready)
    assert caught.value.advice


@pytest.mark.parametrize("parameters", ["paper", "published"])
def test_dfr_changes_the_last_layer_alone_and_keeps_the_accuracy(parameters: str) -> None:
    """On the bundled digits; what is written has the optimum of the images that train."""
    ready = digits_ready(parameters=parameters)
    done = DfrRemover(ready).remove(clean_folds(ready))
    assert done.model is not None
    assert not any("before its optimum" in note for note in done.notes)
    old, new = stored_tensors(ready.proto), stored_tensors(done.model)
    assert {name for name in old if old[name] != new[name]} == {
        find_head(ready, "this test needs").matrix_name,
        find_head(ready, "this test needs").offset_name,
    }
    assert accuracy(ready, done.model) >= accuracy(ready, ready.proto) - 0.03
    assert OPTIMAL <= 1e-6


def test_a_fit_that_costs_too_much_is_not_written(tmp_path: Path) -> None:
    done = DfrRemover(strict(boards_ready(tmp_path)))
    result = done.remove(clean_folds(done.ready))
    assert result.model is None
    assert "DFR loses more than" in result.reason


def test_neurons_that_sleep_are_pruned_first_and_ties_by_their_place() -> None:
    """Means 3, 0, 1, 0."""
    shown = np.array([[2.0, 0, 1, 0], [4, 0, 1, 0]])
    assert list(least_active_first(shown)) == [1, 3, 2, 0]


def test_pruning_ends_before_the_accuracy_first_falls() -> None:
    """Class 0 lives in feature 0 and class 1 in feature 1, with half of its strength.

    Feature 2 sleeps, feature 3 says the same for all. Pruned in the order 2, 3, 1, 0: without 2
    and 3 all four images are right. Without 1 those of class 1 have scores 0 and 0 and go to class
    0, so two of four are right.
    """
    shown = np.array([[4.0, 0, 0, 3], [4, 0, 0, 3], [0, 2, 0, 3], [0, 2, 0, 3]])
    affine = Affine(np.array([[1.0, 0, 9, 1], [0, 1, 0, 1]]), np.zeros(2))
    labels = np.array([0, 0, 1, 1])
    order = least_active_first(shown)
    assert list(order) == [2, 1, 0, 3]
    judged = (shown, labels)
    assert list(prune_while(affine, order, judged, lambda right: right >= 1.0)) == [2]
    assert list(prune_while(affine, order, judged, lambda right: right >= 0.5)) == [2, 1, 0]
    assert list(prune_while(affine, order, judged, lambda right: right > 1.0)) == []


def test_fine_pruning_keeps_pruned_columns_at_0(tmp_path: Path) -> None:
    """The boards' neuron of the backdoor sleeps on clean images; its column is that of h_4."""
    ready = boards_ready(tmp_path)
    remover = FinePruningRemover(ready)
    done = remover.remove(clean_folds(ready))
    assert done.model is not None
    (matrix,) = [
        numpy_helper.to_array(tensor)
        for tensor in done.model.graph.initializer
        if tensor.name == "A"
    ]
    before = numpy_helper.to_array(stored_tensors(ready.proto)["A"])
    assert np.abs(before[4]).max() == 6
    assert not matrix[4].any()
    assert any("prunes 1 of 5 neurons" in note for note in done.notes)


def test_features_are_those_before_the_last_layer(tmp_path: Path) -> None:
    """A clean board has 4 for its own neuron, 0 for the others and for the backdoor's."""
    ready = boards_ready(tmp_path)
    rows = ready.parts.measure
    shown = features_of(ready, Examples(ready.inputs_of(rows), ready.clean.labels[rows]))
    wanted = 4 * np.eye(5)[ready.clean.labels[rows]]
    assert np.allclose(shown, wanted, atol=1.0)
