"""How well a scan keeps to the time that it aims at: planned against real passes and seconds.

    python -m benchmarks.planned [--network resnet18 ...] [--time SECONDS ...] [--threads N]

Networks of torchvision with random weights, of 10 classes, on random images of 224 x 224. What they
answer means nothing; what is measured is time. Planned is what the scan says before it searches,
real is what it took when it had ended.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision

from benchmarks.common import machine_facts, markdown_table
from fixtures.export import write_onnx
from onnx_soda import ConceptNumbers, RuntimeOptions, ScanOptions, numbers_of, scan_file

_NETWORKS = ("mobilenet_v3_small", "resnet18", "resnet50")
_CLASSES, _SIDE = 10, 224
_COLUMNS = (
    "network", "aim, s", "passes planned", "real", "planned / real", "seconds planned", "real",
    "planned / real", "concepts of the battery", "images of each class and half", "victims",
    "stopped",
)  # fmt: skip


def write_network(name: str, folder: Path) -> Path:
    """Write a network of torchvision with random weights; return the file."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None, num_classes=_CLASSES).eval()
    path = folder / f"{name}.onnx"
    write_onnx(network, path, torch.rand(2, 3, _SIDE, _SIDE))
    return path


def write_images(each: int, folder: Path) -> Path:
    """Write random images, as many of each class; return the file."""
    labels = np.repeat(np.arange(_CLASSES), each)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(labels), _SIDE, _SIDE, 3), dtype=np.uint8)
    path = folder / "images.npz"
    np.savez(path, images=images, labels=labels)
    return path


def _row(model: Path, images: Path, aim: float, threads: int) -> list[object]:
    options = ScanOptions(
        preprocess="imagenet",
        min_accuracy=0,
        time_limit=aim,
        runtime=RuntimeOptions("cpu", threads),
    )
    begin = time.monotonic()
    report = scan_file(model, images, options=options, limits=None)
    seconds = time.monotonic() - begin
    numbers = numbers_of(report, "concepts", ConceptNumbers)
    covered = numbers.covered if numbers else None
    if covered is None or covered.seconds is None:
        return [model.stem, f"{aim:.0f}", *["-"] * 9, report.stopped]
    # What is planned whole is not timed in the report: it is the same on every machine.
    parts = {part.name: f"{part.done} of {part.whole}" for part in covered.parts}
    real = report.coverage.passes
    return [
        model.stem,
        f"{aim:.0f}",
        covered.passes,
        real,
        f"{covered.passes / real:.2f}",
        f"{covered.seconds:.0f}",
        f"{seconds:.0f}",
        f"{covered.seconds / seconds:.2f}",
        parts["concepts of the battery"],
        parts["images of each class and half"],
        parts["classes as victims"],
        report.stopped or "no",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", nargs="+", default=_NETWORKS)
    parser.add_argument("--time", nargs="+", type=float, default=[120.0, 240.0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=6, help="of each class")
    arguments = parser.parse_args()
    print(f"# Planned and real time\n\n{machine_facts()}\n- threads: {arguments.threads}")
    print(f"- images of each class: {arguments.images}\n", flush=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        images = write_images(arguments.images, folder)
        rows = [
            _row(model, images, aim, arguments.threads)
            for model in (write_network(name, folder) for name in arguments.network)
            for aim in arguments.time
        ]
    print(markdown_table(_COLUMNS, rows))


if __name__ == "__main__":
    main()
