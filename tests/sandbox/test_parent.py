"""What the parent does with a child that crashes, hangs, lies or talks without end.

The child's program is replaced by a few lines that do just that, in a real process.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from onnx_soda._api import inspect_file, scan_file
from onnx_soda._errors import (
    CrashError,
    MemoryLimitError,
    ModelFileError,
    SodaError,
    TimeLimitError,
)
from onnx_soda._options import Limits
from onnx_soda._report.json import to_json
from onnx_soda._sandbox import process
from onnx_soda._sandbox.jobs import InspectJob, ScanJob
from onnx_soda._sandbox.parent import run_job

FIXTURES = Path(__file__).parents[2] / "fixtures"
MODEL = FIXTURES / "digits-clean.onnx"
Replace = Callable[[str], None]


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Return a function that replaces the child's program."""

    def replace(program: str) -> None:
        start = "import json, os, sys, time\nread = sys.stdin.buffer.readline\nread(); read()\n"
        monkeypatch.setattr(process, "_BOOT", start + program)

    return replace


def ask(seconds: float = 30, memory: int = 2**30) -> object:
    return run_job(InspectJob(str(MODEL)), Limits(memory, seconds)).answer


def test_an_answer_comes_through_with_what_held_the_child() -> None:
    done = run_job(InspectJob(str(MODEL)), Limits())
    assert done.answer == inspect_file(MODEL, limits=None)
    assert done.sandbox.active
    assert done.sandbox.memory == Limits().memory


def test_errors_come_through_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07garbage")
    with pytest.raises(ModelFileError) as there:
        inspect_file(tmp_path / "broken.onnx")
    with pytest.raises(ModelFileError) as here:
        inspect_file(tmp_path / "broken.onnx", limits=None)
    assert (there.value.message, there.value.advice) == (here.value.message, here.value.advice)


@pytest.mark.parametrize(
    "program",
    [
        "print('hello', flush=True)",
        "print('[' * 100000, flush=True)",
        'print(\'{"type": "answer", "value": {"file": 3}}\', flush=True)',
        'print(\'{"type": "answer", "value": \' + \'[\' * 100000, flush=True)',
        'print(\'{"type": "step", "stage": 5, "done": 1, "total": 1}\', flush=True)',
        'print(\'{"type": "order"}\', flush=True)',
        "os.write(1, b'\\xff\\xfe\\n')",
        "sys.exit(0)",
        "sys.exit(1)",
        "os.kill(os.getpid(), 11)",
        "import ctypes; ctypes.string_at(0)",
    ],
)
def test_nonsense_and_crashes_are_errors_of_ours(child: Replace, program: str) -> None:
    child(program)
    with pytest.raises(CrashError) as caught:
        ask()
    assert "Traceback" not in caught.value.message


def test_a_long_answer_comes_through_though_the_child_is_gone_before_it_is_read(
    child: Replace,
) -> None:
    """What a reference of 200 classes says takes 118 MiB; putting it together takes a while."""
    child(
        "text = 'm' * (240 * 2**20)\n"
        "line = json.dumps(dict(type='failure', kind='ModelFileError', message=text, advice='', "
        "rule_id=None, trace=''))\n"
        "sys.stdout.write(line + '\\n'); sys.stdout.flush(); os._exit(0)"
    )
    with pytest.raises(ModelFileError) as caught:
        ask(seconds=100)
    assert len(caught.value.message) == 240 * 2**20


def test_a_failure_of_an_unknown_kind_is_a_crash(child: Replace) -> None:
    child(
        "print(json.dumps(dict(type='failure', kind='SystemExit', message='m', advice='', "
        "rule_id=None, trace='')), flush=True)"
    )
    with pytest.raises(CrashError, match="m"):
        ask()


def test_a_child_that_hangs_is_stopped(child: Replace) -> None:
    child("time.sleep(1000)")
    begin = time.monotonic()
    with pytest.raises(TimeLimitError, match="took over 1 s"):
        ask(seconds=1)
    # Not waited for: it would sleep for 1,000 s. How soon depends on what else the machine does.
    assert time.monotonic() - begin < 100


def test_what_a_scan_had_told_before_it_hung_is_kept(child: Replace) -> None:
    report = replace(scan_file(MODEL, limits=None), stopped="time limit")
    line = json.dumps({"type": "interim", "value": json.loads(to_json(report))})
    child(f"print({line!r}, flush=True); time.sleep(1000)")
    done = run_job(ScanJob(str(MODEL)), Limits(2**30, 2))
    assert done.answer == report
    assert done.sandbox.active


def test_what_a_child_had_told_before_it_crashed_is_no_answer(child: Replace) -> None:
    report = replace(scan_file(MODEL, limits=None), stopped="time limit")
    line = json.dumps({"type": "interim", "value": json.loads(to_json(report))})
    child(f"print({line!r}, flush=True); os.abort()")
    with pytest.raises(CrashError):
        run_job(ScanJob(str(MODEL)), Limits(2**30, 30))


def test_a_child_that_talks_without_end_is_stopped(child: Replace) -> None:
    child(
        "line = json.dumps(dict(type='step', stage='s', done=1, total=2)).encode() + b'\\n'\n"
        "while True: os.write(1, line)"
    )
    with pytest.raises(TimeLimitError):
        ask(seconds=1)


def test_a_line_without_end_takes_no_memory_without_end(child: Replace) -> None:
    child("while True: os.write(1, b'[' * 2**20)")
    before = psutil.Process().memory_info().rss
    with pytest.raises(SodaError):
        ask(seconds=20)
    assert psutil.Process().memory_info().rss - before < 2**30


def test_printing_to_stderr_without_end_takes_no_memory(child: Replace) -> None:
    child("while True: os.write(2, b'x' * 2**16)")
    before = psutil.Process().memory_info().rss
    with pytest.raises(TimeLimitError):
        ask(seconds=1)
    assert psutil.Process().memory_info().rss - before < 2**27


def test_memory_is_watched_where_the_child_does_not_say_that_it_is_limited(
    child: Replace,
) -> None:
    child("kept = bytearray(os.urandom(300 * 2**20)); time.sleep(1000)")
    with pytest.raises(MemoryLimitError, match="over 200 MiB"):
        ask(memory=200 * 2**20)


@pytest.mark.parametrize("words", ["std::bad_alloc", "MemoryError", "Cannot allocate memory"])
def test_a_child_that_ends_for_want_of_memory_says_so(child: Replace, words: str) -> None:
    child(f"print({words!r}, file=sys.stderr); os.abort()")
    with pytest.raises(MemoryLimitError):
        ask()


def test_what_a_child_started_ends_with_it(child: Replace, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    child(
        "child = os.fork()\n"
        "if child == 0: time.sleep(1000)\n"
        f"open({str(note)!r}, 'w').write(str(child)); os._exit(0)"
    )
    with pytest.raises(CrashError):
        ask(seconds=5)
    started = int(note.read_text())
    end = time.monotonic() + 5
    while psutil.pid_exists(started) and time.monotonic() < end:
        time.sleep(0.05)
    alive = psutil.pid_exists(started)
    assert not alive or psutil.Process(started).status() == psutil.STATUS_ZOMBIE


def test_the_environment_stays_behind(
    child: Replace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    note = tmp_path / "env"
    child(f"open({str(note)!r}, 'w').write(json.dumps(dict(os.environ)))")
    with pytest.raises(CrashError):
        ask()
    seen = json.loads(note.read_text())
    assert "canary" not in str(seen)
    assert {"HOME", "TMPDIR", "LANG"} <= set(seen)
    assert not Path(seen["TMPDIR"]).exists()


def test_a_scan_says_what_held_it() -> None:
    here = scan_file(MODEL, limits=None)
    there = scan_file(MODEL)
    assert not here.environment.sandbox.active
    assert here.environment.sandbox.gaps
    assert there.environment.sandbox.active
    assert (here.verdict, here.evidence) == (there.verdict, there.evidence)


def test_no_child_and_no_folder_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    inspect_file(MODEL)
    with pytest.raises(TimeLimitError):
        run_job(InspectJob(str(MODEL)), Limits(seconds=0.01))
    assert not list(tmp_path.iterdir())
    assert not psutil.Process(os.getpid()).children()
