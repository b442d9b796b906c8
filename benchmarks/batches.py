"""Measures what scanning many models at once saves, and what remembering saves.

    python -m benchmarks.batches [--rounds N]

Six models: the two bundled ones, each with three notes, so that no two files are equal. They are
scanned with the bundled images and `--budget quick` by the real command: one command each, all in
one, all in one with `--jobs 2`, and again with everything remembered. The ways take turns; the
table has each way's median and its share of the first one's.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnx

from benchmarks.common import FIXTURES, machine_facts, markdown_table

_MODELS = ("digits-backdoored.onnx", "digits-clean.onnx")
_COPIES = 3


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(machine_facts(), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        taken = _measure(_models(Path(folder)), Path(folder) / "cache", rounds)
    alone = statistics.median(taken["one command each"])
    rows = []
    for way, seconds in taken.items():
        middle = statistics.median(seconds)
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        rows.append((way, f"{middle:.1f}", spread, f"{middle / alone:.2f}"))
    print(markdown_table(("way", "seconds", "range", "share"), rows))


def _models(folder: Path) -> list[Path]:
    """Write models that differ in a note."""
    made = []
    for name in _MODELS:
        model = onnx.load(FIXTURES / name)
        for number in range(_COPIES):
            del model.metadata_props[:]
            model.metadata_props.add(key="copy", value=str(number))
            path = folder / f"{number}-{name}"
            onnx.save(model, path)
            made.append(path)
    return made


def _measure(models: list[Path], cache: Path, rounds: int) -> dict[str, list[float]]:
    without, remembering = ("--no-cache",), ("--cache-dir", str(cache))
    _scan(models, *remembering)

    def each() -> None:
        for one in models:
            _scan([one], *without)

    ways: dict[str, Callable[[], None]] = {
        "one command each": each,
        "one command": lambda: _scan(models, *without),
        "one command, --jobs 2": lambda: _scan(models, "--jobs", "2", *without),
        "one command, remembered": lambda: _scan(models, *remembering),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            begin = time.perf_counter()
            run()
            taken[way].append(time.perf_counter() - begin)
    return taken


def _scan(models: list[Path], *options: str) -> None:
    command = [sys.executable, "-m", "onnx_soda", "scan", *map(str, models), *options]
    command += ["--data", str(FIXTURES / "digits-clean.h5"), "--budget", "quick", "-q"]
    done = subprocess.run([*command, "--exit-zero"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)


if __name__ == "__main__":
    main()
