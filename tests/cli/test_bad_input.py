"""Bad input: exit code 2, one or two lines that say what is wrong, and nothing written."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
from onnx import TensorProto
from PIL import Image

from fixtures.graphs import build
from onnx_soda import SodaError, scan_file
from onnx_soda._preflight.definitions import newest_opset

from .helpers import (
    checked,
    command,
    complaint,
    graph,
    grey_pixels,
    invoke,
    soda,
    write_grey_case,
)

Case = Callable[[Path], list[str | Path]]

GEMM = build("gemm").SerializeToString()

HEAD = "float[4,3] W = {1,0,0, 0,1,0, 0,0,1, 0,0,0}"
TRUNK = "f = Flatten(x)  m = MatMul(f, W)  h = Relu(m)"


def with_model(content: bytes) -> Case:
    def write(folder: Path) -> list[str | Path]:
        (folder / "model.onnx").write_bytes(content)
        return [folder / "model.onnx", "--data", folder / "clean.npz"]

    return write


def with_data(**arrays: Any) -> Case:
    def write(folder: Path) -> list[str | Path]:
        np.savez(folder / "bad.npz", **arrays)
        return [folder / "model.onnx", "--data", folder / "bad.npz"]

    return write


def with_options(*options: str) -> Case:
    def write(folder: Path) -> list[str | Path]:
        return [folder / "model.onnx", "--data", folder / "clean.npz", *options]

    return write


def not_there(folder: Path) -> list[str | Path]:
    return [folder / "nothing.onnx"]


def a_folder(folder: Path) -> list[str | Path]:
    (folder / "empty").mkdir()
    return [folder / "empty"]


def no_outputs() -> bytes:
    proto = build("gemm")
    del proto.graph.output[:]
    return proto.SerializeToString()


def too_new() -> bytes:
    proto = build("gemm")
    proto.opset_import[0].version = newest_opset() + 1
    return proto.SerializeToString()


def external(location: str) -> bytes:
    proto = build("gemm")
    tensor = proto.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return proto.SerializeToString()


def zipped(*members: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in members:
            archive.writestr(name, GEMM)
    return stream.getvalue()


def with_pointer(folder: Path) -> list[str | Path]:
    (folder / "w.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    return with_model(external("w.bin"))(folder)


def no_data(folder: Path) -> list[str | Path]:
    return [folder / "model.onnx", "--data", folder / "nothing.h5"]


def empty_data(folder: Path) -> list[str | Path]:
    (folder / "empty.h5").touch()
    return [folder / "model.onnx", "--data", folder / "empty.h5"]


def class_folders(folder: Path) -> Path:
    for number in range(3):
        (folder / "set" / str(number)).mkdir(parents=True)
        for index in range(3):
            path = folder / "set" / str(number) / f"{index}.png"
            Image.fromarray(np.full((2, 2), 99, np.uint8)).save(path)
    return folder / "set"


def empty_class(folder: Path) -> list[str | Path]:
    root = class_folders(folder)
    for path in (root / "1").iterdir():
        path.unlink()
    return [folder / "model.onnx", "--data", root]


def broken_image(folder: Path) -> list[str | Path]:
    root = class_folders(folder)
    (root / "1" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    return [folder / "model.onnx", "--data", root]


def external_link(folder: Path) -> list[str | Path]:
    with h5py.File(folder / "secret.h5", "w") as file:
        file["images"] = grey_pixels()[0]
    with h5py.File(folder / "links.h5", "w") as file:
        file["images"] = h5py.ExternalLink(str(folder / "secret.h5"), "/images")
        file["labels"] = grey_pixels()[1]
    return [folder / "model.onnx", "--data", folder / "links.h5"]


IMAGES, LABELS = grey_pixels()
HOLES = np.where(np.arange(len(IMAGES))[:, None, None, None] == 5, np.nan, IMAGES / 255)

CASES: dict[str, tuple[Case, str]] = {
    "not there": (not_there, "nothing.onnx does not exist"),
    "folder": (a_folder, "holds no model"),
    "empty": (with_model(b""), "model.onnx is empty"),
    "truncated": (with_model(GEMM[:-20]), "model.onnx "),
    "no protobuf": (with_model(b"Once upon a time\n"), "cannot be read as ONNX"),
    "packed": (with_model(zipped("sub/inner.onnx")), "a zip archive with 'inner.onnx' in it"),
    "arrays": (with_model(zipped("images.npy", "labels.npy")), "an archive of NumPy arrays"),
    "pointer": (with_model(b"version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"),
    "weights not fetched": (with_pointer, "the weights file 'w.bin' is a Git LFS pointer"),
    "another size": (with_options("--size", "4x5"), "takes images of 2 x 2, and --size says 4 x 5"),
    "images of one class": (
        with_data(images=IMAGES[:12], labels=LABELS[:12]),
        "all images of bad.npz are of one class: 0",
    ),
    "no outputs": (with_model(no_outputs()), "has no outputs"),
    "zero classes": (
        with_model(graph(f"{TRUNK}  y = MatMul(h, A)", f"{HEAD}, float[3,0] A = {{}}",
                         "float[N,0] y")),
        "zero classes",
    ),
    "one class": (
        with_model(graph(f"{TRUNK}  y = MatMul(h, A)", f"{HEAD}, float[3,1] A = {{1,2,3}}",
                         "float[N,1] y")),
        "a single class",
    ),
    "too new": (with_model(too_new()), f"newest supported: {newest_opset()}"),
    "no weights": (with_model(external("weights.bin")), "'weights.bin' is missing"),
    "no clean set": (no_data, "nothing.h5 is not there"),
    "empty clean set": (empty_data, "empty.h5 is empty"),
    "colour for grey": (
        with_data(images=IMAGES.repeat(3, axis=3), labels=LABELS), "the model wants 1 channel"
    ),
    "labels outside": (with_data(images=IMAGES, labels=LABELS + 1), "outside the model's classes"),
    "too few labels": (with_data(images=IMAGES, labels=LABELS[1:]), "labels for"),
    "nan": (with_data(images=HOLES, labels=LABELS), "not finite numbers"),
    "missing class": (
        with_data(images=IMAGES[:24], labels=LABELS[:24]), "classes without images: 2"
    ),
    "empty class folder": (empty_class, "1"),
    "broken image": (broken_image, "1.png"),
    "external link": (external_link, "links.h5"),
    "no such layer": (with_options("--layer", "nowhere"), "no tensor named 'nowhere'"),
    "no such logits": (with_options("--logits", "nowhere"), "no tensor named 'nowhere'"),
    "no such preset": (with_options("--preprocess", "nothing"), "neither a preset nor a file"),
    "no such split": (with_options("--split", "val"), "val"),
}  # fmt: skip


DANGEROUS: dict[str, tuple[Any, str, str]] = {
    "pickle": (with_model(pickle.dumps([1])), "a Python pickle", "SODA307"),
    "unknown domain": (
        with_model(graph(f"{TRUNK}  y = acme.Rocket(h)", HEAD, opsets='"" : 17, "acme" : 1')),
        "unknown operators: acme::Rocket",
        "SODA304",
    ),
    "weights elsewhere": (
        with_model(external("../weights.bin")), "outside its own folder", "SODA301"
    ),
}  # fmt: skip


def listing(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_told_in_a_line_or_two(name: str, tmp_path: Path) -> None:
    write_grey_case(tmp_path)
    arguments, words = CASES[name][0](tmp_path), CASES[name][1]
    before = listing(tmp_path)
    done = invoke("scan", *arguments, "-f", "json", "-o", tmp_path / "report.json")
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in complaint(done.stderr)
    assert len(done.stderr.splitlines()) == 2, "an error comes with advice"
    assert str(tmp_path) not in done.stderr
    assert listing(tmp_path) == before


@pytest.mark.parametrize("name", DANGEROUS)
def test_what_is_dangerous_is_a_verdict(name: str, tmp_path: Path) -> None:
    """It has a report like any other scan, and the exit code 4; other commands refuse it with 4."""
    write_grey_case(tmp_path)
    make, words, rule = DANGEROUS[name]
    arguments = make(tmp_path)
    before = listing(tmp_path)
    done = invoke("scan", *arguments, "-f", "json")
    report = checked(done.stdout, done.exit_code)
    assert (done.exit_code, done.stderr) == (4, "")
    assert report["verdict"] == "unsafe"
    assert [finding["rule_id"] for finding in report["findings"]] == [rule]
    assert words in report["findings"][0]["message"]
    content = Path(arguments[0]).read_bytes()
    assert report["model"]["sha256"] == hashlib.sha256(content).hexdigest()
    refused = invoke("inspect", arguments[0])
    assert (refused.exit_code, refused.stdout) == (4, "")
    assert complaint(refused.stderr).endswith(f"({rule})")
    assert invoke("scan", *arguments, "--exit-zero").exit_code == 0
    with pytest.raises(SodaError) as caught:
        scan_file(arguments[0], limits=None)
    assert caught.value.unsafe
    assert listing(tmp_path) == before


@pytest.mark.parametrize("name", ["truncated", "nan"])
def test_the_same_from_a_process_of_its_own(name: str, tmp_path: Path) -> None:
    write_grey_case(tmp_path)
    arguments, words = CASES[name][0](tmp_path), CASES[name][1]
    before = listing(tmp_path)
    done = soda("scan", *arguments, "-o", "report.json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in complaint(done.stderr)
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("output", "words"),
    [("missing/report.json", "the folder of report.json does not exist"), ("set", "is a folder")],
)
def test_a_place_where_no_report_can_be_written(output: str, words: str, tmp_path: Path) -> None:
    model, data = write_grey_case(tmp_path)
    (tmp_path / "set").mkdir()
    before = listing(tmp_path)
    for arguments in (("scan", model, "-d", data), ("inspect", model)):
        done = invoke(*arguments, "-o", tmp_path / output)
        assert (done.exit_code, done.stdout) == (2, "")
        assert words in complaint(done.stderr)
    assert listing(tmp_path) == before


def test_debug_adds_the_traceback_and_keeps_the_exit_code(tmp_path: Path) -> None:
    """Python's own exit code for an exception is 1, which here means: backdoor found."""
    done = soda("scan", tmp_path / "nothing.onnx", "--debug")
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2] == "onnx-soda: error: nothing.onnx does not exist"


@pytest.mark.parametrize(
    "options",
    [
        ("--unknown",),
        ("--a", "0"),
        ("--b", "nan"),
        ("--threshold", "inf"),
        ("--threshold", "-1"),
        ("--min-accuracy", "nan"),
        ("--samples-per-class", "0"),
        ("--size", "0x32"),
        ("--size", "32x32x3"),
        ("--size", "large"),
        ("--time", "soon"),
        ("--time", "0"),
        ("--time", "1.5h"),
        ("--threads", "0"),
        ("--seed", "-1"),
        ("--provider", "tpu"),
        ("--format", "xml"),
    ],
)
def test_wrong_usage(options: tuple[str, ...], tmp_path: Path) -> None:
    model, data = write_grey_case(tmp_path)
    before = listing(tmp_path)
    done = invoke("scan", model, "-d", data, "-o", tmp_path / "report", *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert listing(tmp_path) == before


@pytest.mark.parametrize("arguments", [(), ("scan",), ("inspect",), ("nonsense",)])
def test_a_command_that_is_incomplete(arguments: tuple[str, ...]) -> None:
    assert invoke(*arguments).exit_code == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_no_verdict(tmp_path: Path) -> None:
    model, data = write_grey_case(tmp_path)
    with Path("/dev/full").open("wb") as full:
        done = soda("scan", model, "-d", data, "-f", "json", stdout=full)
    assert done.returncode == 2
    assert "No space left on device" in complaint(done.stderr)


def test_numbers_too_large_for_the_model_are_an_error(tmp_path: Path) -> None:
    """6e308 is infinite, and correlations of infinities are none: nothing to call clean."""
    model, data = write_grey_case(tmp_path)
    done = invoke("scan", model, "-d", data, "-f", "json", "--b", "1e308", "--min-accuracy", "0")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "not numbers" in complaint(done.stderr)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such device")
def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    model, data = write_grey_case(tmp_path)
    link = tmp_path / "out"
    link.symlink_to("/dev/null")
    done = invoke("scan", model, "-d", data, "-o", link, "--min-accuracy", "0")
    assert (done.stdout, done.stderr) == ("", "")
    assert link.is_symlink()
    assert Path("/dev/null").is_char_device()


def test_a_model_that_contradicts_itself_is_told_without_the_libraries_noise(
    tmp_path: Path,
) -> None:
    """The output is declared with another rank than it has: onnx-ir logs a traceback for that."""
    content = graph(f"{TRUNK}  y = MatMul(h, A)", f"{HEAD}, float[3,3] A = {{1,2,3, 4,5,6, 7,8,1}}",
                    "float[7] y")  # fmt: skip
    (tmp_path / "model.onnx").write_bytes(content)
    assert onnx.load(tmp_path / "model.onnx").graph.output[0].name == "y"
    done = soda("scan", tmp_path / "model.onnx", "-f", "json")
    assert "Traceback" not in done.stderr
    assert done.returncode in (1, 2, 3)


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("target", ["model.onnx", "clean.npz", "mine.json", "hard link"])
def test_no_report_takes_the_place_of_what_is_read(target: str, form: str, tmp_path: Path) -> None:
    model, data = write_grey_case(tmp_path)
    (tmp_path / "mine.json").write_text('{"scale": 0.00392156862745098}')
    (tmp_path / "hard link").hardlink_to(model)
    before = listing(tmp_path)
    done = invoke(
        "scan", model, "-d", data, "--preprocess", tmp_path / "mine.json",
        "-f", f"{form}={tmp_path / target}",
    )  # fmt: skip
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{target} would be overwritten" in complaint(done.stderr)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("command", ["inspect", "diff"])
def test_nor_does_that_of_another_command(command: str, tmp_path: Path) -> None:
    model, _ = write_grey_case(tmp_path)
    models = (model,) if command == "inspect" else (model, model)
    before = listing(tmp_path)
    done = invoke(command, *models, "-o", model)
    assert done.exit_code == 2
    assert "would be overwritten" in complaint(done.stderr)
    assert listing(tmp_path) == before


def test_a_report_of_an_earlier_scan_does_not_outlive_one_that_fails(tmp_path: Path) -> None:
    model, data = write_grey_case(tmp_path)
    places = {form: tmp_path / f"report.{form}" for form in ("json", "sarif")}
    formats = [word for form, place in places.items() for word in ("-f", f"{form}={place}")]
    arguments = ("scan", model, "-d", data, "--min-accuracy", 0, *formats)
    assert invoke(*arguments).exit_code != 2
    assert places["json"].is_file()
    model.write_bytes(b"no model")
    assert invoke(*arguments).exit_code == 2
    assert not places["json"].exists()
    assert "no model" not in places["sarif"].read_text()


@pytest.mark.parametrize("seconds", ["inf", "nan", "1e300"])
def test_endless_limits_are_wrong_usage(seconds: str, tmp_path: Path) -> None:
    model, _ = write_grey_case(tmp_path)
    done = soda("inspect", model, "--timeout", seconds)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--timeout" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")
def test_a_name_that_is_no_utf8_is_told(tmp_path: Path) -> None:
    model, _ = write_grey_case(tmp_path)
    other = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.onnx"))
    other.write_bytes(model.read_bytes())
    done = soda("inspect", other)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no valid UTF-8" in complaint(done.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("--version",), ("scan", "--help"), ("rules",), ("cache",)])
def test_nor_is_it_for_what_is_no_report(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = soda(*arguments, stdout=full)
    assert done.returncode == 2
    assert "stdout" in complaint(done.stderr)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="closes a descriptor before the program starts")
def test_a_closed_stdout_is_told(tmp_path: Path) -> None:
    model, _ = write_grey_case(tmp_path)
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command("inspect", model)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no stdout" in complaint(done.stderr)
