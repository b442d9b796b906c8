"""The wheel of `make dist`, in an environment of its own: nothing of the checkout helps it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

from fixtures import boards

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist. `make dist` checks them with twine as well."""
    copy = tmp_path_factory.mktemp("dist") / "checkout"
    left_out = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=left_out)
    subprocess.run(["make", "dist", f"PYTHON={sys.executable}"], cwd=copy, check=True)
    return copy / "dist"


@pytest.fixture(scope="module")
def program(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in a clean environment."""
    place = tmp_path_factory.mktemp("venv")
    venv.create(place, with_pip=True)
    (wheel,) = built.glob("*.whl")
    lock = ROOT / "tests/constraints/lock.txt"
    pip = [place / "bin/pip", "install", "--quiet", "--constraint", lock]
    subprocess.run([*pip, f"{wheel}[html]"], check=True)
    return place / "bin/onnx-soda"


def test_the_wheel_scans(program: Path, tmp_path: Path) -> None:
    model, _, clean, _ = boards.write(tmp_path)
    forms = ["--format", f"json={tmp_path / 'r.json'}", "--format", f"html={tmp_path / 'r.html'}"]
    done = subprocess.run(
        [program, "scan", model, "--data", clean, *forms],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )
    assert done.returncode == 1, done.stderr
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["verdict"] == "backdoor"
    assert "BACKDOOR" in (tmp_path / "r.html").read_text(encoding="utf-8").upper()


def test_the_wheel_says_what_repair_needs(program: Path, tmp_path: Path) -> None:
    model, _, clean, _ = boards.write(tmp_path)
    done = subprocess.run(
        [program, "repair", model, "--data", clean, "--output", tmp_path / "out.onnx"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "[repair]" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_wheel_shows_the_pages_that_messages_name(program: Path, tmp_path: Path) -> None:
    told = subprocess.run(
        [program, "explain", "detection"], cwd=tmp_path, capture_output=True, check=True
    ).stdout
    assert told == (ROOT / "docs/detection.md").read_bytes()


def test_types_are_found_in_the_wheel(built: Path) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "--list", *built.glob("*.whl")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in ("py.typed", "__init__.pyi", "_cli/app.py", "_converters/__init__.py"):
        assert f"onnx_soda/{name} " in listed, name


def test_the_sdist_holds_what_the_wheel_is_made_from(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {
        "cli/app.py",
        "converters/__init__.py",
        "docs/detection.md",
        "onnx_soda/py.typed",
        "LICENSE",
    } <= names
