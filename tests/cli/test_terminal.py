"""What a terminal gets: progress on stderr, the report on stdout, and nothing of a file's own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import onnx
import psutil
import pytest

from fixtures import boards
from fixtures.graphs import build
from onnx_soda._cli import output
from onnx_soda._cli.output import Estimates

from .helpers import (
    CLEAN_MODEL,
    CLEAN_SET,
    EXIT_CODES,
    checked,
    command,
    complaint,
    environment,
    grey_pixels,
    invoke,
    soda,
    write_few_digits,
    write_grey_case,
)

pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")

# Some seconds of interventions with one thread, on any machine over the second that stays silent.
SLOW = (
    "scan", CLEAN_MODEL, "-d", CLEAN_SET, "--method", "soda", "--layer", "shallow",
    "--attribution", "batched", "--threads", "1", "--fail-on", "medium",
)  # fmt: skip
BAR = "interventions on neurons"
# Takes half a minute: an interrupt comes in time on a busy machine too, where SLOW may be over.
SLOWER = ("scan", CLEAN_MODEL, "-d", CLEAN_SET, "--threads", "1")
LONGER_BAR = "concepts tried"


class Terminal:
    """A pseudo-terminal, and what was written to it."""

    def __init__(self) -> None:
        self._master, self.end = pty.openpty()
        self._parts: list[bytes] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._master, 65536)
            except OSError:  # the other end is closed
                return
            with self._changed:
                self._parts.append(part)
                self._changed.notify_all()

    @property
    def text(self) -> str:
        return b"".join(self._parts).decode(errors="replace")

    def wait_for(self, words: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: words in self.text, timeout=60), self.text

    def close(self) -> None:
        os.close(self.end)
        self._reader.join()
        os.close(self._master)


@contextmanager
def terminal() -> Iterator[Terminal]:
    new = Terminal()
    try:
        yield new
    finally:
        new.close()


def start(arguments: tuple[str | Path, ...], **streams: int) -> subprocess.Popen[bytes]:
    variables = environment(TERM="xterm-256color", COLUMNS="100")
    return subprocess.Popen(
        command(*arguments), stdin=subprocess.DEVNULL, env=variables, start_new_session=True,
        **streams,
    )  # fmt: skip


# --- progress


def test_the_time_needed_is_estimated_once_where_it_is_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step a second of 300: after the first 5 steps 295 s are left, about 5 minutes."""
    told = []
    estimates = Estimates(timeout=120)
    begin = time.monotonic()
    for step in range(1, 301):
        monkeypatch.setattr(time, "monotonic", lambda now=begin + step: now)
        told += [text] if (text := estimates.of("changes", step, 300)) else []
    assert told == [
        "onnx-soda: changes: 300 in all, which takes about 5 minutes more; --timeout 120 ends it "
        "before."
    ]


def test_what_is_short_is_not_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    estimates = Estimates(timeout=120)
    begin = time.monotonic()
    for step in range(1, 31):
        monkeypatch.setattr(time, "monotonic", lambda now=begin + step: now)
        assert estimates.of("changes", step, 30) is None


def test_slow_work_shows_a_bar_on_stderr_and_the_report_alone_on_stdout() -> None:
    with terminal() as screen:
        process = start((*SLOW, "-f", "json"), stdout=subprocess.PIPE, stderr=screen.end)
        report, _ = process.communicate(timeout=120)
    assert BAR in screen.text
    assert "%" in screen.text
    assert "0:00:" in screen.text, "the time left"
    checked(report.decode(), process.returncode)


# --- a log in place of a terminal

# The command, with a line as often as every tenth of a second in place of every half minute.
HASTY = (
    "import onnx_soda._cli.output as output; output.LINE_SECONDS = 0.1\n"
    "from onnx_soda.__main__ import main; main()"
)


def logged(*arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HASTY, *map(str, arguments)], stdin=subprocess.DEVNULL,
        capture_output=True, encoding="utf-8", env=environment(), timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_few_digits(tmp_path_factory.mktemp("few") / "few.npz", 30)


def test_a_log_gets_a_line_from_time_to_time(tmp_path: Path) -> None:
    model, _, clean, _ = boards.write(tmp_path)
    done = logged("scan", model, "-d", clean, "--threads", 1)
    lines = [line for line in done.stderr.splitlines() if "at work: concepts tried" in line]
    assert len(lines) > 3
    for line in lines:
        assert re.fullmatch(
            r"onnx-soda: at work: concepts tried: [\d,]+ of [\d,]+ \(\d+%\)"
            r"(, about (a minute|\d+ minutes) left)?(; best pair so far \d -> \d)?\.",
            line,
        )
    assert "left" in done.stderr
    assert lines[-1].endswith(f"best pair so far {boards.VICTIM} -> {boards.TARGET}.")
    assert done.stdout.startswith("boards.onnx: "), "the report alone"


def test_a_log_of_many_models_tells_of_each_at_work(tmp_path: Path) -> None:
    _, _, clean, _ = boards.write(tmp_path)
    done = logged("scan", tmp_path, "-d", clean, "--no-cache", "--jobs", 2)
    lines = [line for line in done.stderr.splitlines() if "at work: models: " in line]
    assert lines[0].startswith("onnx-soda: at work: models: 0 of 2 (0%)")
    both = [line for line in lines if "boards.onnx: " in line and "twin.onnx: " in line]
    assert any("concepts tried: " in line and "left" in line for line in both)


def test_quiet_writes_nothing_into_a_log(few: Path) -> None:
    done = logged("scan", CLEAN_MODEL, "-d", few, "--method", "soda", "-q", "--threads", 1)
    assert done.stderr == ""


def test_what_is_over_before_half_a_minute_writes_nothing_into_a_log(few: Path) -> None:
    done = soda("scan", CLEAN_MODEL, "-d", few, "--method", "soda", "--threads", 1)
    assert done.stderr == ""


def test_work_of_which_nothing_is_known_is_told_by_its_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "LINE_SECONDS", 0.3)
    with output.ProgressBar():
        time.sleep(0.5)
    assert re.match(r"onnx-soda: at work: \d+ s\.\n", capsys.readouterr().err)


def test_quiet_shows_none() -> None:
    with terminal() as screen:
        process = start((*SLOW, "--quiet"), stdout=subprocess.PIPE, stderr=screen.end)
        process.communicate(timeout=120)
    assert process.returncode in EXIT_CODES.values()
    assert screen.text == ""


def test_a_file_gets_neither_bar_nor_colours_even_if_the_environment_asks_for_them() -> None:
    done = soda(*SLOW, FORCE_COLOR="1", TTY_COMPATIBLE="1")
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    verdict = done.stdout.splitlines()[0].removeprefix("digits-clean.onnx: ").lower()
    assert done.returncode == EXIT_CODES[verdict]
    assert "720 images of 10 classes, accuracy 9" in done.stdout
    assert str(CLEAN_MODEL.parent) not in done.stdout


def test_a_scan_that_is_interrupted_twice_is_no_verdict() -> None:
    with terminal() as screen:
        process = start(SLOWER, stdout=subprocess.PIPE, stderr=screen.end)
        try:
            screen.wait_for(LONGER_BAR)
        finally:
            (child,) = psutil.Process(process.pid).children()
            child.suspend()  # else it may be done before the second one
            process.send_signal(signal.SIGINT)
            screen.wait_for("Ctrl-C again ends it at once")
            process.send_signal(signal.SIGINT)
            report, _ = process.communicate(timeout=60)
    assert process.returncode not in EXIT_CODES.values()
    assert report == b""
    assert "Traceback" not in screen.text


def test_a_reader_that_went_away_is_no_verdict(tmp_path: Path) -> None:
    model, _ = write_grey_case(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    done = soda("scan", model, stdout=writing)
    os.close(writing)
    assert done.returncode == 2
    assert "Broken pipe" in complaint(done.stderr)


# --- hostile names

EVIL = "[red]\x1b[2J\x1b]0;owned\x07\u202e:bomb:[/red]"
# Everything of EVIL that a terminal must not get.
COMMANDS = ("\x1b[2J", "\x1b]0", "\x07", "\u202e")
INERT = r"[red]\x1b[2J\x1b]0;owned\x07\u202e:bomb:[/red]"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and a clean set whose names would clear the screen and colour the text."""
    folder = tmp_path_factory.mktemp("hostile")
    proto = build("features_and_logits")
    proto.producer_name = f"producer {EVIL}"
    names = {"x": f"input {EVIL}", "h": f"layer {EVIL}", "y": f"logits {EVIL}",
             "embedding": f"other {EVIL}"}  # fmt: skip
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*proto.graph.input, *proto.graph.output):
        value.name = names.get(value.name, value.name)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = f"batch {EVIL}"
    onnx.checker.check_model(proto)
    # A slash cannot be in a file's name.
    model, data = folder / f"{EVIL.replace('/', '')}.onnx", folder / f"set{EVIL[:6]}.h5"
    model.write_bytes(proto.SerializeToString())
    images, labels = grey_pixels()
    with h5py.File(data, "w") as file:
        file["images"], file["labels"] = images, labels
        file.attrs["class_names"] = json.dumps([f"{number} {EVIL}" for number in range(3)])
    return model, data


def inert(text: str) -> None:
    for words in COMMANDS:
        assert words not in text


def test_hostile_names_are_printed_inert(hostile: tuple[Path, Path]) -> None:
    model, data = hostile
    for done in (soda("scan", model, "-d", data), invoke("inspect", model)):
        assert "\x1b" not in done.stdout + done.stderr
        inert(done.stdout + done.stderr)
        # Long names are folded; what was folded is put together again.
        told = "".join(done.stdout.split())
        for name in ("producer", "layer", "logits", "input", "batch", "other"):
            assert "".join(f"{name} {INERT}".split()) in told


def test_hostile_names_are_inert_on_a_terminal_too(hostile: tuple[Path, Path]) -> None:
    model, data = hostile
    with terminal() as screen:
        process = start(("scan", model, "-d", data), stdout=screen.end, stderr=screen.end)
        process.wait(timeout=60)
    inert(screen.text)
    assert r"\x1b[2J" in screen.text
    assert "\x1b[1m" in screen.text, "its own colours"


def test_hostile_names_leave_json_whole(hostile: tuple[Path, Path]) -> None:
    model, data = hostile
    done = soda("scan", model, "-d", data, "-f", "json")
    assert done.stdout.isascii()
    inert(done.stdout)
    report = checked(done.stdout, done.returncode)
    assert report["model"]["file"] == model.name
    assert report["model"]["penultimate"] == f"layer {EVIL}"
    assert report["dataset"]["class_names"][2] == f"2 {EVIL}"


def test_hostile_names_in_errors(hostile: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = hostile
    for arguments in (
        ("scan", tmp_path / model.name),
        ("scan", model, "-d", data, "--layer", f"no {EVIL}"),
        ("scan", model, "--preprocess", EVIL, "-d", data),
    ):
        done = invoke(*arguments)
        assert done.exit_code == 2
        inert(done.stderr)
        assert r"\x1b[2J" in complaint(done.stderr)


def test_names_that_the_terminal_has_no_letters_for(tmp_path: Path) -> None:
    model, _ = write_grey_case(tmp_path)
    images, labels = grey_pixels()
    with h5py.File(tmp_path / "named.h5", "w") as file:
        file["images"], file["labels"] = images, labels
        file.attrs["class_names"] = json.dumps(["größer", "猫", "dog"])
    done = soda("scan", model, "-d", tmp_path / "named.h5", PYTHONIOENCODING="ascii")
    assert done.returncode in EXIT_CODES.values()
    assert done.stderr == ""
    assert r"gr\xf6\xdfer" in done.stdout
    assert r"\u732b" in done.stdout
