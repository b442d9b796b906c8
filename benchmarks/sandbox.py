"""What the child process costs: the same commands with and without it, in turns.

python -m benchmarks.sandbox [RUNS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import machine_facts, markdown_table

_FIXTURES = Path(__file__).parents[1] / "fixtures"
_MODEL, _DATA = str(_FIXTURES / "digits-clean.onnx"), str(_FIXTURES / "digits-clean.h5")
_COMMANDS = {
    "inspect": ["inspect", _MODEL],
    "scan, no clean set": ["scan", _MODEL, "--threads", "1"],
    "scan --method soda": ["scan", _MODEL, "-d", _DATA, "--method", "soda", "--threads", "1"],
}
_RUNS = 9


def _seconds(arguments: list[str]) -> float:
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "onnx_soda", *arguments], capture_output=True, check=False
    )
    if done.returncode == 2:
        sys.exit(done.stderr.decode())
    return time.perf_counter() - begin


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else _RUNS
    rows = []
    for name, arguments in _COMMANDS.items():
        pairs = [(_seconds([*arguments, "--no-sandbox"]), _seconds(arguments)) for _ in range(runs)]
        without, with_child = (statistics.median(column) for column in zip(*pairs, strict=True))
        extra = [child - plain for plain, child in pairs]
        rows.append(
            (
                name,
                f"{without:.2f}",
                f"{with_child:.2f}",
                f"{statistics.median(extra):+.2f}",
                f"{min(extra):+.2f} to {max(extra):+.2f}",
            )
        )
    print(machine_facts())
    print()
    head = ("command", "without, s", "with, s", "child costs, s", "range")
    print(markdown_table(head, rows))


if __name__ == "__main__":
    main()
