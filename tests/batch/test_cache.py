"""Remembered scans: never out of date, whole or not there, shared by runs that may be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from fixtures.sketches import build_sketch
from fixtures.trojans import TROJANS
from onnx_soda import _cache as cache_module
from onnx_soda._batch import scan_one
from onnx_soda._cache import Cache
from onnx_soda._data.forms import IDX_MAGIC
from onnx_soda._options import DataOptions, RuntimeOptions, ScanOptions, ScanRequest


@pytest.fixture
def request_(tmp_path: Path) -> ScanRequest:
    model = tmp_path / "m.onnx"
    model.write_bytes(build_sketch(TROJANS["plain_if"]).SerializeToString())
    return ScanRequest(model)


@pytest.fixture
def direct(request_: ScanRequest) -> ScanRequest:
    """The same, scanned in this process: a child takes a second to start."""
    return replace(request_, limits=None)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_the_second_scan_is_remembered_and_equal(request_: ScanRequest, cache: Cache) -> None:
    first, cached = scan_one(request_, cache)
    assert not cached
    again, cached = scan_one(request_, cache)
    assert cached
    assert again == first
    cache.clear()
    assert not scan_one(request_, cache)[1]


def test_whatever_a_scan_depends_on_is_in_the_key(request_: ScanRequest, cache: Cache) -> None:
    changes: list[dict[str, Any]] = [
        {"options": ScanOptions(seed=1)},
        {"options": ScanOptions(preprocess="unit")},
        {"data": request_.model},
        {"split": "test"},
        {"limits": None},
    ]
    requests = [request_, *(replace(request_, **change) for change in changes)]
    keys = [cache.key_of(request) for request in requests]
    request_.model.write_bytes(request_.model.read_bytes() + b"\x00")
    keys.append(cache.key_of(request_))
    assert None not in keys
    assert len(set(keys)) == len(keys)


def test_the_number_of_threads_is_not(request_: ScanRequest, cache: Cache) -> None:
    """So `--jobs 2`, where each scan has half of the cores, finds what `--jobs 1` stored."""
    other = replace(request_, options=ScanOptions(runtime=RuntimeOptions(threads=7)))
    assert cache.key_of(other) == cache.key_of(request_)


def test_a_clean_set_that_changes_is_read_anew(
    request_: ScanRequest, cache: Cache, tmp_path: Path
) -> None:
    data = tmp_path / "images"
    data.mkdir()
    (data / "1.png").write_bytes(b"one")
    request = replace(request_, data=data)
    first = cache.key_of(request)
    assert cache.key_of(request) == first
    (data / "1.png").write_bytes(b"another")
    second = cache.key_of(request)
    (data / "2.png").write_bytes(b"two")
    assert len({first, second, cache.key_of(request)}) == 3


@pytest.mark.parametrize("beside", ["labels.npy", "y.csv", "t10k-labels-idx1-ubyte"])
def test_labels_that_lie_beside_the_images_count(
    beside: str, request_: ScanRequest, cache: Cache, tmp_path: Path
) -> None:
    """The images are named, and their labels change."""
    images, labels = tmp_path / "images.npy", tmp_path / beside
    options = ScanOptions()
    if beside.startswith("t10k"):
        images = tmp_path / "t10k-images-idx3-ubyte"
        images.write_bytes(IDX_MAGIC + b"\3")
    elif beside.endswith(".csv"):
        images = tmp_path / "set"
        images.mkdir()
        options = ScanOptions(data=DataOptions(labels=str(labels)))
    else:
        np.save(images, np.zeros((1, 2, 2), np.uint8))
    labels.write_bytes(b"one")
    request = replace(request_, data=images, options=options)
    first = cache.key_of(request)
    labels.write_bytes(b"another")
    assert None not in (first, cache.key_of(request))
    assert first != cache.key_of(request)


def test_a_clean_set_with_links_to_folders_is_not_remembered(
    request_: ScanRequest, cache: Cache, tmp_path: Path
) -> None:
    """What lies behind them is not looked through for changes."""
    (tmp_path / "store").mkdir()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "store")
    assert cache.key_of(replace(request_, data=tmp_path / "set")) is None


def test_a_scan_that_ended_early_is_not_remembered(direct: ScanRequest, cache: Cache) -> None:
    report, _ = scan_one(direct, None)
    key = cache.key_of(direct)
    assert key is not None
    cache.store(key, replace(report, stopped="time limit"))
    assert cache.load(key) is None
    cache.store(key, report)
    assert cache.load(key) == report


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"verdict": "clean"}', b"\xff", b"[" * 100_000]
)
def test_a_file_that_is_no_report_is_replaced(
    content: bytes, direct: ScanRequest, cache: Cache
) -> None:
    scan_one(direct, cache)
    (entry,) = cache.folder.iterdir()
    entry.write_bytes(content)
    report, cached = scan_one(direct, cache)
    assert not cached
    kept = json.loads(entry.read_text(encoding="utf-8"))
    assert kept["report"]["verdict"] == report.verdict


def test_a_file_of_another_scan_is_no_hit(direct: ScanRequest, cache: Cache) -> None:
    scan_one(direct, cache)
    (first,) = cache.folder.iterdir()
    other = replace(direct, options=ScanOptions(seed=1))
    scan_one(other, cache)
    (second,) = (path for path in cache.folder.iterdir() if path != first)
    second.write_bytes(first.read_bytes())
    assert not scan_one(other, cache)[1]


def test_what_cannot_be_read_is_left_to_the_scan(request_: ScanRequest, cache: Cache) -> None:
    pipe = request_.model.with_name("pipe")
    os.mkfifo(pipe)
    for data in (pipe, request_.model.with_name("missing.h5")):
        assert cache.key_of(replace(request_, data=data)) is None
    assert cache.key_of(replace(request_, model=pipe)) is None


def test_links_in_the_folder_are_not_followed(
    direct: ScanRequest, cache: Cache, tmp_path: Path
) -> None:
    scan_one(direct, cache)
    (entry,) = cache.folder.iterdir()
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    assert not scan_one(direct, cache)[1]


def test_the_oldest_go_first(
    direct: ScanRequest, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_one(direct, cache)
    held = cache.size().size
    monkeypatch.setattr(cache_module, "_MOST_BYTES", int(1.5 * held))
    other = replace(direct, options=ScanOptions(seed=1))
    time.sleep(0.05)
    scan_one(other, cache)
    assert cache.size().scans == 1
    assert scan_one(other, cache)[1]


def batch(folder: Path, cache: Path, jobs: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "onnx_soda", "scan", str(folder), "--quiet", "--format", "json",
         "--cache-dir", str(cache), "--jobs", str(jobs)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("plain_if", "colour_sum_where", "steep_clip"):
        content = build_sketch(TROJANS[name]).SerializeToString()
        (folder / f"{name}.onnx").write_bytes(content)
    return folder


def test_two_runs_at_once_over_one_cache(models: Path, tmp_path: Path) -> None:
    runs = [batch(models, tmp_path / "cache") for _ in range(2)]
    said = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [1, 1], said
    for output, _ in said:
        assert json.loads(output)["summary"]["backdoor"] == 3
    assert Cache(tmp_path / "cache").size().scans == 3
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".json"}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_is_killed_leaves_the_cache_usable_and_no_process(
    jobs: int, models: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    run = batch(models, cache, jobs)
    end = time.monotonic() + 60
    while not list(cache.glob("*.json")) and time.monotonic() < end:
        time.sleep(0.02)
    family = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert psutil.wait_procs(family, timeout=20)[1] == []
    assert Cache(cache).size().scans >= 1
    again = batch(models, cache, jobs)
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 1, errors
    assert json.loads(output)["summary"] == {
        "clean": 0, "backdoor": 3, "inconclusive": 0, "unsafe": 0, "failed": 0,
    }  # fmt: skip


def test_what_is_larger_than_anything_read_is_no_ones_key(
    request_: ScanRequest, cache: Cache
) -> None:
    """Files that are mostly holes take no room on the disk and minutes to read."""
    hole = request_.model.with_name("hole.onnx")
    hole.touch()
    os.truncate(hole, 2**40)
    assert cache.key_of(replace(request_, model=hole)) is None
    assert cache.key_of(replace(request_, data=hole)) is None


READING = """
import dataclasses, random, sys, threading
from onnx_soda._system import read_json

sys.setswitchinterval(1e-6)
TEXT = b'{"inner": {"number": 1, "more": [1, 2]}, "others": [{"number": 3, "more": []}]}'

def fresh():
    inner = dataclasses.make_dataclass("Inner", [("number", int), ("more", tuple[int, ...])])
    return dataclasses.make_dataclass("Outer", [("inner", inner), ("others", tuple[inner, ...])])

def read(kind, begin, wait):
    begin.wait()
    for _ in range(wait):
        pass
    assert read_json(TEXT, kind).inner.number == 1

for _ in range(400):
    kind, begin = fresh(), threading.Barrier(2)
    threads = [
        threading.Thread(target=read, args=(kind, begin, random.randrange(3000) * late))
        for late in (0, 1)
    ]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""


def test_threads_may_read_a_class_for_the_first_time_at_once() -> None:
    """Several scans at once do: msgspec by itself ends the process then, sooner or later."""
    done = subprocess.run([sys.executable, "-c", READING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
