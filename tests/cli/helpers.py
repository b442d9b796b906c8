"""Runs the real command, and in-process where no process boundary is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import h5py
import jsonschema
import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from fixtures.graphs import build
from onnx_soda._cli.app import app
from onnx_soda._report.json import report_schema

FIXTURES = Path(__file__).parents[2] / "fixtures"
CLEAN_MODEL = FIXTURES / "digits-clean.onnx"
BACKDOORED_MODEL = FIXTURES / "digits-backdoored.onnx"
CLEAN_SET = FIXTURES / "digits-clean.h5"
EXIT_CODES = {"clean": 0, "backdoor": 1, "inconclusive": 3, "unsafe": 4}
# Settings of the caller's terminal that would change what is printed.
_TERMINAL = ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")

# Commands that open a model, in a child process where they are not told otherwise.
_WITH_SANDBOX = ("scan", "inspect", "repair", "diff", "twins")

Arguments = str | Path | int


def command(*arguments: Arguments) -> list[str]:
    return [sys.executable, "-m", "onnx_soda", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _TERMINAL}
    return {**kept, **changes}


def soda(
    *arguments: Arguments,
    cwd: Path | None = None,
    stdout: int | IO[bytes] = subprocess.PIPE,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, without a terminal."""
    return subprocess.run(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        cwd=cwd,
        env=environment(**variables),
        timeout=300,
    )


def invoke(*arguments: Arguments) -> Result:
    """Run the command in this process, the work for it too."""
    own = ["--no-sandbox"] if arguments and arguments[0] in _WITH_SANDBOX else []
    return CliRunner().invoke(app, [*map(str, arguments), *own])


def checked(text: str, exit_code: int) -> dict[str, Any]:
    """Return a JSON report, after a look at its form and at the exit code that came with it."""
    report: dict[str, Any] = json.loads(text)
    jsonschema.Draft202012Validator(report_schema()).validate(report)
    assert exit_code == EXIT_CODES[report["verdict"]]
    return report


def complaint(stderr: str) -> str:
    """Return the error printed, after a look at its form: one line, or a second with advice."""
    first, *rest = stderr.splitlines()
    assert first.startswith("onnx-soda: error: ")
    assert len(rest) <= 1
    assert "Traceback" not in stderr
    assert "unexpected" not in first
    return first


def graph(body: str, weights: str, output: str = "float[N,3] y", opsets: str = '"" : 17') -> bytes:
    """Return a model of 2 x 2 grey images, from ONNX's text form."""
    text = (
        f"<ir_version: 8, opset_import: [{opsets}]>\n"
        f"g (float[N,1,2,2] x) => ({output}) <{weights}> {{ {body} }}"
    )
    return onnx.parser.parse_model(text).SerializeToString()


def grey_pixels(per_class: int = 12) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return 2 x 2 images of three classes, and labels that the hand-made heads mostly give."""
    corners = np.array([[255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 0, 255]], dtype=np.uint8)
    # h A + bias: (1, 0, 0) gives class 2, (0, 1, 0) class 1, (0, 0, 0) class 2.
    return corners.repeat(per_class, axis=0).reshape(-1, 2, 2, 1), np.arange(3).repeat(per_class)


def write_grey_case(folder: Path) -> tuple[Path, Path]:
    """Write a model with a hand-made head and a clean set that fits it."""
    model, data = folder / "model.onnx", folder / "clean.npz"
    model.write_bytes(build("gemm").SerializeToString())
    images, labels = grey_pixels()
    np.savez(data, images=images, labels=labels)
    return model, data


def write_few_digits(path: Path, per_class: int) -> Path:
    """Write some bundled clean images, with which a scan takes seconds.

    30 are enough to name the backdoor, and to call its clean twin clean.
    """
    np.savez(path, **few_digits(per_class))
    return path


def few_digits(per_class: int) -> dict[str, NDArray[Any]]:
    """Return the first images of each class of the bundled clean set, and their labels."""
    labels = digits()["labels"]
    return digits(np.concatenate([np.flatnonzero(labels == n)[:per_class] for n in range(10)]))


def digits(rows: slice | NDArray[np.bool_ | np.intp] | None = None) -> dict[str, NDArray[Any]]:
    """Return images and labels of the bundled clean set."""
    with h5py.File(CLEAN_SET) as file:
        images, labels = file["images"][()], file["labels"][()]
    chosen = slice(None) if rows is None else rows
    return {"images": images[chosen], "labels": labels[chosen]}
