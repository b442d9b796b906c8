"""Times whole commands: start-up, a small scan, repair. `python -m benchmarks.commands`.

`--against FOLDER` times another state of the package in turn with this one. The folder is made from
a checkout of that state by `pip install --no-deps --target FOLDER CHECKOUT`. `--long` adds the
repair of the bundled model, which takes some minutes. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.common import FIXTURES, machine_facts, markdown_table
from fixtures import boards

MODEL, DATA = FIXTURES / "digits-backdoored.onnx", FIXTURES / "digits-clean.h5"
HERE = "this state"


class State:
    """A state of the package: how its commands are run.

    Args:
        source: What Python finds it by, in place of the installed one; None for that.
        folder: For what its commands write.
    """

    def __init__(self, source: Path | None, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.environment = dict(os.environ)
        if source is not None:
            self.environment["PYTHONPATH"] = str(source.resolve())

    def run(self, *command: object, codes: Sequence[int] = (0,)) -> float:
        """Run a command; return its seconds."""
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
        if done.returncode not in codes:
            raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr}")
        return seconds

    def modules(self, *arguments: str) -> set[str]:
        """Return the modules that a command imports before its work starts."""
        program = (
            "import runpy, sys\ntry: runpy.run_module('onnx_soda', run_name='__main__')\n"
            "except SystemExit: print(*sys.modules, file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return set(done.stderr.split())


def short_commands(folder: Path) -> dict[str, tuple[Sequence[object], Sequence[int]]]:
    """Return commands by the words for them, each with the exit codes that are right."""
    model, _, clean, _ = boards.write(folder)
    soda = ("-m", "onnx_soda")
    return {
        "`onnx-soda --help`": ((*soda, "--help"), (0,)),
        "`onnx-soda scan --help`": ((*soda, "scan", "--help"), (0,)),
        "`onnx-soda inspect`, a net of 4 classes": ((*soda, "inspect", model), (0,)),
        "`onnx-soda scan`, the same net": (
            (*soda, "scan", model, "--data", clean, "--threads", 1, "--quiet"),
            (1,),
        ),
    }


def repair_seconds(state: State) -> dict[str, float]:
    """Return the seconds of a scan of the bundled model, and of repairs with and without it."""
    report, usual = state.folder / "report.json", ("--threads", 1, "--quiet")
    scan = ("-m", "onnx_soda", "scan", MODEL, "--data", DATA, "--format", "json", "-o", report)
    repair = ("-m", "onnx_soda", "repair", MODEL, "--data", DATA, "-o")
    return {
        "scan of the bundled model": state.run(*scan, *usual, codes=(1,)),
        "repair by its report, no new scan": state.run(
            *repair, "a.onnx", "--report", report, "--no-rescan", *usual
        ),
        "repair without a report: scan, repair, new scan": state.run(
            *repair, "b.onnx", *usual, codes=(0, 3)
        ),
    }


def table(rows: dict[str, dict[str, list[float]]]) -> str:
    """Return medians and ranges of the seconds, a row for each command."""
    names = list(next(iter(rows.values())))
    cells = [
        [what, *(f"{median(found[name]):.2f} ({min(found[name]):.2f})" for name in names)]
        for what, found in rows.items()
    ]
    return markdown_table(["seconds: median (least)", *names], cells)


def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        states = {HERE: State(None, folder / "here")}
        if arguments.against:
            states["before"] = State(arguments.against, folder / "before")
        print(machine_facts(), end="\n\n")
        rows: dict[str, dict[str, list[float]]] = {}
        for what, (command, codes) in short_commands(folder).items():
            rows[what] = {name: [] for name in states}
            for _ in range(arguments.repeats):
                for name, state in states.items():
                    rows[what][name].append(state.run(*command, codes=codes))
        if arguments.long:
            found = {name: repair_seconds(state) for name, state in states.items()}
            for what in found[HERE]:
                rows[what] = {name: [found[name][what]] for name in states}
        print(table(rows), end="\n\n")
        for name, state in states.items():
            told = "is" if "numpy" in state.modules("--help") else "is not"
            print(f"- `--help`, {name}: NumPy {told} imported.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--long", action="store_true")
    main(parser.parse_args())
