"""`onnx-soda repair --method`: removers of other authors, with the same proof as SODA's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from fixtures import boards
from onnx_soda._repair.base import REMOVERS

from .helpers import BACKDOORED_MODEL, CLEAN_SET, FIXTURES, invoke, soda

RIVALS = tuple(name for name in REMOVERS.names if name != "soda")
QUICK = ("--quiet", "--threads", 1, "--reconstruction", "ascent")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, Path]:
    return boards.write(tmp_path_factory.mktemp("boards"))


def repaired(method: str, case: tuple[Path, Path, Path, Path], folder: Path, *more: Any) -> Any:
    """Return the report of a repair of the boards, whose result lies in the folder."""
    model, _, clean, triggers = case
    report = folder / "report.json"
    done = invoke(
        "repair", model, "--data", clean, "-o", folder / "out.onnx", "--method", method,
        "--victim", boards.VICTIM, "--target", boards.TARGET, "--trigger-images", triggers,
        "--format", "json", "--report-output", report, *QUICK, *more,
    )  # fmt: skip
    assert done.exit_code in (0, 3), done.stderr
    return json.loads(report.read_text())["repair"]


@pytest.mark.parametrize("method", RIVALS)
def test_every_method_is_proved_like_sodas(
    method: str, case: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    told = repaired(method, case, tmp_path, "--no-rescan")
    assert told["method"] == method
    assert told["outcome"] in ("repaired", "partly repaired")
    assert told["before"]["target_rate"] > 0.9
    assert told["after"]["accuracy"] >= 0.95
    assert 0 <= told["triggers_after"]["target_rate"] <= 1
    assert "with the parameters of its paper" in " ".join(told["notes"])
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx")
    shown = np.load(case[2])["images"][:5].transpose(0, 3, 1, 2).astype(np.float32) / 255
    assert session.run(None, {"image": shown})[0].shape == (5, 4)


def test_a_method_that_sees_no_layer_is_not_scanned_again(
    case: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    """Smoothing: asked for a new scan, it says why there is none."""
    told = repaired("smoothing", case, tmp_path)
    assert told["rescan"] is None
    assert any("was not scanned again" in note for note in told["notes"])


def test_the_published_parameters_are_told(
    case: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    told = repaired("nad", case, tmp_path, "--no-rescan", "--parameters", "published")
    assert "with the parameters of the published comparison" in " ".join(told["notes"])
    assert told["rate"] in (1e-3, 1e-4)


def test_people_read_which_method_it_was(
    case: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    model, _, clean, _ = case
    done = invoke(
        "repair", model, "--data", clean, "-o", tmp_path / "out.onnx", "--method", "dfr",
        "--victim", boards.VICTIM, "--target", boards.TARGET, "--no-rescan", *QUICK,
    )  # fmt: skip
    assert "dfr, scope head" in done.stdout
    assert "outstanding" not in done.stdout


def test_an_unknown_method_is_refused_with_those_there_are(
    case: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    done = invoke("repair", case[0], "--data", case[2], "-o", tmp_path / "o", "--method", "nads")
    assert done.exit_code == 2
    for name in RIVALS:
        assert name in done.stderr


@pytest.mark.parametrize(
    "method",
    [name if name == "dfr" else pytest.param(name, marks=pytest.mark.slow) for name in RIVALS],
)
def test_the_bundled_digits_in_a_process_of_their_own(method: str, tmp_path: Path) -> None:
    """Nothing is said of how well it works: that is measured, not promised."""
    report = tmp_path / "report.json"
    done = soda(
        "repair", BACKDOORED_MODEL, "--data", CLEAN_SET, "-o", tmp_path / "out.onnx", "--method",
        method, "--victim", 8, "--target", 3, "--trigger-images", FIXTURES / "digits-trigger.h5",
        "--format", "json", "--report-output", report, "--no-rescan", *QUICK,
        "--max-accuracy-drop", 3,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    told = json.loads(report.read_text())["repair"]
    assert told["outcome"] in ("repaired", "partly repaired", "failed")
    assert (tmp_path / "out.onnx").exists() == (told["outcome"] != "failed")
