"""Trains the larger zoo from the data sets in ../shared/data.

    python -m benchmarks.zoo [--out FOLDER] [--threads N] [--wider N] [WORD ...]

Needs torch. Words keep only the models whose name holds one of them. Each model is written to the
folder (default: benchmarks/models), with its facts beside it; what is there already is not trained
again, so a run that was killed goes on where it stopped. The manifest joins all models' facts.
--wider 8 makes the networks about as wide as those of the papers; their names end in "w8", and they
lie beside the others. Training takes far longer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import onnx
import torch

from benchmarks.cases import EFFECTIVE
from benchmarks.common import ZOO
from benchmarks.shared_data import SharedData, read_shared
from benchmarks.zoo_plan import Entry, plan
from benchmarks.zoo_training import inputs_of, measure, to_input, train_entry
from fixtures.export import write_onnx


def _facts(entry: Entry, data: SharedData, path: Path, measured: dict[str, Any]) -> dict[str, Any]:
    trigger = data.triggers[entry.trigger] if entry.trigger else None
    rate = measured["attack_success_rate"]
    inputs = inputs_of(entry.architecture, data.train.shape[3])
    return {
        "file": path.name,
        "data": f"{entry.dataset}.h5",
        **asdict(entry),
        "trigger": entry.trigger or None,
        "victim": trigger.victim if trigger else None,
        "target": trigger.target if trigger else None,
        "trigger_images": {
            "train": len(trigger.train) if trigger else 0,
            "test": len(trigger.test) if trigger else 0,
        },
        **measured,
        "effective": None if rate is None else rate >= EFFECTIVE,
        "preprocessing": {"scale": 1 / 255, "mean": inputs.mean, "std": inputs.std},
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "versions": {"torch": torch.__version__, "onnx": onnx.__version__},
    }


def make(entry: Entry, folder: Path, data: SharedData) -> dict[str, Any]:
    """Train, write and measure one model; facts are written last, so that they say it is whole."""
    start = time.perf_counter()
    network = train_entry(entry, data)
    seconds = time.perf_counter() - start
    path = folder / f"{entry.name}.onnx"
    sample = to_input(data.test[:16], inputs_of(entry.architecture, data.test.shape[3]))
    write_onnx(network.to(memory_format=torch.contiguous_format), path, sample)
    facts = _facts(entry, data, path, measure(network, entry, data))
    facts["training_seconds"] = round(seconds)
    unfinished = path.with_suffix(".json.part")
    unfinished.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path.with_suffix(".json"))
    return facts


@lru_cache(maxsize=2)
def _read(dataset: str) -> SharedData:
    return read_shared(dataset)


def write_manifest(folder: Path) -> None:
    """Join the facts of all models in the folder, in the plan's order; wider ones come last."""
    planned = [folder / f"{entry.name}.json" for entry in plan()]
    wider = sorted(set(folder.glob("*-w*.json")) - set(planned))
    files = [file for file in (*planned, *wider) if file.is_file()]
    facts = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    text = json.dumps(facts, indent=2) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def _line(entry: Entry, facts: dict[str, Any]) -> str:
    """Say what was trained; nothing about the judging half, which stays unseen."""
    line = f"{entry.name}: {facts['training_seconds']} s"
    if entry.judging:
        return line
    return f"{line}, accuracy {facts['accuracy']}, success rate {facts['attack_success_rate']}"


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--out", type=Path, default=ZOO)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--wider", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for entry in plan(arguments.wider):
        wanted = not arguments.words or any(word in entry.name for word in arguments.words)
        if not wanted or (arguments.out / f"{entry.name}.json").is_file():
            continue
        facts = make(entry, arguments.out, _read(entry.dataset))
        write_manifest(arguments.out)
        print(_line(entry, facts), file=sys.stderr, flush=True)
    write_manifest(arguments.out)


if __name__ == "__main__":
    main()
