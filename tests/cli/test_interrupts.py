"""Ctrl-C and termination at any moment leave no process, no folder and no half of a file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
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


# Moments of the first second: imports, options, the child's start, and the child's imports.
EARLY = [round(float(moment), 3) for moment in np.random.default_rng(1).uniform(0.05, 1.0, 40)]


@pytest.mark.parametrize(
    "delay",
    [
        pytest.param(one, marks=[pytest.mark.slow] if number % 4 else [])
        for number, one in enumerate(EARLY)
    ],
)
def test_ctrl_c_in_the_first_second_is_quiet(delay: float, tmp_path: Path) -> None:
    done = interrupt(("scan", CLEAN_MODEL, "-d", CLEAN_SET, "--threads", 1), tmp_path, 2, delay)
    nothing_left(tmp_path)
    if b"init_import_site" in done.stderr:
        return  # Python was interrupted before it ran a line of the program
    if done.returncode == 3:  # the child was at work, and reports what is done
        assert done.stderr.splitlines() == [
            b"onnx-soda: ending; what is done is reported. Ctrl-C again ends it at once."
        ]
    else:
        assert (done.returncode, done.stderr) in ((130, b""), (-signal.SIGINT, b""))


def test_a_command_that_is_interrupted_while_it_is_imported_says_nothing() -> None:
    """Python alone would print where it was, and end as if by the signal."""
    program = (
        "import os, signal, sys\n"
        "from onnx_soda.__main__ import main\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == sys.argv[2]: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "main()\n"
    )
    for name in (
        "typer",
        "onnx_soda._cli.app",
        "onnx_soda._cli.scan",
        "onnx_soda._batch",
        "psutil",
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, "scan", name], capture_output=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (130, b"", b""), name
