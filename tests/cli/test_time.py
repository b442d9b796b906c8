"""`--time`: the time that a scan aims at, what it leaves out for it, and what it says of that."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from fixtures import boards
from onnx_soda._cli.options import in_units, seconds_of

from .helpers import CLEAN_MODEL, CLEAN_SET, checked, soda


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2h", 7200), ("1h5", 3605),
        ("1H30M15S", 5415), (" 10m ", 600),
    ],
)  # fmt: skip
def test_times_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds
    assert seconds_of(in_units(int(seconds))) == seconds


@pytest.mark.parametrize(
    "text", ["", "h", "soon", "0", "0m", "-5", "1.5h", "10 m", "30m1h", "1e3", "nan", "9" * 9999]
)
def test_what_is_no_time_is_told_with_forms_that_are(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="90s, 10m or 1h30m"):
        seconds_of(text)


def covered(report: dict[str, Any]) -> dict[str, tuple[int, int]]:
    parts = report["evidence"]["concepts"]["numbers"]["covered"]["parts"]
    return {part["name"]: (part["done"], part["whole"]) for part in parts}


@pytest.mark.parametrize("sandbox", ["--sandbox", "--no-sandbox"])
def test_a_scan_ends_in_time_and_says_what_would_be_enough(sandbox: str, tmp_path: Path) -> None:
    """The bundled digits take a minute."""
    report, page = tmp_path / "report.json", tmp_path / "report.md"
    begin = time.monotonic()
    done = soda(
        "scan", CLEAN_MODEL, "-d", CLEAN_SET, "--preprocess", "unit", "--threads", 1, sandbox,
        "--time", "4s", "-f", f"json={report}", "-f", f"markdown={page}",
    )  # fmt: skip
    seconds = time.monotonic() - begin
    told = checked(report.read_text(), done.returncode)
    assert told["verdict"] == "inconclusive"
    assert told["timing"]["total"] < 10 < 60
    assert seconds < 60
    parts = covered(told)
    assert parts["concepts of the battery"][0] < parts["concepts of the battery"][1]
    # Each says with what command it would be done: on stderr before, in the report after.
    markdown = page.read_text().replace("\\", "")
    for text in (done.stderr, " ".join(told["reasons"]), markdown):
        (flag,) = set(re.findall(r"--time (\w+)", text))
        assert seconds_of(flag) > 4
    assert "What was covered" in markdown
    assert "images/s with 1 thread" in done.stderr


def test_what_takes_seconds_is_done_whole(tmp_path: Path) -> None:
    model, _, clean, _ = boards.write(tmp_path)
    done = soda("scan", model, "-d", clean, "--budget", "quick", "--time", "1h", "-f", "json")
    told = checked(done.stdout, done.returncode)
    assert (told["verdict"], told["stopped"]) == ("backdoor", None)
    assert all(part == whole for part, whole in covered(told).values())
    assert "--time" not in done.stderr
