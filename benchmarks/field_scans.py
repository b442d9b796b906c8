"""Scans of the files rebuilt from public bug reports, held against what is right for each.

The right answers are those of the README beside the files. Those of ten classes get the clean set
that the trained ones were trained for. There is none for those of six.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import SHARED
from onnx_soda._rules import SEVERITIES

__all__ = ["Scanned", "scan_field"]

_FIELD = SHARED / "field"
_ROOT = Path(__file__).parents[1]
# A shared machine takes a minute or two for each.
_SECONDS = 900


@dataclass(frozen=True)
class _Right:
    """What is right for a file.

    Attributes:
        refused: It is no model: exit code 2. Else no exit code but 0 and 3 is right.
        most: The severest finding allowed.
        said: What has to be in a message, or in a note of the report.
        fits: The clean set fits.
    """

    refused: bool = False
    most: str = "info"
    said: str = ""
    fits: bool = True


_UNPACK = _Right(refused=True, said="Unpack it first")
_RIGHT = {
    "base.onnx.gz": _UNPACK,
    "base.zip": _UNPACK,
    "base.ort": _Right(refused=True, said="Give the .onnx file"),
    "lfs_pointer.onnx": _Right(refused=True, said="git lfs pull"),
    "web_page.onnx": _Right(refused=True, said="web page"),
    "skipped_block.onnx": _Right(most="medium"),
    "pre_scale_if_over_one.onnx": _Right(most="medium"),
    "fp16_keep_io.onnx": _Right(said="put in order"),
    "output_without_shape.onnx": _Right(said="does not say its shape"),
    "qoperator_without_import.onnx": _Right(said="not imported"),
    "ir3_weights_not_inputs.onnx": _Right(said="not listed as inputs"),
    **dict.fromkeys(
        (
            "fpn_relu_small.onnx",
            "unet_relu.onnx",
            "pre_round_8bit.onnx",
            "reject_label.onnx",
            "stn_gridsample.onnx",
        ),
        _Right(fits=False),
    ),
}


@dataclass(frozen=True)
class Scanned:
    """How a scan ended.

    Attributes:
        name: The file.
        code: Exit code.
        severest: Severest finding, "none" or "refused".
        said: The message, where it was refused; else the verdict.
        wrong: What is not right; empty where all is.
    """

    name: str
    code: int
    severest: str
    said: str
    wrong: str


def scan_field() -> Iterator[Scanned]:
    """Scan each file with the real command, a quick budget and one thread."""
    for path in sorted(_FIELD.glob("*")):
        if path.suffix not in (".md", ".npz"):
            yield _scanned(path, _RIGHT.get(path.name, _Right()))


def _scanned(path: Path, right: _Right) -> Scanned:
    data = ("--data", str(_FIELD / "digits.npz"), "--budget", "quick") if right.fits else ()
    command = [
        sys.executable, "-m", "onnx_soda", "scan", str(path), *data, "--threads", "1", "--quiet",
        "--format", "json",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=_ROOT, timeout=_SECONDS, check=False
    )
    if not done.stdout.strip():
        severest, said = "refused", " ".join(done.stderr.split()).removeprefix("onnx-soda: error: ")
        texts = [said]
    else:
        report = json.loads(done.stdout)
        found = [one["severity"] for one in report["findings"]]
        severest = min(found, key=SEVERITIES.index, default="none")
        said, texts = report["verdict"], [one["message"] for one in report["findings"]]
    wrong = ", ".join(_faults(right, done.returncode, severest, texts))
    return Scanned(path.name, done.returncode, severest, said, wrong)


def _faults(right: _Right, code: int, severest: str, texts: list[str]) -> Iterator[str]:
    """Say what is not right about a scan."""
    if code not in ((2,) if right.refused else (0, 3)):
        yield f"exit code {code}"
    if severest in SEVERITIES and SEVERITIES.index(severest) < SEVERITIES.index(right.most):
        yield f"a finding of severity {severest}"
    if not any(right.said in text for text in texts) and right.said:
        yield f"not said: {right.said!r}"
