"""Files made to hurt what reads them, given to the real command.

Every one has to end within ten seconds and one gigabyte with an exit code from 0 to 4, without
traceback, with nothing written, and without a look at a file outside the model's folder.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.hostile import ATTACKS, RUNTIME_BOMBS
from fixtures.mutants import SEEDS, mutant
from fixtures.stolen_weights import CANARY, cached_like_hugging_face

ROOT = Path(__file__).parents[1]
SECONDS = 10.0
BYTES = 2**30
# Mutants of `make test`; the slow test has all of them.
SOME = 300

pytestmark = pytest.mark.skipif(not hasattr(os, "wait4"), reason="memory is measured by wait4")


@dataclass(frozen=True)
class End:
    """How a command ended, and what it and its child took."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    memory: int


def run(*arguments: str | Path, cwd: Path) -> End:
    facts = cwd / "facts"
    command = [sys.executable, "-m", "onnx_soda", *map(str, arguments)]
    done = subprocess.run(
        [sys.executable, ROOT / "fixtures/measured.py", facts, *command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(cwd)},
    )  # fmt: skip
    assert [path.name for path in cwd.iterdir()] == ["facts"], "temporary files are left"
    return End(stdout=done.stdout, stderr=done.stderr, **json.loads(facts.read_text()))


def listing(folder: Path) -> list[tuple[str, int]]:
    """Return the files below a folder with their time of change."""
    paths = [path for path in folder.rglob("*") if not path.is_dir()]
    return sorted((str(path), path.lstat().st_mtime_ns) for path in paths)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A folder for the attack, and one for the command's own files."""
    attack, own = tmp_path / "attack", tmp_path / "own"
    attack.mkdir()
    own.mkdir()
    return attack, own


def never_read(canary: Path) -> None:
    """Put a file's time of reading in the past, from where a reader moves it."""
    os.utime(canary, (1, time.time()))


def was_read(canary: Path) -> bool:
    return canary.stat().st_atime != 1


@pytest.fixture(scope="module")
def reading_shows(tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Whether this file system notes when a file is read at all."""
    probe = tmp_path_factory.mktemp("probe") / "file"
    probe.write_bytes(b"x")
    never_read(probe)
    probe.read_bytes()
    return was_read(probe)


def harmless(end: End, codes: tuple[int, ...] = (0, 1, 2, 3, 4)) -> None:
    assert end.code in codes, end
    assert end.seconds < SECONDS, end
    assert end.memory < BYTES, end
    assert "Traceback" not in end.stderr
    assert CANARY[:16].decode() not in end.stdout + end.stderr


@dataclass(frozen=True)
class Trial:
    """An attack that was given to the command: how that ended, and what became of its files."""

    end: End
    changed: bool
    canary_read: bool


def attempt(name: str, folder: Path) -> Trial:
    attack, own = folder / "attack", folder / "own"
    attack.mkdir(parents=True)
    own.mkdir()
    model = ATTACKS[name](attack)
    canary = attack / "canary.bin"
    if canary.exists():
        never_read(canary)
    before = listing(attack)
    end = run("scan", model, "--threads", "1", cwd=own)
    return Trial(end, listing(attack) != before, canary.exists() and was_read(canary))


# One of each kind; `tests/preflight/test_attacks.py` has all of them, in one process.
FIRST_OF_KIND = set({name.partition("-")[0]: name for name in reversed(ATTACKS)}.values())


# These are damaged, or no model at all; the others are dangerous.
BROKEN = {
    "external-nul", "functions-recursive", "functions-recursive-branch", "truncated", "pipe",
    "folder", "empty", "zip",
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        name if name in FIRST_OF_KIND else pytest.param(name, marks=pytest.mark.slow)
        for name in ATTACKS
    ],
)
def test_an_attack_is_refused(name: str, tmp_path: Path, reading_shows: bool) -> None:
    trial = attempt(name, tmp_path)
    harmless(trial.end, codes=(2 if name in BROKEN else 4,))
    if name in BROKEN:
        assert trial.end.stderr.startswith("onnx-soda: error: ")
        assert len(trial.end.stderr.splitlines()) <= 2
        assert trial.end.stdout == ""
    else:
        assert trial.end.stderr == ""
        assert re.search(r"^ +SODA30\d high", trial.end.stdout, re.MULTILINE)
    assert not trial.changed
    assert not (trial.canary_read and reading_shows)


@pytest.mark.parametrize("name", RUNTIME_BOMBS)
def test_what_shows_only_when_it_runs_is_stopped_by_the_limits(
    name: str, places: tuple[Path, Path]
) -> None:
    attack, own = places
    model = RUNTIME_BOMBS[name](attack)
    data = attack / "clean"
    write_images(data)
    end = run(
        "scan", model, "-d", data, "--threads", "1", "--preprocess", "unit", "--timeout", "5",
        "--max-memory", "700", cwd=own,
    )  # fmt: skip
    # At the time limit a scan reports what it did until then, and that is nothing.
    harmless(end, codes=(2, 3))
    assert end.code == 2 or "Not examined by the detector concepts" in end.stdout


def write_images(folder: Path) -> None:
    """Write a clean set of 4 x 4 grey images for three classes."""
    import numpy as np
    from PIL import Image

    for number in range(3):
        (folder / str(number)).mkdir(parents=True)
        for seed in range(3):
            pixels = np.random.default_rng(seed).integers(0, 256, (4, 4)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / str(number) / f"{seed}.png")


def test_a_hugging_face_cache_can_be_scanned(places: tuple[Path, Path]) -> None:
    attack, own = places
    end = run("inspect", cached_like_hugging_face(attack, checksum=True), cwd=own)
    assert end.code == 0, end.stderr
    assert "external data" in end.stdout


# --- damaged files


def scan_mutants(first: int, count: int) -> list[dict[str, object]]:
    """Scan mutants in one process without a child; go on behind one that ends the process."""
    found: list[dict[str, object]] = []
    while first < (stop := first + count):
        done = subprocess.run(
            [sys.executable, "-m", "fixtures.mutants", str(first), str(count)],
            capture_output=True, text=True, cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        lines = done.stdout.splitlines()
        whole = [json.loads(line) for line in lines if line.endswith("}")]
        found += whole
        first += len(whole)
        if first < stop:
            found.append({"seed": first, "crashed": done.returncode})
            first += 1
        count = stop - first
    return found


def check_mutants(results: list[dict[str, object]], folder: Path) -> None:
    """Every mutant ended well; one that ended the process does so in the child alone."""
    for result in results:
        if "crashed" in result:
            model = folder / "mutant.onnx"
            model.write_bytes(mutant(int(str(result["seed"]))))
            (folder / "own").mkdir(exist_ok=True)
            harmless(run("scan", model, "--threads", "1", cwd=folder / "own"), codes=(2,))
            continue
        assert result["code"] in (0, 1, 2, 3, 4), result
        assert float(str(result["seconds"])) < SECONDS, result
        assert int(str(result["memory"])) < BYTES, result
        assert not result["written"], result
        stderr = str(result["stderr"])
        assert "Traceback" not in stderr
        assert "unexpected" not in stderr.split("\n")[0], result


def test_some_damaged_files_end_well(tmp_path: Path) -> None:
    results = scan_mutants(0, SOME)
    assert len(results) == SOME
    check_mutants(results, tmp_path)
    codes = {result.get("code") for result in results}
    assert {2, 3} <= codes, "some are refused, some get as far as a verdict"


@pytest.mark.slow
def test_all_damaged_files_end_well(tmp_path: Path) -> None:
    check_mutants(scan_mutants(SOME, SEEDS - SOME), tmp_path)


@pytest.mark.parametrize("seed", range(5, SOME, 60))
def test_a_damaged_file_ends_the_same_in_the_child(seed: int, places: tuple[Path, Path]) -> None:
    attack, own = places
    model = attack / "model.onnx"
    model.write_bytes(mutant(seed))
    end = run("scan", model, "--threads", "1", cwd=own)
    harmless(end)
    (alone,) = scan_mutants(seed, 1)
    assert alone.get("code", 2) == end.code
