"""SODA's statistics on a net small enough for paper; the working is in the comments.

The net is fixtures/graphs.py's: hidden h = relu(p0, p1, p2) and logits = h A + bias with

    A = |  1 -2  3 |      bias = (0.5, -0.5, 1)
        |  2  4  0 |
        | -3  6  0 |
"""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from fixtures.graphs import HEADS, MATRIX, build
from onnx_soda._detect.soda.analysis import analyse, attribute
from onnx_soda._detect.soda.attribution import Attribution, is_affine
from onnx_soda._detect.soda.statistic import detect_target, pearson_to_others
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import Body, Tail
from onnx_soda._options import AttributionMethod, Intervention, RuntimeOptions, ScanOptions
from onnx_soda._suspect import Observation, summarise
from tests.causal.brute_force import attribute_brute_force

CPU = RuntimeOptions(provider="cpu", threads=1)
# Two clean images of class 0, one of class 1, one of class 2, as p0 p1 p2 p3.
IMAGES = np.array([[2, 0, 0, 5], [4, 0, 2, 5], [0, 3, 0, 5], [1, 1, 1, 5]])
LABELS = np.array([0, 0, 1, 2])
METHODS = ("closed-form", "batched", "brute-force")


def tail_and_observation(head: str) -> tuple[Tail, Observation]:
    anatomy = dissect(load_model(build(head).SerializeToString()))
    tail = Tail(anatomy, CPU)
    image = anatomy.view.image
    images = IMAGES.reshape(-1, *image.concrete_shape(1, 2, 2)[1:]).astype(image.numpy_dtype())
    logits, layer, sides = Body(anatomy, CPU, tail.needed).observe(images)
    return tail, Observation(LABELS, logits, layer, sides)


def attribute_by(
    method: str, tail: Tail, seen: Observation, a: float = 1, b: float = 1
) -> Attribution | None:
    """Attribute by one of the program's ways, or by the paper's loop, which the tests have."""
    intervention = Intervention(a, b)
    if method == "brute-force":
        return attribute_brute_force(tail, seen.layer, seen.labels, intervention, seen.sides)
    way = cast("AttributionMethod", method)
    options = ScanOptions(attribution=way, intervention=intervention, runtime=CPU)
    return attribute(tail, summarise(lambda: iter([seen])), options)


AFFINE = [name for name in HEADS if name != "conv_relu_pool"]


@pytest.mark.parametrize("head", AFFINE)
def test_with_a_and_b_one_the_attribution_is_the_weight(head: str) -> None:
    """do(h_i = h_i + 1) adds A[i, c] to logit c, whatever the image: CA = |A|."""
    tail, seen = tail_and_observation(head)
    for method in METHODS:
        result = attribute_by(method, tail, seen)
        assert result is not None
        assert result.method == method
        for source in (0, 1, 2):
            np.testing.assert_allclose(result.shift(source), MATRIX, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("head", ["gemm", "conv_pool", "keras", "batch_of_four"])
def test_with_other_a_and_b_the_mean_activation_counts(head: str, method: str) -> None:
    """do(h_i = 3 h_i - 2) adds (2 m_i - 2) A[i, c], with m the source class's mean activation.

    Class 0: h = (2,0,0) and (4,0,2), m = (3,0,1), 2m - 2 = (4,-2,0):
        row 0: 4 (1,-2,3) = (4,-8,12); row 1: -2 (2,4,0) = (-4,-8,0); row 2: 0.
    Class 1: h = (0,3,0): 2m - 2 = (-2,4,-2): (-2,4,-6), (8,16,0), (6,-12,0).
    Class 2: h = (1,1,1): 2m - 2 = 0: nothing moves.
    """
    tail, seen = tail_and_observation(head)
    result = attribute_by(method, tail, seen, a=3, b=-2)
    assert result is not None
    expected = {
        0: [[4, -8, 12], [-4, -8, 0], [0, 0, 0]],
        1: [[-2, 4, -6], [8, 16, 0], [6, -12, 0]],
        2: np.zeros((3, 3)),
    }
    for source, shift in expected.items():
        np.testing.assert_allclose(result.shift(source), shift, atol=1e-4)


@pytest.mark.parametrize("method", ["auto", "batched", "brute-force"])
def test_a_tail_that_is_not_affine_is_measured(method: str) -> None:
    """With a ReLU behind the convolution, negative scores are cut off at 0.

    Class 1: h = (0,3,0), scores h A + bias = (6.5, 11.5, 1).
        do(h_0 + 1) adds (1,-2,3): (7.5, 9.5, 4), shift (1, -2, 3).
        do(h_1 + 1) adds (2, 4, 0).
        do(h_2 + 1) adds (-3, 6, 0).
    Class 2: h = (1,1,1), scores (0.5, 7.5, 4).
        do(h_0 + 1): (1.5, 5.5, 7), shift (1, -2, 3).
        do(h_1 + 1): (2, 4, 0).
        do(h_2 + 1): (-2.5 cut to 0, 13.5, 4), shift (-0.5, 6, 0).
    """
    tail, seen = tail_and_observation("conv_relu_pool")
    result = attribute_by(method, tail, seen)
    assert result is not None
    assert result.method != "closed-form"
    np.testing.assert_allclose(result.shift(1), [[1, -2, 3], [2, 4, 0], [-3, 6, 0]], atol=1e-5)
    np.testing.assert_allclose(result.shift(2), [[1, -2, 3], [2, 4, 0], [-0.5, 6, 0]], atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_affine_tails_are_told_from_others(head: str) -> None:
    tail, _ = tail_and_observation(head)
    assert is_affine(tail, np.random.default_rng(0)) == (head != "conv_relu_pool")


def test_pcc_of_each_class_with_the_mean_of_the_others() -> None:
    """CA = |A| has the columns (1,2,3), (2,4,6), (3,0,0).

    Class 0: others' mean (2.5,2,3), centred (0,-.5,.5); own centred (-1,0,1).
        PCC = .5 / (sqrt 2 sqrt .5) = 0.5
    Class 1: others' mean (2,1,1.5), centred (.5,-.5,0); own centred (-2,0,2).
        PCC = -1 / (sqrt 8 sqrt .5) = -0.5
    Class 2: others' mean (1.5,3,4.5), centred (-1.5,0,1.5); own centred (2,-1,-1).
        PCC = -4.5 / (sqrt 6 sqrt 4.5) = -0.8660254
    """
    pcc = pearson_to_others(np.abs(MATRIX))
    np.testing.assert_allclose(pcc, [0.5, -0.5, -np.sqrt(0.75)], atol=1e-12)


def test_anomaly_index_of_the_pcc_values() -> None:
    """Median -0.5; deviations 1, 0, -0.3660254; their sizes' median 0.3660254, mean 0.4553418.

    By the median: 1 / (1.4826 x 0.3660254) = 1.84275, 0, -1 / 1.4826 = -0.67449.
    By the mean: 1 / (1.4826 x 0.4553418) = 1.48129, 0, -0.3660254 / 0.6750898 = -0.54219.
    """
    by_median = detect_target([(None, np.abs(MATRIX))])
    np.testing.assert_allclose(by_median.index, [1.84275, 0, -0.67449], atol=1e-5)
    by_mean = detect_target([(None, np.abs(MATRIX))], spread="mean")
    np.testing.assert_allclose(by_mean.index, [1.48129, 0, -0.54219], atol=1e-5)
    assert by_median.flagged == by_mean.flagged == ()


def test_a_lower_threshold_flags_the_class_with_the_smallest_pcc() -> None:
    found = detect_target([(None, np.abs(MATRIX))], threshold=0.6)
    assert found.flagged == (2,)


def test_the_toolkits_zeros_shrink_the_mean_pcc() -> None:
    """Over three source classes, a 0 in the place of source = class: 2/3 of the PCC is left."""
    same = np.abs(MATRIX)
    found = detect_target([(0, same), (1, same), (2, same)], source_is_class="zero")
    np.testing.assert_allclose(found.pcc, [1 / 3, -1 / 3, -np.sqrt(0.75) * 2 / 3], atol=1e-12)


def test_the_whole_analysis_names_target_and_victim() -> None:
    """Threshold 0.6 flags class 2 (index -0.67449). Its mean logits, y_2 = 3 h_0 + 1:

    class 0: h_0 = 2 and 4: 7 and 13, mean 10. Class 1: h_0 = 0: 1. So 0 is the victim; median
    5.5, deviations 4.5: index 4.5 / (1.4826 x 4.5) = 0.67449, over 0.6: strong.
    """
    tail, seen = tail_and_observation("gemm")
    result = analyse(tail, summarise(lambda: iter([seen])), ScanOptions(threshold=0.6, runtime=CPU))
    assert result is not None
    assert result.targets.flagged == (2,)
    (victim,) = result.victims
    assert (victim.target_class, victim.victim_class, victim.strong) == (2, 0, True)
    assert victim.target_logits == {0: 10.0, 1: 1.0}
    assert victim.indices[0] == pytest.approx(0.67449, abs=1e-5)


def test_without_images_the_affine_attribution_is_the_same() -> None:
    tail, seen = tail_and_observation("gemm")
    alone, with_images = (
        analyse(tail, some, ScanOptions(runtime=CPU))
        for some in (None, summarise(lambda: iter([seen])))
    )
    assert alone is not None
    assert with_images is not None
    np.testing.assert_allclose(alone.targets.pcc, with_images.targets.pcc)
    assert alone.victims == ()


@pytest.mark.parametrize(("head", "a"), [("conv_relu_pool", 1.0), ("gemm", 2.0)])
def test_without_images_nothing_is_claimed_where_images_are_needed(head: str, a: float) -> None:
    tail, _ = tail_and_observation(head)
    assert analyse(tail, None, ScanOptions(intervention=Intervention(a, 1), runtime=CPU)) is None


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 0), (float("nan"), 1), (1, float("inf"))])
def test_interventions_that_equation_2_excludes(a: float, b: float) -> None:
    with pytest.raises(ValueError, match="must be a finite number other than 0"):
        Intervention(a, b)
