"""The smallest latent shift to each class: programs by hand, against another solver, and scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from fixtures.graphs import build
from onnx_soda._detect.baselines.minimal_shift import margins, smallest, smallest_shifts
from onnx_soda._detect.soda.statistic import anomaly_index, false_alarm_threshold
from onnx_soda._options import no_progress
from onnx_soda._suspect import Observation, summarise
from tests.baselines.nets import net, told, write_images
from tests.cli.helpers import BACKDOORED_MODEL, CLEAN_SET, checked, grey_pixels, soda


@pytest.mark.parametrize(
    ("normals", "bounds", "shift"),
    [
        # each number by itself
        ([[1, 0], [0, 1]], [3, 4], [3, 4]),
        # of two that ask for the same, the further one
        ([[1, 0], [1, 0]], [1, 2], [2, 0]),
        # half of it from each number
        ([[1, 1]], [2], [1, 1]),
        # 1 and 1 are not enough for a sum of 4
        ([[1, 0], [0, 1], [1, 1]], [1, 1, 4], [2, 2]),
        # the length of a constraint does not count: s0 >= 3, and the second holds with that
        ([[10, 0], [1, 1]], [30, 1], [3, 0]),
        # all is well as it is
        ([[1, 0], [0, 1]], [-1, 0], [0, 0]),
        # a class with the weights of another, which is behind already
        ([[0, 0], [1, 0]], [-1, 2], [2, 0]),
    ],
)
def test_programs_that_are_solved_by_looking(
    normals: list[list[float]], bounds: list[float], shift: list[float]
) -> None:
    found = smallest(np.array(normals, dtype=float), np.array(bounds, dtype=float))
    assert found is not None
    np.testing.assert_allclose(found, shift, atol=1e-9)


@pytest.mark.parametrize(
    ("normals", "bounds"),
    [([[1, 0], [-1, 0]], [1, 1]), ([[0, 0], [1, 0]], [1, 1]), ([[1, 1], [-1, -1]], [3, -2])],
)
def test_what_cannot_be_is_told(normals: list[list[float]], bounds: list[float]) -> None:
    assert smallest(np.array(normals, dtype=float), np.array(bounds, dtype=float)) is None


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_another_solver_comes_to_the_same(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    normals = rng.standard_normal((6, 8))
    bounds = scale * rng.standard_normal(6)
    found = smallest(normals, bounds)
    assert found is not None  # six constraints in eight dimensions can always be met
    asked = bounds / scale
    other = minimize(
        lambda s: s @ s / 2,
        np.zeros(8),
        jac=lambda s: s,
        method="SLSQP",
        constraints={
            "type": "ineq",
            "fun": lambda s: normals @ s - asked,
            "jac": lambda _: normals,
        },
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert (normals @ found / scale >= asked - 1e-8).all()
    np.testing.assert_allclose(found / scale, other.x, atol=1e-5)


def test_the_shift_to_each_class_of_a_head_on_paper() -> None:
    """Weights 2, 2 and 8 on the diagonal; an image of each class has 1 in its own neuron.

    To class 2 the logits of 0 and 1 are 2 ahead: 8 s2 - 2 s0 >= 2 and 8 s2 - 2 s1 >= 2. By
    symmetry s = (-u, -u, v) with 2 u + 8 v = 2 and 2 u^2 + v^2 smallest: u = 1/33, v = 8/33, so
    |s|^2 = 66/1089.
    To class 0 class 2 is 8 ahead and class 1 is 2 ahead: 2 s0 - 2 s1 >= 2, 2 s0 - 8 s2 >= 8. Both
    bind: s1 = s0 - 1 and s2 = s0 / 4 - 1, and s0^2 + (s0 - 1)^2 + (s0 / 4 - 1)^2 is smallest at
    s0 = (1 + 1/4) / (2 + 1/16) = 20/33.
    """
    head, layer = np.diag([2.0, 2.0, 8.0]), np.eye(3)
    seen = Observation(np.arange(3), (layer @ head).astype(np.float32), layer, {})
    ahead = margins(summarise(lambda: iter([seen])))
    np.testing.assert_array_equal(ahead, [[0, 2, 8], [2, 0, 8], [2, 2, 0]])
    sizes = smallest_shifts(head, ahead, no_progress)
    first = 20 / 33
    to_first = np.sqrt(first**2 + (first - 1) ** 2 + (first / 4 - 1) ** 2)
    np.testing.assert_allclose(sizes, [to_first, to_first, np.sqrt(66) / 33], atol=1e-9)
    # The same head over ten neurons, seven of which it does not look at.
    wide = np.vstack([head, np.zeros((7, 3))])
    np.testing.assert_allclose(smallest_shifts(wide, ahead, no_progress), sizes, atol=1e-9)


def test_a_class_between_two_others_is_never_reached() -> None:
    """Its logit is the mean of theirs, so one of them is always as large."""
    head = np.array([[4.0, 0, 2, 0, 0], [0, 4, 2, 0, 0], [0, 0, 0, 4, 0], [0, 0, 0, 0, 4]])
    layer = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    seen = Observation(np.array([0, 1, 3, 4]), (layer @ head).astype(np.float32), layer, {})
    sizes = smallest_shifts(head, margins(summarise(lambda: iter([seen]))), no_progress)
    assert np.isfinite(sizes).tolist() == [True, True, False, True, True]


def test_thresholds_are_exceeded_by_chance_as_often_as_they_say() -> None:
    """Known from other draws: 3.9 for 10 classes, 3.5 for 29 to 101; 6.0 and 4.3 for 1 %."""
    assert false_alarm_threshold(10) == pytest.approx(3.9, abs=0.1)
    for classes in (29, 43, 101):
        assert false_alarm_threshold(classes) == pytest.approx(3.5, abs=0.1)
    assert false_alarm_threshold(10, 0.01) == pytest.approx(6.0, abs=0.3)
    assert false_alarm_threshold(43, 0.01) == pytest.approx(4.3, abs=0.15)
    # SODA's 2 flags every third clean model of 10 classes.
    assert false_alarm_threshold(10, 0.33) == pytest.approx(2.0, abs=0.05)


def test_anomaly_indices_of_several_samples_are_those_of_each() -> None:
    samples = np.random.default_rng(0).standard_normal((5, 7))
    samples[1] = 2.0
    samples[2, 1:] = 3.0
    for spread in ("median", "mean"):
        found = anomaly_index(samples, spread)
        for row, sample in zip(found, samples, strict=True):
            np.testing.assert_allclose(row, anomaly_index(sample, spread), atol=1e-12)


def ten_classes(weight: float) -> np.ndarray:
    """A neuron for each class, and one more that adds so much to class 3 alone."""
    head = np.zeros((11, 10))
    head[:10] = np.diag(np.linspace(1, 1.6, 10))
    head[10, 3] = weight
    return head


@pytest.mark.parametrize("parameters", ["paper", "published"])
def test_a_class_that_one_neuron_reaches_is_flagged(tmp_path: Path, parameters: str) -> None:
    hidden = np.hstack([np.eye(10), np.zeros((10, 1))])
    data = write_images(tmp_path / "ten.npz", hidden)
    numbers, _ = told(net(ten_classes(20)), data, "head-qp", parameters=parameters)
    assert numbers.outcome == "flagged"
    first, *others = numbers.named
    assert (first.victim_class, first.target_class, first.flagged) == (None, 3, True)
    assert not any(pair.flagged for pair in others)
    # To get 1.6 ahead of any other: about 1.6 / 20 by that neuron.
    assert numbers.details["sizes"][3] == pytest.approx(0.08, abs=0.01)
    assert numbers.threshold == pytest.approx(2 if parameters == "published" else 3.9, abs=0.1)
    clean, _ = told(net(ten_classes(0)), data, "head-qp", parameters=parameters)
    assert clean.outcome == "nothing flagged"


def test_few_classes_that_can_be_reached_are_no_clean_model(tmp_path: Path) -> None:
    """Class 2 lies between the other two; two points have no outlier."""
    head = np.array([[2.0, 0, 1], [0, 2, 1], [0, 0, 0]])
    data = write_images(tmp_path / "three.npz", np.eye(3))
    numbers, said = told(net(head), data, "head-qp")
    assert numbers.outcome == "not optimised"
    assert "Shifts to 2 of 3 classes" in said
    two, _ = told(net(np.eye(2)), write_images(tmp_path / "two.npz", np.eye(2)), "head-qp")
    assert two.outcome == "abstains"


def test_a_tail_that_bends_is_left_to_others(tmp_path: Path) -> None:
    images, labels = grey_pixels()
    np.savez(tmp_path / "grey.npz", images=images, labels=labels)
    model = build("conv_relu_pool").SerializeToString()
    numbers, said = told(model, tmp_path / "grey.npz", "head-qp")
    assert numbers.outcome == "abstains"
    assert "not affine" in said


def test_the_command_on_the_bundled_model() -> None:
    ran = soda("scan", BACKDOORED_MODEL, "--data", CLEAN_SET, "--method", "head-qp",
               "--fail-on", "medium", "--format", "json", "--quiet")  # fmt: skip
    report = checked(ran.stdout, ran.returncode)
    numbers = report["evidence"]["head-qp"]["numbers"]
    assert len(numbers["named"]) == len(numbers["details"]["sizes"]) == 10
    assert all(size > 0 for size in numbers["details"]["sizes"])
    assert numbers["outcome"] in ("flagged", "nothing flagged")
