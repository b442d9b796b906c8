"""Models of other frameworks on the command line: converted in the child, scanned in one step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from .sources import (
    CLASSES,
    SIZE,
    Payload,
    keras_network,
    quietly,
    save_program,
    save_script,
    torch_bytes,
    torch_network,
)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "onnx_soda", *map(str, arguments)], capture_output=True, text=True
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def clean_set(path: Path) -> Path:
    """Write images of random pixels; what the scan makes of them does not matter here."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), 12)
    with h5py.File(path, "w") as file:
        file["images"] = draw.integers(0, 256, (len(labels), SIZE, SIZE, 3), dtype=np.uint8)
        file["labels"] = labels
    return path


def test_convert_then_inspect(tmp_path: Path) -> None:
    source, out = tmp_path / "m.pt2", tmp_path / "out.onnx"
    save_program(torch_network(), source)
    done = run("convert", source, "-o", out)
    assert done.returncode == 0, done.stderr
    assert "PyTorch ExportedProgram (.pt2)" in done.stdout
    assert names(tmp_path) == {"m.pt2", "out.onnx"}
    seen = run("inspect", out)
    assert seen.returncode == 0, seen.stderr
    assert f"{CLASSES} classes" in seen.stdout


@pytest.mark.parametrize(
    ("file", "converter"),
    [pytest.param("m.keras", "Keras", marks=pytest.mark.slow), ("m.pt", "TorchScript")],
)
def test_scan_converts_first_and_says_so(file: str, converter: str, tmp_path: Path) -> None:
    source, data = tmp_path / file, clean_set(tmp_path / "clean.h5")
    if converter == "Keras":
        with quietly():
            keras_network().save(source)
    else:
        save_script(torch_network(), source, trace=True)
    done = run(
        "scan", source, "--data", data, "--min-accuracy", 0, "--method", "soda",
        "-f", "json", "--threads", 1,
    )  # fmt: skip
    assert done.returncode in (0, 1, 3), done.stderr
    report = json.loads(done.stdout)
    assert report["model"]["file"] == source.name
    (note,) = [reason for reason in report["reasons"] if "Converted to ONNX first" in reason]
    assert converter in note
    assert names(tmp_path) == {file, "clean.h5"}


def test_inspect_converts_first_and_says_so(tmp_path: Path) -> None:
    source = tmp_path / "m.pt"
    save_script(torch_network(), source, trace=True)
    done = run("inspect", source, "-f", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["file"], found["logits"]["classes"]) == ("m.pt", CLASSES)
    assert any("Converted to ONNX first" in note for note in found["notes"])
    assert names(tmp_path) == {"m.pt"}


@pytest.mark.parametrize("command", ["convert", "scan", "repair", "inspect"])
def test_a_pickled_module_is_refused(command: str, tmp_path: Path) -> None:
    torch_network()
    source, marker = tmp_path / "module.pt", tmp_path / "marker"
    source.write_bytes(torch_bytes({"weights": Payload(marker)}))
    data = clean_set(tmp_path / "clean.h5")
    places = {
        "convert": ["-o", tmp_path / "out.onnx"],
        "scan": ["--data", data],
        "repair": ["--data", data, "-o", tmp_path / "out.onnx"],
        "inspect": [],
    }
    done = run(command, source, *places[command])
    assert done.returncode == 4
    assert "SODA307" in (done.stdout if command == "scan" else done.stderr)
    assert "Traceback" not in done.stderr
    assert names(tmp_path) == {"module.pt", "clean.h5"}


def test_bare_weights_need_a_network(tmp_path: Path) -> None:
    source = tmp_path / "weights.pt"
    source.write_bytes(torch_bytes(torch_network().state_dict()))
    done = run("scan", source)
    assert done.returncode == 2
    assert "--arch" in done.stderr


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "folder").mkdir()
    save_script(torch_network(), tmp_path / "m.pt", trace=True)
    content = (tmp_path / "m.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    for source, out, words in (
        ("text", "out.onnx", "text"),
        ("folder", "out.onnx", "is a folder"),
        ("m.pt", "m.pt", "is the source itself"),
        ("cut.pt", "out.onnx", "cut.pt"),
        ("missing.pt", "out.onnx", "missing.pt"),
    ):
        done = run("convert", tmp_path / source, "-o", tmp_path / out)
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert names(tmp_path) == {"text", "folder", "m.pt", "cut.pt"}
    assert (tmp_path / "m.pt").read_bytes() == content


def test_doctor_tells_what_this_installation_can_do() -> None:
    done = run("doctor", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["self_test"]["passed"]
    assert found["versions"]["onnx"]
    assert "CPUExecutionProvider" in found["providers"]
    assert {part["extra"] for part in found["converters"]} >= {"pytorch", "keras", "sklearn"}
    assert "usable" in run("doctor").stdout
