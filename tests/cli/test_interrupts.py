"""Ctrl-C and termination at any moment leave no process, no folder and no half of a file."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from .helpers import BACKDOORED_MODEL, CLEAN_MODEL, CLEAN_SET, checked, command, environment, soda

# Moments from Python's start to the end of the work, the same in every run.
MOMENTS = [round(float(moment), 2) for moment in np.random.default_rng(0).uniform(0.0, 3.0, 8)]
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def processes_in(folder: Path) -> list[psutil.Process]:
    """Return the processes that work in a folder or below."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def interrupt(
    arguments: tuple[str | Path | int, ...], folder: Path, number: int, delay: float
) -> subprocess.CompletedProcess[bytes]:
    """Start a command, send it a signal after a delay, and wait for its end."""
    process = subprocess.Popen(
        command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, env=environment(TMPDIR=str(folder)), start_new_session=True,
    )  # fmt: skip
    time.sleep(delay)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    return subprocess.CompletedProcess((), process.returncode, stderr=told)


def nothing_left(folder: Path) -> None:
    end = time.monotonic() + 2
    while (running := processes_in(folder)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not running
    assert not list(folder.iterdir())


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "delay", [*MOMENTS[::2], *(pytest.param(one, marks=pytest.mark.slow) for one in MOMENTS[1::2])]
)
def test_an_interrupted_scan_leaves_nothing(
    number: signal.Signals, delay: float, tmp_path: Path
) -> None:
    place, folder = tmp_path / "place", tmp_path / "temporary"
    place.mkdir()
    folder.mkdir()
    report = place / "report.json"
    done = interrupt(
        ("scan", CLEAN_MODEL, "-d", CLEAN_SET, "--method", "soda", "--threads", 1, "-f", "json",
         "-o", report),
        folder, number, delay,
    )  # fmt: skip
    nothing_left(folder)
    if report.exists():
        assert json.loads(report.read_text())["verdict"]
    else:
        # Python that is interrupted before it runs a line of the program exits with 1.
        assert done.returncode not in (0, 1, 2, 3) or b"init_import_site" in done.stderr
    assert set(place.iterdir()) <= {report}


def begun_scan(folder: Path, *options: str | Path) -> subprocess.Popen[bytes]:
    """Start a scan that takes half a minute at least, and wait until its child is at work."""
    process = subprocess.Popen(
        command("scan", BACKDOORED_MODEL, "-d", CLEAN_SET, "--threads", 1, "-f", "json", *options),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=environment(TMPDIR=str(folder)), start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 60
    while not psutil.Process(process.pid).children() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.5)
    return process


def test_ctrl_c_ends_a_scan_with_a_report_of_what_is_done(tmp_path: Path) -> None:
    folder, report = tmp_path / "temporary", tmp_path / "report.json"
    folder.mkdir()
    process = begun_scan(folder, "-o", report)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert b"what is done is reported" in stderr
    told = checked(report.read_text(), process.returncode)
    assert (told["stopped"], told["verdict"]) == ("interrupt", "inconclusive")
    assert told["reasons"][0] == "The scan is not complete: it was interrupted."
    assert told["evidence"]["graph-logic"]["verdict"]
    nothing_left(folder)


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    folder, report = tmp_path / "temporary", tmp_path / "report.json"
    folder.mkdir()
    process = begun_scan(folder, "-o", report)
    (child,) = psutil.Process(process.pid).children()
    child.suspend()  # so that it cannot do as it is asked
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode not in (0, 1, 2, 3)
    assert not report.exists()
    nothing_left(folder)


def test_a_scan_over_its_time_reports_what_is_done(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = soda(
        "scan", BACKDOORED_MODEL, "-d", CLEAN_SET, "--threads", 1, "--timeout", 6,
        "-f", "json", "-o", report,
    )  # fmt: skip
    told = checked(report.read_text(), done.returncode)
    assert (told["stopped"], told["verdict"]) == ("time limit", "inconclusive")
    assert "(--timeout) was over" in told["reasons"][0]
    assert any("concepts" in reason or "Only" in reason for reason in told["reasons"][1:])


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("delay", [1.0, pytest.param(6.0, marks=pytest.mark.slow), 4.0])
def test_an_interrupted_repair_leaves_nothing(
    number: signal.Signals, delay: float, tmp_path: Path
) -> None:
    place, folder = tmp_path / "place", tmp_path / "temporary"
    place.mkdir()
    folder.mkdir()
    done = interrupt(
        ("repair", BACKDOORED_MODEL, "-d", CLEAN_SET, "-o", place / "out.onnx", "--victim", 8,
         "--target", 3, "--no-rescan", "--threads", 1, "-q"),
        folder, number, delay,
    )  # fmt: skip
    nothing_left(folder)
    assert not processes_in(place)
    repaired = place / "out.onnx"
    assert set(place.iterdir()) <= {repaired}
    if repaired.exists():
        onnx.checker.check_model(repaired)
    else:
        assert done.returncode not in (0, 1, 2, 3)
