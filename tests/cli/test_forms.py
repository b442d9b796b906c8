"""Which form a report is written in: what --format says, else what the ending of the file tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .helpers import invoke, soda, write_grey_case

# By ending: how a report of that form begins.
BEGINNINGS = {
    "r.json": '{\n  "schema_version"',
    "r.HTML": "<!doctype html>",
    "r.htm": "<!doctype html>",
    "r.sarif": '{\n  "$schema"',
    "r.sarif.json": '{\n  "$schema"',
    "r.md": "| model | verdict |",
    "r.xml": "<?xml",
    "r.junit": "<?xml",
    "r.cdx.json": '{\n  "components"',
    "r.txt": "model.onnx: ",
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_the_ending_of_the_file_tells_the_form(name: str, tmp_path: Path) -> None:
    model, data = write_grey_case(tmp_path)
    done = invoke("scan", model, "-d", data, "-o", tmp_path / name)
    assert done.exit_code in (0, 1, 3)
    assert (done.stdout, done.stderr) == ("", "")
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert text.lower().startswith(BEGINNINGS[name].lower()), text[:60]


@pytest.mark.parametrize("name", ["r", "r.pdf", "v1.2"])
def test_an_ending_that_tells_none_is_told(name: str, tmp_path: Path) -> None:
    model, _ = write_grey_case(tmp_path)
    done = invoke("scan", model, "-o", tmp_path / name)
    assert done.stderr == (
        f"onnx-soda: {name} is written as text: its ending names no form, and no --format does\n"
    )
    assert (tmp_path / name).read_text(encoding="utf-8").startswith("model.onnx: ")


def test_the_form_that_is_asked_for_wins(tmp_path: Path) -> None:
    model, data = write_grey_case(tmp_path)
    done = invoke("scan", model, "-d", data, "-f", "json", "-o", tmp_path / "r.html")
    assert done.stderr == ""
    assert json.loads((tmp_path / "r.html").read_text(encoding="utf-8"))["verdict"]


def test_the_form_of_an_options_file_wins_too(tmp_path: Path) -> None:
    model, _ = write_grey_case(tmp_path)
    (tmp_path / "scan.toml").write_text('[scan]\nformat = "json"\n')
    invoke("scan", model, "--config", tmp_path / "scan.toml", "-o", tmp_path / "r.html")
    assert json.loads((tmp_path / "r.html").read_text(encoding="utf-8"))["verdict"]


def test_what_is_no_file_has_no_ending(tmp_path: Path) -> None:
    model, _ = write_grey_case(tmp_path)
    done = soda("scan", model, "-o", "/dev/stdout")
    assert done.stderr == ""
    assert done.stdout.startswith("model.onnx: ")


@pytest.mark.parametrize("command", ["inspect", "diff", "rules"])
def test_other_commands_go_by_the_ending_too(command: str, tmp_path: Path) -> None:
    model, _ = write_grey_case(tmp_path)
    models = {"inspect": (model,), "diff": (model, model), "rules": ()}[command]
    done = invoke(command, *models, "-o", tmp_path / "r.json")
    assert (done.exit_code, done.stderr) == (0, "")
    json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    told = invoke(command, *models, "-o", tmp_path / "r.html")
    assert "r.html is written as text" in told.stderr
