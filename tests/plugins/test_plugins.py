"""What another package registers, in one place each, works in the real command like our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from onnx_soda._detect.base import DETECTORS
from onnx_soda._report.json import report_schema
from tests.cli.helpers import CLEAN_MODEL, digits
from tests.plugins import toys
from tests.report.browser import Seen


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as pip would install it, and a clean set of its form."""
    folder = tmp_path_factory.mktemp("site")
    source = Path(toys.__file__).read_text(encoding="utf-8")
    (folder / "toys.py").write_text(source, encoding="utf-8")
    about = folder / "toys-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(toys.ENTRY_POINTS)
    bundled = digits()
    toys.write_toy(folder / "clean.toy", bundled["images"], bundled["labels"])
    return folder


def soda(installed: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onnx_soda", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def scanned(installed: Path) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One scan by the toy detector, of the toy data form, in all report forms."""
    forms = ("text", "html", "lines", "sarif", "markdown", "junit", "bom")
    written = [word for form in forms for word in ("-f", f"{form}={installed / f'report.{form}'}")]
    done = soda(
        installed, "scan", CLEAN_MODEL, "--data", installed / "clean.toy", "--method", "loudness",
        "-f", "json", *written, "-q",
    )  # fmt: skip
    assert done.stderr == ""
    return done, installed


def test_the_detector_decides_and_the_exit_code_follows(
    scanned: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    """The model is the clean twin; the toy calls every model backdoored."""
    done, _ = scanned
    report = json.loads(done.stdout)
    jsonschema.Draft202012Validator(report_schema()).validate(report)
    assert done.returncode == 1
    assert (report["method"], report["verdict"]) == ("loudness", "backdoor")
    loudest = report["evidence"]["loudness"]["numbers"]["loudest"]
    (finding,) = report["findings"]
    assert (finding["rule_id"], finding["target_class"]) == ("TOY001", loudest)
    assert finding["advice"] == "Listen to the model."
    # The paper's statistic is shown beside it, as beside every method.
    assert report["evidence"]["soda"]["numbers"]["pcc"]


def test_the_clean_set_was_read_whole(
    scanned: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    dataset = json.loads(scanned[0].stdout)["dataset"]
    assert (dataset["file"], dataset["samples"]) == ("clean.toy", 720)
    assert dataset["accuracy"] > 0.9


def test_the_report_form_is_written(
    scanned: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    _, folder = scanned
    text = (folder / "report.lines").read_text(encoding="utf-8")
    assert text.endswith("digits-clean.onnx = backdoor\n")


def test_text_shows_what_the_detector_saw(
    scanned: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    shown = " ".join((scanned[1] / "report.text").read_text(encoding="utf-8").split())
    for words in ("TOY001", "is the loudest", "Loudness of classes", "class 7"):
        assert words in shown


def test_html_shows_table_chart_and_pictures(
    scanned: tuple[subprocess.CompletedProcess[str], Path], browser: Any
) -> None:
    seen = Seen(browser, scanned[1] / "report.html")
    assert seen.messages == []
    body = seen.page.inner_text("body")
    for words in ("is the loudest", "Loudness of classes", "Loudness drawn", "a caption"):
        assert words in body
    assert seen.page.locator("img[alt='a pixel']").count() == 1
    assert seen.grave_faults() == []


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("sarif", ["TOY001", "Listen to the model.", "Loudness of classes"]),
        ("markdown", ["TOY001", "Loudness of classes", "class 7"]),
        ("junit", ["TOY001"]),
        ("bom", ["TOY001"]),
    ],
)
def test_the_other_forms_know_of_it(
    form: str, words: list[str], scanned: tuple[subprocess.CompletedProcess[str], Path]
) -> None:
    text = (scanned[1] / f"report.{form}").read_text(encoding="utf-8")
    for word in words:
        assert word in text, word


def test_its_rules_are_listed_and_explained(installed: Path) -> None:
    assert "TOY001" in soda(installed, "rules").stdout
    done = soda(installed, "explain", "toy001")
    assert done.returncode == 0
    assert "Listen to the model." in done.stdout


def test_the_remover_is_taken_by_its_name(installed: Path, tmp_path: Path) -> None:
    done = soda(
        installed, "repair", CLEAN_MODEL, "-d", installed / "clean.toy", "-o", tmp_path / "o.onnx",
        "--method", "nothing", "--victim", 8, "--target", 3, "--no-rescan", "-q", "-f", "json",
        "--reconstruction", "ascent", "--threads", 1,
    )  # fmt: skip
    summary = json.loads(done.stdout)["repair"]
    assert summary["method"] == "nothing"
    assert summary["changes"] == []
    assert any("Nothing was done with" in note for note in summary["notes"])
    assert summary["before"]["accuracy"] == summary["after"]["accuracy"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "loudnes"], f"none of {', '.join((*DETECTORS.own, 'loudness'))}"),
        (["-f", "line"], "markdown, junit, bom, lines"),
    ],
)
def test_names_are_told_where_one_is_wrong(
    arguments: list[str], words: str, installed: Path
) -> None:
    done = soda(installed, "scan", CLEAN_MODEL, *arguments)
    assert done.returncode == 2
    told = " ".join(done.stderr.split())
    assert words in told
    assert "Do you mean" in told


def test_without_the_package_there_is_none(tmp_path: Path) -> None:
    done = soda(tmp_path, "scan", CLEAN_MODEL, "--method", "loudness")
    assert done.returncode == 2
    assert "loudness" in done.stderr


def test_a_package_that_cannot_be_imported_is_told(tmp_path: Path) -> None:
    (tmp_path / "toys.py").write_text("raise RuntimeError('out of order')\n")
    about = tmp_path / "toys-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(toys.ENTRY_POINTS)
    done = soda(tmp_path, "scan", CLEAN_MODEL, "--method", "loudness")
    assert done.returncode == 2
    assert "out of order" in done.stderr
    assert "Traceback" not in done.stderr
