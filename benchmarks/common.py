"""What the benchmarks share: where models lie, Markdown tables, facts about the machine."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from onnx_soda._model.runtime import provider_list
from onnx_soda._options import ScanOptions, usable_cores

__all__ = [
    "ADAPTIVE",
    "BRIDGE",
    "COMPARISON",
    "CONTROLS",
    "CONVERTED_SCANS",
    "COSTS",
    "EVALUATION",
    "FIXTURES",
    "GRAPH_LOGIC",
    "HONEST",
    "MANY_CLASSES",
    "PAPER",
    "PATCHES",
    "PLANNED",
    "PRESCREENING",
    "REPAIR",
    "REPAIRED_CONTROLS",
    "SHARED",
    "UNHURRIED",
    "ZOO",
    "all_kept",
    "kept",
    "machine_facts",
    "markdown_table",
    "tell_quarters",
]

_PROJECT = Path(__file__).resolve().parents[1]
FIXTURES = _PROJECT / "fixtures"
# Real data sets and a zoo of models, at hand where the project is developed; not part of it.
SHARED = _PROJECT.parent / "shared"
# Models that `python -m benchmarks.zoo` trains.
ZOO = _PROJECT / "benchmarks" / "models"
POPULATION = Path(__file__).resolve().parents[1] / "build" / "population"
# What takes hours to measure again is part of the project.
_RESULTS = _PROJECT / "benchmarks" / "results"
# What `python -m benchmarks.evaluate` keeps.
EVALUATION = _RESULTS / "evaluation"
# Models that `python -m benchmarks.adaptive` trains.
ADAPTIVE = _PROJECT / "build" / "adaptive"
# What `python -m benchmarks.bridge_coverage` keeps.
BRIDGE = _PROJECT / "build" / "bridge"
# What `python -m benchmarks.comparison` keeps.
COMPARISON = _RESULTS / "comparison"
# What `python -m benchmarks.controls` trains.
CONTROLS = _PROJECT / "build" / "controls"
# What `python -m benchmarks.controls --repair` keeps.
REPAIRED_CONTROLS = _RESULTS / "controls"
# What `python -m benchmarks.converted_scans` keeps.
CONVERTED_SCANS = _PROJECT / "build" / "converted_scans"
# What `python -m benchmarks.costs` keeps.
COSTS = _PROJECT / "build" / "costs"
# What `python -m benchmarks.graph_logic` keeps.
GRAPH_LOGIC = _PROJECT / "build" / "graph_logic"
# What `python -m benchmarks.honest` keeps.
HONEST = _PROJECT / "build" / "honest"
# What `python -m benchmarks.joined_network` makes, and `python -m benchmarks.many_classes` keeps.
MANY_CLASSES = _PROJECT / "build" / "many_classes"
# What `python -m benchmarks.paper` and its parts keep: adaptive, feasibility, imbalance, layers.
PAPER = _RESULTS / "paper"
# What `python -m benchmarks.patches` keeps.
PATCHES = _RESULTS / "patches"
# What `python -m benchmarks.planned` keeps.
PLANNED = _PROJECT / "build" / "planned"
# What `python -m benchmarks.prescreening` keeps.
PRESCREENING = _RESULTS / "prescreening"
# What `python -m benchmarks.repair` keeps.
REPAIR = _RESULTS / "repair"


# Seconds: what is found must not depend on how fast the machine is, so scans are never cut short.
UNHURRIED = 24 * 3600.0


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a file keeps; where it is not there, make it and say so on stderr.

    The file is written whole, so that a run that was killed goes on where it stopped.
    """
    if not path.is_file():
        print(f"measuring {path.parent.name} {path.stem}", file=sys.stderr, flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".json.part")
        unfinished.write_text(json.dumps(make(), indent=2) + "\n", encoding="utf-8")
        unfinished.replace(path)
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def all_kept(folder: Path) -> list[dict[str, Any]]:
    """Return what all files of a folder keep, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def tell_quarters(done: int, steps: int) -> None:
    """Say on stderr how far a training is, four times."""
    if done % max(steps // 4, 1) == 0:
        print(f"  step {done:,} of {steps:,}", file=sys.stderr, flush=True)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; columns of figures are told by the first row and set right."""
    cells = [[str(cell) for cell in row] for row in rows]
    head = list(columns)
    rules: list[str] = ["---:" if _is_figure(cell) else "---" for cell in (cells or [head])[0]]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rules, *cells))


def _is_figure(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in {"-", "+"}


def machine_facts() -> str:
    """Return a Markdown list of what the figures depend on."""
    first = provider_list(ScanOptions().runtime)[0]
    provider = first if isinstance(first, str) else first[0]
    facts = {
        "processor": _processor(),
        "cores usable": usable_cores(),
        "load average at the start": f"{os.getloadavg()[0]:.1f}",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "ONNX Runtime": f"{ort.__version__}, {provider}",
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _processor() -> str:
    """Return the processor's name as Linux has it, else what Python knows."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
