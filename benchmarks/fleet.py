"""Measures fleets: what kills leave behind, throughput, and ten thousand results.

    python -m benchmarks.fleet [--part kills|pace|store ...] [--models N] [--workers N]

kills: models of known kind, half of them with clean images, are scanned by `--engine local`, and on
a Ray cluster of this machine. There a worker and then the process that began the run are killed
with SIGKILL, five times, each time after a number of results that is drawn; then the command is
given once more. The results are compared, less what the clock says.

pace: the same models, fewer: single commands, and both engines with one and with all workers. What
an engine and the results cost by themselves is told by files that are missing: no scan begins. The
time of a Ray run begins with its first result, since what Ray needs to start is told beside it.

store: real reports under other names, 10,000 of them, and the time of the commands on them.

Everything is in build/fleet; what is there is not scanned again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import psutil
from onnx import numpy_helper

from benchmarks.common import FIXTURES, machine_facts, markdown_table
from fixtures.lookalikes import LOOKALIKES
from fixtures.sketches import build_sketch
from fixtures.trojans import TROJANS
from onnx_soda._fleet.engines import SETTINGS, LocalEngine
from onnx_soda._fleet.manifest import Asked, FleetRequest, read_manifest
from onnx_soda._fleet.run import scan_fleet
from onnx_soda._fleet.store import FILE, Store
from onnx_soda._options import ScanRequest

_PLACE = Path(__file__).resolve().parents[1] / "build" / "fleet"
_PARTS = ("kills", "pace", "store")
_ROUNDS = 5
_SIMULATED = 10_000
# Of each class of the bundled clean images; few, so that a scan takes a second.
_IMAGES = 10
# Weights are changed by this share: enough for another digest, too little for another verdict.
_CHANGE = 1e-6
# What differs between two scans of the same model.
_CLOCKS = ("timing", "created")
_PATIENCE = 1200.0
# How often a cluster is started: Ray gives itself 30 seconds, too few on a machine that is busy.
_STARTS = 8
_TICK = 0.2


# --- models


def _fleet(folder: Path, count: int) -> Path:
    """Write models, and a manifest of them."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "fleet.csv"
    _write_images(folder / "clean.npz")
    sources = {**TROJANS, **LOOKALIKES}
    graphs = [build_sketch(sketch) for sketch in sources.values()]
    digits = [onnx.load(FIXTURES / f"digits-{name}.onnx") for name in ("backdoored", "clean")]
    rng, rows = np.random.default_rng(0), ["model,data"]
    for number in range(count):
        with_images = number % 2 == 0
        group = digits if with_images else graphs
        path = folder / f"{number:05}.onnx"
        path.write_bytes(_changed(group[number // 2 % len(group)], rng).SerializeToString())
        rows.append(f"{path.name},{'clean.npz' if with_images else ''}")
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return manifest


def _changed(model: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    """Return a copy with one tensor of weights changed a little."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = [one for one in copy.graph.initializer if one.data_type == onnx.TensorProto.FLOAT]
    largest = max(tensors, key=lambda one: int(np.prod(one.dims)))
    values = numpy_helper.to_array(largest)
    noise = 1 + _CHANGE * rng.standard_normal(values.shape)
    largest.CopyFrom(numpy_helper.from_array((values * noise).astype(np.float32), largest.name))
    return copy


def _write_images(path: Path) -> None:
    with h5py.File(FIXTURES / "digits-clean.h5") as file:
        images, labels = file["images"][()], file["labels"][()]
    few = np.concatenate([np.flatnonzero(labels == number)[:_IMAGES] for number in range(10)])
    np.savez(path, images=images[few], labels=labels[few])


# --- commands


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "onnx_soda", *map(str, arguments)]


def _scan(manifest: Path, results: Path, *more: object) -> list[str]:
    usual = ("--method", "soda", "--threads", 1, "--quiet")
    return _command("fleet", "scan", manifest, "-o", results, *usual, *more)


def _run(command: Sequence[str]) -> float:
    """Run a command, and return the seconds that it took."""
    begin = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - begin


def _kept(results: Path) -> int:
    if not (results / FILE).is_file():
        return 0
    try:
        with sqlite3.connect(results / FILE, timeout=_PATIENCE) as base:
            (count,) = base.execute("SELECT count(*) FROM results").fetchone()
    except sqlite3.OperationalError:  # the tables are not there yet
        return 0
    return int(count)


def _reports(results: Path) -> dict[str, Any]:
    """Return the report of each model, less what the clock says."""
    lines = results / "all.jsonl"
    subprocess.run(_command("fleet", "export", results, "-o", lines), check=True)
    found: dict[str, Any] = {}
    for line in lines.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["place"] in found:
            raise RuntimeError(f"two results of {row['place']}")
        found[row["place"]] = {
            name: value for name, value in row["outcome"].items() if name not in _CLOCKS
        }
    return found


# --- kills


@dataclass(frozen=True)
class _Kill:
    """A run that was killed.

    Attributes:
        before: Results when it began.
        worker: Results when a worker was killed.
        driver: Results when the process that began the run was killed.
    """

    before: int
    worker: int
    driver: int


def _kills(models: int, workers: int) -> None:
    manifest = _fleet(_PLACE / f"models-{models}", models)
    calm, torn = _PLACE / "calm", _PLACE / "torn"
    if _kept(calm) < models:
        _run(_scan(manifest, calm, "--jobs", workers))
    shutil.rmtree(torn, ignore_errors=True)
    rng, kills = np.random.default_rng(0), []
    with cluster(workers) as (address, head):
        command = _scan(manifest, torn, "--engine", "ray", "--address", address)
        for number in range(_ROUNDS):
            share = models // (_ROUNDS + 1)
            kills.append(_torn(command, torn, share, rng, head))
            print(f"kill {number + 1}: {kills[-1]}", file=sys.stderr, flush=True)
        last = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(last.stdout.splitlines()[-1], file=sys.stderr)
    one, other = _reports(calm), _reports(torn)
    rows = [(n, one.before, one.worker, one.driver) for n, one in enumerate(kills, 1)]
    columns = ("run", "results before", "when a worker is killed", "when the run is killed")
    print(markdown_table(columns, rows), end="\n\n")
    same = sum(one.get(place) == report for place, report in other.items())
    print(f"{models} models: {len(other)} results, {same} equal to those of the undisturbed run.")


def _torn(
    command: Sequence[str], results: Path, share: int, rng: np.random.Generator, head: int
) -> _Kill:
    """Begin a run, kill a worker of it, then itself."""
    before = _kept(results)
    first = int(rng.integers(1, share // 2 + 1))
    then = int(rng.integers(1, share // 2 + 1))
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    at_worker = _wait(results, before + first, run)
    workers = [one for one in below(head) if is_at_work(one)]
    if not workers:
        raise RuntimeError("there is no worker to kill")
    workers[int(rng.integers(len(workers)))].kill()
    at_driver = _wait(results, at_worker + then, run)
    run.send_signal(signal.SIGKILL)
    run.wait()
    return _Kill(before, at_worker, at_driver)


def _wait(results: Path, count: int, run: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + _PATIENCE
    while (kept := _kept(results)) < count:
        if run.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the run ended, or took too long, with {kept} results")
        time.sleep(_TICK)
    return kept


@contextmanager
def cluster(workers: int) -> Iterator[tuple[str, int]]:
    """Start a Ray cluster of this machine; yield its address, and the process that holds it.

    Without what it can do without, to start within its time.
    """
    token = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_AUTH_MODE": "token"}
    os.environ.update(token | SETTINGS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(_STARTS):
            head = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                    *(f"--port={port}", f"--num-cpus={workers}", f"--temp-dir={folder}"),
                    *("--include-dashboard=false", "--object-store-memory=83886080"),
                    *("--disable-usage-stats", "--no-monitor", "--include-log-monitor=false"),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert head.stdout is not None  # noqa: S101 - asked for
            if any("Ray runtime started" in line for line in head.stdout):
                break
            print("Ray did not start in its 30 seconds", file=sys.stderr, flush=True)
            _end(head)
        else:
            raise RuntimeError("Ray does not start")
        try:
            yield f"127.0.0.1:{port}", head.pid
        finally:
            _end(head)


def _end(head: subprocess.Popen[str]) -> None:
    """End a cluster, and what may be left of it."""
    with suppress(psutil.NoSuchProcess):
        for one in below(head.pid):
            with suppress(psutil.NoSuchProcess):
                one.kill()
    head.kill()
    head.wait()
    if head.stdout is not None:
        head.stdout.close()


def below(pid: int) -> list[psutil.Process]:
    """Return all processes that a process has begun, and those that they have."""
    return list(psutil.Process(pid).children(recursive=True))


def is_at_work(process: psutil.Process) -> bool:
    """Tell whether a process is a worker of Ray with a task."""
    try:
        return bool(process.cmdline()) and process.cmdline()[0].startswith("ray::scan_in_task")
    except psutil.Error:
        return False


# --- throughput


def _pace(models: int, workers: int) -> None:
    manifest = _fleet(_PLACE / f"models-{models}", models)
    paths = sorted(manifest.parent.glob("*.onnx"))
    rows: list[tuple[object, ...]] = []
    before = _processor()
    seconds = _alone(paths, manifest.parent / "clean.npz")
    processor = f"{(_processor() - before) / models:.2f}"
    rows.append(
        ("single commands", 1, f"{seconds:.0f}", f"{seconds / models:.2f}", processor, "", "")
    )
    for engine in ("local", "ray"):
        for jobs in (1, workers):
            more = ("--engine", engine, "--jobs", jobs)
            rows.append((engine, jobs, *_paced(manifest, models, more)))
    missing = manifest.parent / "missing.txt"
    missing.write_text("".join(f"none-{number}.onnx\n" for number in range(models)))
    for engine in ("local", "ray"):
        more = ("--engine", engine, "--jobs", workers)
        rows.append((f"{engine}, no scan", workers, *_paced(f"@{missing}", models, more)))
    columns = (
        "engine", "at once", "seconds", "a model", "processor seconds a model", "until the first",
        "memory, MiB",
    )  # fmt: skip
    print(markdown_table(columns, rows))


def _alone(paths: Sequence[Path], images: Path) -> float:
    usual = ("--method", "soda", "--threads", 1, "--quiet", "--exit-zero")
    total = 0.0
    for number, path in enumerate(paths):
        data = ("--data", images) if number % 2 == 0 else ()
        total += _run(_command("scan", path, *usual, *data))
    return total


def _paced(manifest: Path | str, models: int, more: Sequence[object]) -> tuple[str, ...]:
    """Run a fleet.

    Returns:
        Seconds, those of a model behind the first, processor seconds of a model, those until the
        first result, and the most memory.
    """
    results = _PLACE / "paced"
    shutil.rmtree(results, ignore_errors=True)
    begin, first, most, before = time.perf_counter(), 0.0, 0, _processor()
    command = _scan(Path(str(manifest)), results, *more)
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while run.poll() is None:
        if not first and _kept(results):
            first = time.perf_counter() - begin
        most = max(most, _memory(run.pid))
        time.sleep(_TICK)
    seconds = time.perf_counter() - begin
    if _kept(results) != models:
        raise RuntimeError(f"{_kept(results)} results of {models}")
    each = (seconds - first) / max(models - 1, 1)
    # Workers of Ray are not all waited for, and so not counted.
    processor = "" if "ray" in more else f"{(_processor() - before) / models:.2f}"
    return (
        f"{seconds:.0f}",
        f"{each:.2f}",
        processor,
        f"{first:.0f}",
        str(most // 2**20),
    )


def _processor() -> float:
    """Return the processor seconds of all processes that were begun here and are over."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(pid: int) -> int:
    """Return the bytes of a run and of what belongs to its engine; children that scan left out."""
    total = 0
    try:
        for one in (psutil.Process(pid), *below(pid)):
            if "-I" not in one.cmdline():  # as children that scan are started
                total += one.memory_info().rss
    except psutil.Error:
        return 0
    return total


# --- ten thousand results


def _store(models: int) -> None:
    manifest = _fleet(_PLACE / f"models-{models}", models)
    some, many = _PLACE / "some", _PLACE / "many"
    request = ScanRequest(Path())
    entries = [entry.asked(request) for entry in read_manifest(str(manifest))]
    entries = [replace(one, request=_by_soda(one.request)) for one in entries]
    with Store(some) as store:
        scan_fleet(entries, store, LocalEngine())
        outcomes = [store.outcome(row.key) for row in store.rows()]
    shutil.rmtree(many, ignore_errors=True)
    keys = [sha256(str(number).encode()).hexdigest() for number in range(_SIMULATED)]
    asked = [
        replace(entries[number % models], place=f"hub/{number:05}/model.onnx", task="digits")
        for number in range(_SIMULATED)
    ]
    with Store(many) as store:
        rows = list(_stored(store, asked, keys, outcomes))
    for name, command, made in _commands(many):
        before = _processor()
        seconds = _run(command)
        size = f"{made.stat().st_size / 2**20:.1f}" if made else ""
        rows.append((name, f"{seconds:.1f}", f"{_processor() - before:.1f}", size))
    columns = (f"{_SIMULATED:,} results", "seconds", "of the processor", "file, MiB")
    print(markdown_table(columns, rows))


def _by_soda(request: FleetRequest) -> FleetRequest:
    return replace(request, options=replace(request.options, method="soda"))


def _stored(
    store: Store, asked: Sequence[Asked], keys: Sequence[str], outcomes: Sequence[Any]
) -> Iterator[tuple[str, str, str, str]]:
    def timed(name: str, work: Callable[[], None]) -> tuple[str, str, str, str]:
        begin, before = time.perf_counter(), time.process_time()
        work()
        processor = time.process_time() - before
        size = store.file.stat().st_size / 2**20
        return name, f"{time.perf_counter() - begin:.1f}", f"{processor:.1f}", f"{size:.1f}"

    def put() -> None:
        for number, key in enumerate(keys):
            store.put(key, outcomes[number % len(outcomes)], 1.0)

    yield timed("register the models", lambda: store.register(zip(asked, keys, strict=True)))
    yield timed("keep the results, one by one", put)


def _commands(results: Path) -> Iterator[tuple[str, list[str], Path | None]]:
    """Yield commands on results, each with the file that it makes."""
    yield "`fleet status`", _command("fleet", "status", results), None
    yield "`fleet status -f json`", _command("fleet", "status", results, "-f", "json"), None
    yield "`fleet show`", _command("fleet", "show", results, "hub/05000/model.onnx"), None
    for form in ("html", "jsonl", "parquet", "json", "sarif", "markdown", "junit"):
        out = results / f"all.{form}"
        command = _command("fleet", "export", results, "-f", form, "-o", out)
        yield f"`fleet export -f {form}`", command, out


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", nargs="+", choices=_PARTS, default=_PARTS)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], None]] = {
        "kills": lambda: _kills(arguments.models, arguments.workers),
        "pace": lambda: _pace(arguments.models, arguments.workers),
        "store": lambda: _store(arguments.models),
    }
    print(machine_facts(), end="\n\n")
    for name in arguments.part:
        parts[name]()


if __name__ == "__main__":
    main()
