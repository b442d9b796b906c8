"""`onnx-soda twins`, as users run it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fixtures import boards

from .helpers import command, complaint, environment, invoke, soda
from .test_interrupts import nothing_left, processes_in

pytest.importorskip("torch", reason="twins are trained with torch")

QUICK = ("--epochs", 20, "--quiet")


@dataclass(frozen=True)
class Case:
    """A backdoored net, its clean images, and a folder of twins."""

    model: Path
    clean: Path
    twins: Path
    printed: str


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("boards")
    model, _, clean, _ = boards.write(folder)
    done = soda("twins", "-d", clean, "-o", folder / "twins", *QUICK, "--count", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    return Case(model, clean, folder / "twins", done.stdout)


def test_twins_are_trained_and_told(case: Case) -> None:
    names = ["twin-1-vgg.onnx", "twin-2-resnet.onnx"]
    assert sorted(path.name for path in case.twins.iterdir()) == names
    assert all(name in case.printed for name in names)
    assert "192 trained on, 48 held out" in case.printed
    assert "--reference" in case.printed


def test_a_scan_takes_them_as_references(case: Case) -> None:
    done = soda(
        "scan", case.model, "-d", case.clean, "--reference", case.twins, "--budget", "quick",
        "--threads", 1, "-q", "-f", "json",
    )  # fmt: skip
    report = json.loads(done.stdout)
    told = report["evidence"]["second-opinion"]["numbers"]
    assert [one["file"] for one in told["references"]] == ["twin-1-vgg.onnx", "twin-2-resnet.onnx"]
    assert {one["preprocessing"] for one in told["references"]} == {"unit"}
    assert told["left_out"] == []
    first = told["pairs"][0]
    assert (first["victim_class"], first["target_class"]) == (boards.VICTIM, boards.TARGET)


def test_what_is_there_is_kept(case: Case) -> None:
    before = {path: path.stat().st_mtime_ns for path in case.twins.iterdir()}
    again = soda("twins", "-d", case.clean, "-o", case.twins, *QUICK, "--count", 2, "-f", "json")
    assert again.returncode == 0, again.stderr
    answer = json.loads(again.stdout)
    assert [twin["kept"] for twin in answer["twins"]] == [True, True]
    assert {path: path.stat().st_mtime_ns for path in case.twins.iterdir()} == before


def test_a_file_that_is_no_twin_is_not_written_over(case: Case, tmp_path: Path) -> None:
    foreign = tmp_path / "twin-1-vgg.onnx"
    foreign.write_bytes(case.model.read_bytes())
    done = soda("twins", "-d", case.clean, "-o", tmp_path, *QUICK)
    assert done.returncode == 2
    assert "twin-1-vgg.onnx is in the folder already, and is no twin" in complaint(done.stderr)
    assert foreign.read_bytes() == case.model.read_bytes()


def test_too_small_a_set_exits_with_3(tmp_path: Path) -> None:
    pixels, labels = boards.images(9)
    np.savez(tmp_path / "few.npz", images=pixels, labels=labels)
    done = soda("twins", "-d", tmp_path / "few.npz", "-o", tmp_path / "twins", *QUICK)
    assert done.returncode == 3
    assert "too small for twins" in done.stdout
    assert not (tmp_path / "twins").exists()


def test_weak_twins_exit_with_3(case: Case, tmp_path: Path) -> None:
    done = invoke(
        "twins", "-d", case.clean, "-o", tmp_path, "--epochs", 1, "--count", 1, "-q",
    )  # fmt: skip
    assert done.exit_code == 3, done.stdout + done.stderr
    assert "too weak, not written" in done.stdout
    assert "Every twin is too weak to be a reference: under 62" in done.stdout
    assert not list(tmp_path.iterdir())


def test_other_models_in_the_folder_are_told(case: Case, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(case.model.read_bytes())
    done = invoke("twins", "-d", case.clean, "-o", tmp_path, "--count", 1, *QUICK)
    assert done.exit_code == 0, done.stdout + done.stderr
    assert "Also in the folder, and used with it: mine.onnx." in done.stdout


@pytest.mark.parametrize(
    ("place", "said"),
    [("missing/twins", "cannot be made"), ("clean.npz", "cannot be made")],
)
def test_a_folder_that_cannot_be_made_is_told(
    case: Case, tmp_path: Path, place: str, said: str
) -> None:
    (tmp_path / "clean.npz").write_bytes(case.clean.read_bytes())
    done = soda("twins", "-d", tmp_path / "clean.npz", "-o", tmp_path / place, *QUICK)
    assert done.returncode == 2
    assert said in complaint(done.stderr)


def test_time_that_runs_out_leaves_nothing_half_done(case: Case, tmp_path: Path) -> None:
    done = soda(
        "twins", "-d", case.clean, "-o", tmp_path / "twins", "--epochs", 10_000, "--timeout", 10,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--timeout" in done.stderr
    assert not (tmp_path / "twins").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_keeps_what_is_done(
    case: Case, tmp_path: Path, number: signal.Signals
) -> None:
    first = case.twins / "twin-1-vgg.onnx"
    place, folder = tmp_path / "place", tmp_path / "temporary"
    place.mkdir()
    folder.mkdir()
    (place / first.name).write_bytes(first.read_bytes())
    # The first is kept, since its epochs are the same; the last never comes to its turn.
    process = subprocess.Popen(
        command("twins", "-d", case.clean, "-o", place, *QUICK, "--count", 64),
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        env=environment(TMPDIR=str(folder)), start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 120
    while not (place / "twin-2-resnet.onnx").exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode not in (0, 2, 3)
    nothing_left(folder)
    left = sorted(path.name for path in place.iterdir())
    assert left[:2] == [first.name, "twin-2-resnet.onnx"]
    assert all(name.startswith("twin-") for name in left)
    assert not processes_in(place)


def test_without_torch_the_extra_is_named(case: Case, tmp_path: Path) -> None:
    arguments = ["onnx-soda", "twins", "-d", str(case.clean), "-o", str(tmp_path), "--no-sandbox"]
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from onnx_soda._cli.app import main\n"
        f"sys.argv = {arguments!r}\nmain()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert 'In a checkout of onnx-soda: pip install ".[repair]"' in result.stderr
