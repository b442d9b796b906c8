"""Hostile and damaged files, given to the real command: `python -m benchmarks.hostile [MUTANTS]`.

Prints exit code, seconds and memory of each attack of `fixtures.hostile`, and a summary of the
mutants of `fixtures.mutants`. Seconds are of the whole command, its start and its child included.
"""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import machine_facts, markdown_table
from fixtures.hostile import ATTACKS
from fixtures.mutants import SEEDS

_ROOT = Path(__file__).parents[1]
_SHOWN = 90


def _attempt(name: str) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as place:
        attack, facts = Path(place) / "attack", Path(place) / "facts"
        attack.mkdir()
        command = [sys.executable, "-m", "onnx_soda", "scan", "--format", "json"]
        command.append(str(ATTACKS[name](attack)))
        done = subprocess.run(
            [sys.executable, _ROOT / "fixtures" / "measured.py", facts, *command],
            capture_output=True, text=True, cwd=_ROOT, check=True,
        )  # fmt: skip
        taken: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
    said = _said(done)[:_SHOWN]
    memory = f"{taken['memory'] / 2**20:.0f}"
    return name, str(taken["code"]), f"{taken['seconds']:.1f}", memory, said.replace("|", "/")


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """Return why a file was refused: of an unsafe one the report says it, of others stderr."""
    if not done.stdout:
        return done.stderr.splitlines()[0].removeprefix("onnx-soda: error: ")
    (finding,) = json.loads(done.stdout)["findings"]
    return f"{finding['message']} ({finding['rule_id']})"


def _mutants(count: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "fixtures.mutants", "0", str(count)],
        capture_output=True, text=True, cwd=_ROOT, check=True,
    )  # fmt: skip
    results = [json.loads(line) for line in done.stdout.splitlines()]
    codes = collections.Counter(result["code"] for result in results)
    told = ", ".join(f"{number} with {code}" for code, number in sorted(codes.items()))
    seconds = max(result["seconds"] for result in results[1:])
    memory = max(result["memory"] for result in results) / 2**20
    return (
        f"{len(results)} mutants ended: {told}. Slowest (without imports) {seconds:.2f} s; the "
        f"process that scanned them all took {memory:.0f} MiB at most."
    )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS
    print(machine_facts())
    print()
    rows = [_attempt(name) for name in ATTACKS]
    print(markdown_table(("attack", "exit", "seconds", "MiB", "what is said"), rows))
    print()
    print(_mutants(count))


if __name__ == "__main__":
    main()
