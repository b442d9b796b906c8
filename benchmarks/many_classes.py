"""Scans the network of 203 classes that `python -m benchmarks.joined_network` trains.

    python -m benchmarks.many_classes [joined] [padded] [--time SECONDS] [--threads N]
                                      [--seed N ...] [--reference]

"joined" is the network itself, "padded" the same in the size of ResNet-50, on images of 224 x 224.
Each scan is a command of its own. With --reference the network that `joined_network --reference`
trains is compared with. Prints Markdown: what was planned, done and found.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.common import MANY_CLASSES, machine_facts, markdown_table
from benchmarks.whole_scan import SCAN_COLUMNS, WholeScan, run_scan

# Each network, and its clean set.
_SCANNED: dict[str, tuple[Path, Path]] = {
    "joined": (MANY_CLASSES / "joined.onnx", MANY_CLASSES / "joined.npz"),
    "padded": (MANY_CLASSES / "padded.onnx", MANY_CLASSES / "padded"),
}
_FOUND = (
    "network", "seed", "verdict", "pair", "score", "surely over", "turned", "others right",
    "true pair: place", "surely over",
)  # fmt: skip
_HEARD = (
    "network", "verdict", "first pair by the reference", "true pair: place", "true pair", "seconds",
    "processor seconds", "peak MiB",
)  # fmt: skip


def _found(name: str, seed: int, scan: WholeScan, true_pair: tuple[int, int]) -> list[object]:
    pairs = scan.numbers.get("pairs", [])
    told = [(one["victim_class"], one["target_class"]) for one in pairs]
    first = [
        f"{pairs[0]['victim_class']} -> {pairs[0]['target_class']}",
        f"{pairs[0]['score']:+.2f}",
        f"{pairs[0]['bound']:+.2f}",
        f"{pairs[0]['turned']} of {pairs[0]['shown']}",
        f"{100 * pairs[0]['others_right_under']:.0f} %",
    ] if pairs else ["-"] * 5  # fmt: skip
    place = told.index(true_pair) if true_pair in told else None
    true = ["-", "-"] if place is None else [place + 1, f"{pairs[place]['bound']:+.2f}"]
    return [name, seed, scan.report["verdict"], *first, *true]


def _heard(name: str, scan: WholeScan, true_pair: tuple[int, int]) -> list[object]:
    """Return a row of what the second opinion says."""
    told = scan.report["evidence"]["second-opinion"]["numbers"].get("pairs", [])
    pairs = [(one["victim_class"], one["target_class"]) for one in told]
    place = pairs.index(true_pair) if true_pair in pairs else None
    shown = [
        f"{pair[0]} -> {pair[1]}: {one['beyond']:+.2f}, {one['concept']}"
        for pair, one in zip(pairs, told, strict=True)
    ]
    return [
        name,
        scan.report["verdict"],
        shown[0] if shown else "-",
        "-" if place is None else place + 1,
        "-" if place is None else shown[place],
        f"{scan.seconds:.0f}",
        f"{scan.processor:.0f}",
        f"{scan.peak:.0f}",
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", choices=[*_SCANNED, []], default=list(_SCANNED))
    parser.add_argument("--time", type=float, default=600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--reference", action="store_true")
    arguments = parser.parse_args()
    facts = json.loads((MANY_CLASSES / "facts.json").read_text(encoding="utf-8"))
    print(f"# Many classes\n\n{machine_facts()}\n- threads: {arguments.threads}\n")
    print("\n".join(f"- {name}: {value}" for name, value in facts.items()), flush=True)
    found, took, heard = [], [], []
    beside = ("--reference", MANY_CLASSES / "reference.onnx") if arguments.reference else ()
    for name in arguments.networks:
        for seed in arguments.seed:
            scan = run_scan(
                *_SCANNED[name], "--preprocess", "unit", "--seed", str(seed),
                "--time", f"{arguments.time:.0f}s", "--threads", str(arguments.threads),
                *map(str, beside),
            )  # fmt: skip
            kept = MANY_CLASSES / f"{name}-s{seed}-{arguments.time:.0f}s.json"
            kept.write_text(json.dumps(scan.report), encoding="utf-8")
            true_pair = facts["victim"], facts["target"]
            found.append(_found(name, seed, scan, true_pair))
            if beside:
                heard.append(_heard(name, scan, true_pair))
            took.append([name, seed, f"{arguments.time:.0f}", *scan.cells()])
            print(f"\n{scan.told.strip()}\n" + "\n".join(scan.report["reasons"]), flush=True)
    print("\n" + markdown_table(_FOUND, found))
    if heard:
        print("\n" + markdown_table(_HEARD, heard))
    print("\n" + markdown_table(("network", "seed", "aim, s", *SCAN_COLUMNS), took))


if __name__ == "__main__":
    main()
