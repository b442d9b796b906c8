"""The adaptive attacker of the paper's Table 7, against the default scan.

    python -m benchmarks.adaptive [--threads N] [RHO ...]

Needs torch. The attacker knows the paper's statistic and trains with a penalty on the spread of the
last layer's correlations (section 6), as heavy as rho. For each rho (default: 0.1 to 0.9) an
MNIST-M model with the paper's batches is trained (8s on blue are to become 3s), kept in
build/adaptive, and scanned. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import ADAPTIVE, SHARED, UNHURRIED, markdown_table
from benchmarks.shared_data import SharedData, read_shared
from benchmarks.zoo_plan import Entry
from benchmarks.zoo_training import inputs_of, measure, to_input, train_entry
from fixtures.export import write_onnx
from onnx_soda import ScanOptions, ScanReport, load_dataset, load_model, scan
from onnx_soda._numbers import ConceptNumbers
from onnx_soda._options import RuntimeOptions
from onnx_soda._results import numbers_of

_ENTRY = Entry("mnist_m", "vgg", "batch30", "blue_8", seed=7)
_COLUMNS = ("rho", "accuracy", "success rate", "verdict", "pair named", "highest pair", "interval")


def _trained(rho: float, data: SharedData) -> tuple[Path, dict[str, Any]]:
    """Return the model for a rho and what was measured of it; train it where it is not there."""
    path = ADAPTIVE / f"rho-{rho:g}.onnx"
    facts = path.with_suffix(".json")
    if not facts.is_file():
        network = train_entry(_ENTRY, data, rho)
        inputs = inputs_of(_ENTRY.architecture, data.train.shape[3])
        network = network.to(memory_format=torch.contiguous_format)
        write_onnx(network, path, to_input(data.test[:16], inputs))
        facts.write_text(json.dumps(measure(network, _ENTRY, data)), encoding="utf-8")
    return path, json.loads(facts.read_text(encoding="utf-8"))


def _row(rho: float, measured: dict[str, Any], report: ScanReport) -> list[object]:
    found = [(finding.victim_class, finding.target_class) for finding in report.findings]
    concepts = numbers_of(report, "concepts", ConceptNumbers)
    best = concepts.pairs[0] if concepts and concepts.pairs else None
    return [
        f"{rho:g}",
        measured["accuracy"],
        measured["attack_success_rate"],
        report.verdict,
        ", ".join(f"{victim} -> {target}" for victim, target in found) or "-",
        f"{best.victim_class} -> {best.target_class}" if best else "-",
        f"{best.low:+.2f} to {best.high:+.2f}" if best else "-",
    ]


def main() -> None:
    """Train, scan, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rho", nargs="*", type=float)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    ADAPTIVE.mkdir(parents=True, exist_ok=True)
    data = read_shared(_ENTRY.dataset)
    clean = load_dataset(SHARED / "data" / f"{_ENTRY.dataset}.h5")
    runtime = RuntimeOptions(threads=arguments.threads)
    options = ScanOptions(time_limit=UNHURRIED, runtime=runtime)
    rows = []
    for rho in arguments.rho or [step / 10 for step in range(1, 10)]:
        path, measured = _trained(rho, data)
        rows.append(_row(rho, measured, scan(load_model(path), clean, options)))
    print(markdown_table(_COLUMNS, rows))


if __name__ == "__main__":
    main()
