"""Randomised smoothing: the formulas of the paper, and a file that votes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from scipy.stats import norm

from fixtures import boards, graphs
from onnx_soda import load_model
from onnx_soda._errors import InferenceError, RepairError
from onnx_soda._repair.baselines.smoothing import (
    ABSTAINS,
    COPIES,
    SmoothingRemover,
    certify,
    predict,
    smoothed,
)

from .helpers import run_onnx
from .rivals import accuracy, boards_ready, clean_folds, ready_for, strict


@pytest.mark.parametrize(("sigma", "radius"), [(0.12, 0.457), (0.25, 0.953), (0.5, 1.906)])
def test_the_radius_where_all_of_100000_copies_agree(sigma: float, radius: float) -> None:
    """The bound of the share is 0.001^(1/100,000), and the radius 3.8115 sigma."""
    votes = np.array([0, 100_000, 0])
    assert certify(votes, votes, sigma) == (1, pytest.approx(radius, abs=1e-3))


def test_a_class_without_a_sure_majority_is_not_certified() -> None:
    """Of 100 copies 60 agree: the bound at 0.001 is 0.44. Where none agrees there is none."""
    choosing = np.array([60, 40])
    assert certify(choosing, choosing, 0.5) == (ABSTAINS, 0.0)
    assert certify(choosing, np.array([0, 100]), 0.5) == (ABSTAINS, 0.0)
    assert certify(choosing, np.array([100, 0]), 0.5)[0] == 0


def test_ten_copies_never_suffice_and_eleven_do() -> None:
    """Both tails of a fair coin: 2 / 2^10 is over 0.001, 2 / 2^11 is not (locuslab/smoothing#8)."""
    assert predict(np.array([0, 10])) == ABSTAINS
    assert predict(np.array([0, 11])) == 1
    assert predict(np.array([50, 0, 50])) == ABSTAINS


_LINEAR = """
<ir_version: 8, opset_import: ["" : OPSET]>
linear (float[N,1,1,1] image) => (float[N,2] p)
<float[1,2] W = {-1, 1}, float[2] b = {0.5, -0.5}> {
    flat = Flatten(image)
    h = Relu(flat)
    y = Gemm(flat, W, b)
    p = Softmax<axis=1>(y)
}
"""


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_votes_of_a_linear_model_are_shares_of_a_normal_distribution(opset: int) -> None:
    """Class 1 where the pixel x is over 0.5: its share of votes is Phi((x - 0.5) / sigma).

    Four images of x = 0.6 and sigma = 0.2: 0.69, of 400 copies in all; their deviation is 0.023.
    """
    model = onnx.parser.parse_model(_LINEAR.replace("OPSET", str(opset)))
    noise = np.full((1, 1, 1, 1), 0.2, np.float32)
    voting = smoothed(model, ("image", "y", "p"), noise, 2)
    onnx.checker.check_model(voting, full_check=True)
    (shares,) = run_onnx(voting, {"image": np.full((4, 1, 1, 1), 0.6, np.float32)})
    assert shares.shape == (4, 2)
    assert np.allclose(shares.sum(axis=1), 1)
    assert np.allclose(shares * COPIES, np.rint(shares * COPIES), atol=1e-3)
    assert shares[:, 1].mean() == pytest.approx(norm.cdf(0.5), abs=0.1)
    assert len({float(share) for share in shares[:, 1]}) > 1  # copies of each image are its own


def test_images_keep_their_places() -> None:
    """With next to no noise the votes are the model's answers, one row for each image."""
    model = onnx.parser.parse_model(_LINEAR.replace("OPSET", "17"))
    voting = smoothed(model, ("image", "y", "p"), np.full((1, 1, 1, 1), 1e-6, np.float32), 2)
    shown = np.array([0.1, 0.9, 0.4, 0.6, 0.55], np.float32).reshape(-1, 1, 1, 1)
    (shares,) = run_onnx(voting, {"image": shown})
    assert list(shares.argmax(axis=1)) == [0, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("parameters", "preprocess", "deviation"),
    [("paper", "unit", 0.05), ("paper", "raw", 12.75), ("published", "raw", 0.05)],
)
def test_noise_is_measured_in_pixels_but_in_the_published_comparison(
    parameters: Any, preprocess: str, deviation: float, tmp_path: Path
) -> None:
    """Of pixels from 0 to 255 a sigma of 0.05 is 12.75; the fork adds noise after preprocessing."""
    ready = boards_ready(tmp_path, parameters=parameters, preprocess=preprocess)
    voting = SmoothingRemover(ready)._wrapped(0.05)
    (noise,) = [one for one in voting.graph.initializer if one.name == "image (deviation)"]
    assert np.allclose(onnx.numpy_helper.to_array(noise), deviation)


def test_what_is_written_takes_and_gives_what_the_model_did(tmp_path: Path) -> None:
    ready = boards_ready(tmp_path, parameters="published")
    done = SmoothingRemover(ready).remove(clean_folds(ready))
    assert done.model is not None
    assert not done.scannable
    assert [one.name for one in done.model.graph.output] == ["logits"]
    assert done.model.graph.input == ready.proto.graph.input
    assert accuracy(ready, done.model) == 1.0
    assert any("abstains on" in note for note in done.notes)


def test_where_all_noise_costs_too_much_nothing_is_written(tmp_path: Path) -> None:
    ready = strict(boards_ready(tmp_path))
    done = SmoothingRemover(ready).remove(clean_folds(ready))
    assert done.model is None
    assert "loses more than" in done.reason


@pytest.mark.parametrize(
    ("head", "reason"), [("uint8_input", "whole"), ("batch_of_four", "takes 4")]
)
def test_what_cannot_be_copied_or_made_noisy_is_refused(
    head: str, reason: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(256, size=(90, 2, 2, 1)).astype(np.uint8), np.arange(90) % 3
    preprocess = "raw" if head == "uint8_input" else "unit"
    ready = ready_for(tmp_path, graphs.build(head), pixels, labels, preprocess=preprocess)
    with pytest.raises(RepairError, match=reason):
        SmoothingRemover(ready)


def test_a_file_that_votes_is_loaded_and_cannot_be_scanned(tmp_path: Path) -> None:
    """Random nodes are no reason to refuse it. But hidden tensors have a row for each copy."""
    ready = boards_ready(tmp_path)
    noise = np.full((1, 1, 1, 1), 0.01, np.float32)
    voting = smoothed(boards.model(), ("image", "logits", "logits"), noise, 4)
    suspect = ready.suspect.with_model(load_model(voting.SerializeToString()))
    assert suspect.classes == 4
    with pytest.raises(InferenceError, match="not one row for each"):
        _ = suspect.observation
