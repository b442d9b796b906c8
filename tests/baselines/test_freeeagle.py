"""FreeEagle: its statistic by hand, values found directly and by Adam, and scans without images."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fixtures.graphs import build
from onnx_soda import _system
from onnx_soda._detect.baselines.freeeagle import before_affine, by_gradient, judge
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import Tail
from onnx_soda._options import no_progress
from tests.baselines.nets import CPU, net, told
from tests.cli.helpers import BACKDOORED_MODEL, checked, invoke, soda


def posteriors(largest: float) -> NDArray[np.float64]:
    """What the values for each of six classes (rows) are given to.

    The means of columns, without the diagonal: 0.01, 0.02, 0.03, 0.04, 0.05 and `largest`.
    """
    columns = np.array([0.01, 0.02, 0.03, 0.04, 0.05, largest])
    given = np.tile(columns, (6, 1))
    given[1, 5] *= 3
    given[[0, 2], 5] = 0
    np.fill_diagonal(given, 0.9)
    return given


def test_the_statistic_on_paper() -> None:
    """In order, place 6 / 4 = 1 is 0.02 and place 18 / 4 = 4 is 0.05.

    With 0.12 the largest mean is (0.12 - 0.05) / 0.03 = 7/3 ranges over the third quartile, with
    0.1 it is 5/3. Values for class 1 are given to class 5 most.
    """
    found = judge(posteriors(0.12), "", None)
    assert (found.outcome, found.threshold) == ("flagged", 2)
    first = found.named[0]
    assert (first.victim_class, first.target_class, first.flagged) == (1, 5, True)
    assert first.score == pytest.approx(7 / 3)
    assert [pair.target_class for pair in found.named] == [5, 4, 3, 2, 1, 0]
    assert found.named[-1].score == pytest.approx(-4 / 3)
    assert judge(posteriors(0.1), "", None).outcome == "nothing flagged"


def test_classes_that_are_all_alike_say_nothing() -> None:
    found = judge(np.full((6, 6), 1 / 6), "", None)
    assert found.outcome == "abstains"
    assert "all alike" in found.statement


def tail_of(head: NDArray[np.float64], bias: NDArray[np.float64] | None = None) -> Tail:
    return Tail(dissect(load_model(net(head, bias))), CPU)


@pytest.mark.parametrize("bounded", [True, False])
def test_the_first_step_on_paper(monkeypatch: pytest.MonkeyPatch, bounded: bool) -> None:
    """Adam's first step is its rate, 0.01, whatever the slope is; only its sign counts.

    A neuron of weight 1 for each class: the slope of a class's own value is (p - 1) + 0.005 h < 0,
    that of the others is p + 0.005 h > 0. So the own one rises by 0.01, and the others fall, those
    under 0.01 to 0 where values must not be negative.
    """
    monkeypatch.setattr("onnx_soda._detect.baselines.freeeagle.STEPS", 1)
    rng = np.random.default_rng(5)
    first = np.random.default_rng(5).random((20, 20), dtype=np.float32)
    found = before_affine(tail_of(np.eye(20)), 20, bounded, rng, no_progress)
    expected = first + 0.01 * (2 * np.eye(20) - 1)
    assert (expected < 0).any()
    if bounded:
        expected = np.maximum(expected, 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_neuron_between_two_classes_on_paper() -> None:
    """Weights 1 and -1: at h the other class has the chance 1 / (1 + e^2h), and the loss is flat

    where 2 / (1 + e^2h) = 0.005 h. At h = 2.46: 0.01449 against 0.0123; at 2.55: 0.01212 against
    0.01275. The other class wants the same below 0. It starts further away, and is not there after
    1,000 steps; where values must not be negative it stays at 0.
    """
    tail = tail_of(np.array([[1.0, -1.0]]))
    found = before_affine(tail, 2, False, np.random.default_rng(0), no_progress)
    assert found[0, 0] == pytest.approx(2.5, abs=0.05)
    assert -2.5 < found[1, 0] < -1.5
    bounded = before_affine(tail, 2, True, np.random.default_rng(0), no_progress)
    np.testing.assert_allclose(bounded, [[2.5], [0]], atol=0.05)


def test_torch_goes_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx2torch", reason="needs the extra [repair]")
    monkeypatch.setattr("onnx_soda._detect.baselines.freeeagle.STEPS", 200)
    rng = np.random.default_rng(1)
    tail = tail_of(rng.standard_normal((12, 6)), rng.standard_normal(6))
    seen = np.abs(rng.standard_normal((4, 12))).astype(np.float32)
    for bounded in (True, False):
        known = before_affine(tail, 6, bounded, np.random.default_rng(0), no_progress)
        found = by_gradient(tail, seen, bounded, np.random.default_rng(0), no_progress)
        np.testing.assert_allclose(found, known, atol=1e-3)
    # Where fewer classes fit into memory at once, they are looked at one after the other.
    tail.batch_size = 4
    parts = by_gradient(tail, seen, False, np.random.default_rng(0), no_progress)
    np.testing.assert_allclose(parts, found, atol=1e-4)


def leaking(share: float) -> bytes:
    """A head of ten classes; neuron 8 of class 8 adds such a share of what it does to class 3."""
    rng = np.random.default_rng(2)
    head = np.diag(rng.uniform(1, 1.2, 10)) + rng.uniform(-0.2, 0, (10, 10))
    head[8, 3] = share * head[8, 8]
    return net(head)


def test_a_class_near_to_another_ones_values_is_flagged() -> None:
    numbers, said = told(leaking(0.9), None, "freeeagle")
    assert numbers.outcome == "flagged"
    first = numbers.named[0]
    assert (first.victim_class, first.target_class) == (8, 3)
    assert "Without any image" in said
    assert "The rest of the network is affine." in said
    twin, _ = told(leaking(-0.1), None, "freeeagle")
    assert twin.named[0].target_class != 3 or not twin.named[0].flagged


def test_classes_without_quartiles_are_told() -> None:
    numbers, said = told(build("gemm").SerializeToString(), None, "freeeagle")
    assert numbers.outcome == "abstains"
    assert "3 classes have no quartiles" in said


def test_the_command_on_the_bundled_model_takes_no_images() -> None:
    """The rest of the network bends behind the layer half way up, so torch is needed."""
    pytest.importorskip("onnx2torch", reason="needs the extra [repair]")
    ran = soda("scan", BACKDOORED_MODEL, "--method", "freeeagle", "--fail-on", "medium",
               "--format", "json", "--quiet", "--threads", 1)  # fmt: skip
    report = checked(ran.stdout, ran.returncode)
    evidence = report["evidence"]["freeeagle"]
    assert len(evidence["numbers"]["named"]) == 10
    assert "values of the middle layer" in evidence["reasons"][1]
    # 1,000 steps for each of 10 classes, three passes each, through a part of the model.
    assert 1_000 < evidence["numbers"]["passes"] < 30_100


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = _system.find_spec
    monkeypatch.setattr(_system, "find_spec", lambda name: None if name == "torch" else real(name))
    ran = invoke("scan", BACKDOORED_MODEL, "--method", "freeeagle", "--quiet")
    assert ran.exit_code == 2
    assert "FreeEagle needs torch" in ran.stderr
    assert 'pip install ".[repair]"' in ran.stderr
