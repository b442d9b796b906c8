"""Times whole commands: start-up, a small scan, repair. `python -m benchmarks.commands`.

`--against FOLDER` times another state of the package in turn with this one. The folder is made from
a checkout of that state by `pip install --no-deps --target FOLDER CHECKOUT`. `--repair N` adds N
repairs of the bundled model by the report of a scan. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.common import FIXTURES, machine_facts, markdown_table
from fixtures import boards

MODEL, DATA = FIXTURES / "digits-backdoored.onnx", FIXTURES / "digits-clean.h5"
HERE = "this state"
_SODA = ("-m", "onnx_soda")

Command = tuple[Sequence[object], Sequence[int]]
"""Arguments for Python, and the exit codes that are right."""


@dataclass(frozen=True)
class Times:
    """Seconds of a command: by the clock, which a busy machine stretches, and of the processor."""

    clock: float
    processor: float


def _processor_seconds() -> float:
    """Return what all children so far have taken, their own children included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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

    def run(self, *command: object, codes: Sequence[int] = (0,)) -> Times:
        """Run a command; return its times."""
        start, spent = time.perf_counter(), _processor_seconds()
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        times = Times(time.perf_counter() - start, _processor_seconds() - spent)
        if done.returncode not in codes:
            raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr}")
        return times

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


def short_commands(folder: Path) -> dict[str, Command]:
    """Return commands by the words for them, each with the exit codes that are right."""
    model, _, clean, _ = boards.write(folder)
    return {
        "`onnx-soda --help`": ((*_SODA, "--help"), (0,)),
        "`onnx-soda scan --help`": ((*_SODA, "scan", "--help"), (0,)),
        "`onnx-soda inspect`, a net of 4 classes": ((*_SODA, "inspect", model), (0,)),
        "`onnx-soda scan`, the same net": (
            (*_SODA, "scan", model, "--data", clean, "--threads", 1, "--quiet"),
            (1,),
        ),
    }


def repair_command(state: State) -> Command:
    """Scan the bundled model; return a repair by the report of this scan."""
    report = state.folder / "report.json"
    common = (MODEL, "--data", DATA, "--quiet")
    state.run(*_SODA, "scan", *common, "--format", "json", "-o", report, codes=(1,))
    return (*_SODA, "repair", *common, "-o", "a.onnx", "--report", report, "--no-rescan"), (0,)


def in_turn(
    states: dict[str, State], commands: dict[str, Command], repeats: int
) -> dict[str, list[Times]]:
    """Run each state's command so many times, the states in turn; return their times."""
    found: dict[str, list[Times]] = {name: [] for name in states}
    for _ in range(repeats):
        for name, (command, codes) in commands.items():
            found[name].append(states[name].run(*command, codes=codes))
    return found


def table(rows: dict[str, dict[str, list[Times]]]) -> str:
    """Return medians by the clock and of the processor, a row for each command."""
    names = list(next(iter(rows.values())))
    cells = [[what, *(_cell(found[name]) for name in names)] for what, found in rows.items()]
    return markdown_table(["seconds: by the clock (of the processor)", *names], cells)


def _cell(found: Sequence[Times]) -> str:
    clock = median(times.clock for times in found)
    return f"{clock:.2f} ({median(times.processor for times in found):.2f})"


def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        states = {HERE: State(None, folder / "here")}
        if arguments.against:
            states["before"] = State(arguments.against, folder / "before")
        print(machine_facts(), end="\n\n")
        commands: dict[str, dict[str, Command]] = {
            what: dict.fromkeys(states, command) for what, command in short_commands(folder).items()
        }
        rows = {what: in_turn(states, own, arguments.repeats) for what, own in commands.items()}
        if arguments.repair:
            own = {name: repair_command(state) for name, state in states.items()}
            what = "`onnx-soda repair --report`, the bundled digits"
            rows[what] = in_turn(states, own, arguments.repair)
        print(table(rows), end="\n\n")
        for name, state in states.items():
            told = "is" if "numpy" in state.modules("--help") else "is not"
            print(f"- `--help`, {name}: NumPy {told} imported.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--repair", type=int, default=0)
    main(parser.parse_args())
