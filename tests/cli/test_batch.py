"""Many models in one command, and options from a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import jsonschema
import psutil
import pytest
from referencing import Registry, Resource

from fixtures.sketches import build_sketch
from fixtures.trojans import TROJANS
from onnx_soda._report.json import report_schema
from tests.cli.helpers import CLEAN_MODEL
from tests.report.helpers import check_github, run


def batch_validator() -> jsonschema.Draft202012Validator:
    place = files("onnx_soda._report") / "batch-report.schema.json"
    schema = json.loads(place.read_text(encoding="utf-8"))
    alone = report_schema()
    registry = Registry().with_resource(alone["$id"], Resource.from_contents(alone))
    return jsonschema.Draft202012Validator(schema, registry=registry)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "models"
    place.mkdir()
    (place / "evil.onnx").write_bytes(build_sketch(TROJANS["plain_if"]).SerializeToString())
    (place / "open.onnx").write_bytes(CLEAN_MODEL.read_bytes())
    (place / "junk\x1b[31m.onnx").write_bytes(b"junk")
    return place


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_table_and_the_worst_exit_code(jobs: int, folder: Path, tmp_path: Path) -> None:
    command = ("scan", "models", "-q", "--cache-dir", "cache", "--jobs")
    done = run(*command, jobs, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["model", "verdict", "finding", "pair", "seconds"]
    assert "SODA201" in next(line for line in lines if "evil.onnx" in line)
    assert "failed" in next(line for line in lines if "junk" in line)
    assert "inconclusive" in next(line for line in lines if "open.onnx" in line)
    assert "\x1b" not in done.stdout
    again = run(*command, 3 - jobs, cwd=tmp_path)
    assert again.stdout.count("cached") == 2  # whatever the number of jobs
    silent = run(*command, jobs, "--exit-zero", cwd=tmp_path)
    assert silent.returncode == 2  # one could not be scanned
    (folder / "evil.onnx").unlink()
    assert run("scan", folder, "-q", "--no-cache").returncode == 2


def test_forms_of_many(folder: Path, tmp_path: Path) -> None:
    done = run(
        "scan", folder, "-q", "--no-cache", "-f", "json", "-f", f"sarif={tmp_path / 's'}",
        "-f", f"junit={tmp_path / 'j'}", "-f", f"markdown={tmp_path / 'm'}",
    )  # fmt: skip
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["summary"] == {
        "clean": 0, "backdoor": 1, "inconclusive": 1, "unsafe": 0, "failed": 1,
    }  # fmt: skip
    assert [set(one) >= {"message", "advice"} for one in found["outcomes"]].count(True) == 1
    assert sorted(Path(place).name for place in found["places"]) == sorted(
        one.name for one in folder.iterdir()
    )
    batch_validator().validate(found)
    check_github(json.loads((tmp_path / "s").read_text(encoding="utf-8")))
    assert (tmp_path / "m").read_text(encoding="utf-8").count("\n|") == 4


def test_times_and_tracebacks_where_they_are_asked_for(folder: Path) -> None:
    plain = run("scan", folder, "-q", "--no-cache")
    assert "Traceback" not in plain.stderr
    full = run("scan", folder, "-q", "--no-cache", "--verbose", "--debug")
    assert "Traceback" in full.stderr
    times = [line for line in full.stderr.splitlines() if line.startswith(("evil.onnx:", "open."))]
    assert len(times) == 2
    assert full.stdout.count("\n") == plain.stdout.count("\n")


def test_html_is_of_one_model(folder: Path, tmp_path: Path) -> None:
    done = run("scan", folder, "-f", f"html={tmp_path / 'h'}")
    assert done.returncode == 2
    assert "one model" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_many_at_once_leaves_nothing(
    number: signal.Signals, folder: Path, tmp_path: Path
) -> None:
    """What was begun is reported after one Ctrl-C; the other models were not scanned."""
    for copy in range(6):
        (folder / f"{copy}.onnx").write_bytes(CLEAN_MODEL.read_bytes())
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "onnx_soda", "scan", str(folder), "--jobs", "2", "--no-cache",
               "-f", "json"]  # fmt: skip
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary)}, start_new_session=True,
    )  # fmt: skip
    process = psutil.Process(started.pid)
    end = time.monotonic() + 60
    while time.monotonic() < end and not process.children():
        time.sleep(0.02)
    time.sleep(0.2)  # a child that was started is noted down
    family = process.children(recursive=True)
    started.send_signal(number)
    stdout, _ = started.communicate(timeout=60)
    if number == signal.SIGINT:
        assert started.returncode == 2
        told = [one.get("message", "") for one in json.loads(stdout)["outcomes"]]
        assert any("interrupted before this model was scanned" in one for one in told)
    else:
        assert started.returncode not in (0, 1, 2, 3)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    assert list(temporary.glob("onnx-soda-*")) == []


def test_options_from_a_file(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[scan]\nseed = 7\nmethod = "soda"\nformat = "json"\nquiet = true\n')
    done = run("scan", CLEAN_MODEL, "--config", config)
    assert json.loads(done.stdout)["environment"]["seed"] == 7
    done = run("scan", CLEAN_MODEL, "--config", config, "--seed", 8)
    assert json.loads(done.stdout)["environment"]["seed"] == 8


def test_no_file_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(CLEAN_MODEL.read_bytes())
    for name in ("onnx-soda.toml", ".onnx-soda.toml", "pyproject.toml", "config.toml"):
        (tmp_path / name).write_text("[scan]\nseed = 7\n[tool.onnx-soda.scan]\nseed = 7\n")
    done = subprocess.run(
        [sys.executable, "-m", "onnx_soda", "scan", "m.onnx", "-q", "-f", "json"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["environment"]["seed"] == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[scan]\nsed = 3", "do you mean 'seed'"),
        ("[scan]\nseed = 'x'", "seed"),
        (
            "[other]\nseed = 3",
            "more than the table [scan]: [other]; options go below a line [scan]",
        ),
        ("seed = 3", "more than the table [scan]: seed; options go below a line [scan]"),
        ("scan = 3", "gives 'scan' a value: options go below a line [scan]"),
        ("[scan", "cannot be read"),
        ("[scan]\nconfig = 'x'", "no option"),
    ],
)
def test_wrong_files_of_options(text: str, words: str, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(text)
    done = run("scan", CLEAN_MODEL, "--config", config)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
