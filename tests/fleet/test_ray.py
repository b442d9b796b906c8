"""Fleets on Ray: a worker and the run itself may be killed, and all ends as without."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.lookalikes import LOOKALIKES
from fixtures.sketches import build_sketch
from fixtures.trojans import TROJANS
from onnx_soda._fleet.engines import Answer, scan_in_task
from onnx_soda._system import read_json
from tests.cli.helpers import command, complaint, environment, soda
from tests.fleet.test_fleet import kept, outcomes, status

pytest.importorskip("ray", reason="needs the extra [ray]")

from benchmarks.fleet import below, cluster, is_at_work

MODELS = {**dict(list(TROJANS.items())[:4]), **dict(list(LOOKALIKES.items())[:4])}
USUAL = ("--method", "soda", "--threads", 1, "--quiet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, sketch in MODELS.items():
        (folder / f"{name}.onnx").write_bytes(build_sketch(sketch).SerializeToString())
    return folder


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[tuple[str, int]]:
    """The address of a Ray cluster on this machine, and the process that holds it."""
    try:
        with cluster(workers=2) as started:
            yield started
    except RuntimeError as error:
        pytest.skip(f"no Ray to test with: {error}")


def wait_for(results: Path, count: int, run: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 240
    while kept(results) < count:
        assert run.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)


# Ray takes ten seconds of both cores to start, and each run imports it.
def test_killed_workers_and_runs_change_no_result(
    folder: Path, ray_cluster: tuple[str, int], tmp_path: Path
) -> None:
    address, head = ray_cluster
    calm, torn = tmp_path / "calm", tmp_path / "torn"
    assert soda("fleet", "scan", folder, "-o", calm, *USUAL).returncode == 1
    asked = ("fleet", "scan", folder, "-o", torn, *USUAL, "--engine", "ray", "--address", address)
    run = subprocess.Popen(command(*asked), stdout=subprocess.DEVNULL, env=environment())
    wait_for(torn, 1, run)
    worker = next(one for one in below(head) if is_at_work(one))
    worker.kill()
    wait_for(torn, 3, run)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert 3 <= kept(torn) < len(MODELS)
    again = soda(*asked)
    assert again.returncode == 1, again.stderr
    assert kept(torn) == len(MODELS)
    assert outcomes(torn) == outcomes(calm)
    assert {row["attempts"] for row in status(torn)["rows"]} == {1}


@pytest.mark.slow
def test_what_no_machine_has_is_told(
    folder: Path, ray_cluster: tuple[str, int], tmp_path: Path
) -> None:
    address, _ = ray_cluster
    asked = ("fleet", "scan", folder, "-o", tmp_path, "--engine", "ray", "--address", address)
    done = soda(*asked, "--quiet", "--threads", 64)
    assert done.returncode == 2
    assert "no machine of the cluster has 64 cores" in complaint(done.stderr)


def test_a_cluster_that_does_not_answer_is_told_at_once(folder: Path, tmp_path: Path) -> None:
    asked = ("fleet", "scan", folder, "-o", tmp_path, "--engine", "ray", "--quiet")
    begin = time.monotonic()
    done = soda(*asked, "--address", "127.0.0.1:1")
    assert done.returncode == 2
    assert "Ray at 127.0.0.1:1 does not answer" in complaint(done.stderr)
    assert time.monotonic() - begin < 60
    client = soda(*asked, "--address", "ray://127.0.0.1:10001")
    assert "are not for fleets" in complaint(client.stderr)


def test_a_worker_with_another_version_scans_nothing() -> None:
    """Its results would be kept under a key that stands for this version."""
    answer: Answer = read_json(scan_in_task(b"no request at all", "another program"), Answer)
    assert answer.refused


@pytest.mark.parametrize("option", [("--address", "auto"), ("--gpus", "0.5")])
def test_options_of_ray_are_refused_without_it(
    option: tuple[str, str], folder: Path, tmp_path: Path
) -> None:
    done = soda("fleet", "scan", folder, "-o", tmp_path, *option)
    assert done.returncode == 2
    assert "is for --engine ray" in done.stderr
