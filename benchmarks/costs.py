"""What a whole scan costs against images, classes, concepts and pixels: measured, fitted, plotted.

    python -m benchmarks.costs [--chart FILE]

Small networks with random weights, on random images: nothing is found, so this is what a scan of
an honest model costs. One thing is varied at a time. Seconds are those of the processor, start
included, with one thread: other programs move them less than the clock. What was measured is kept
in build/costs and not measured again. Writes the chart, and prints Markdown. Needs torch and
matplotlib.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import COSTS, machine_facts, markdown_table
from benchmarks.whole_scan import run_scan
from fixtures.export import write_onnx
from onnx_soda._options import BudgetName
from onnx_soda._twins.networks import build_network


@dataclass(frozen=True)
class Setting:
    """What is scanned.

    Attributes:
        images: Of each class.
        classes: Of the network.
        budget: How much is tried.
        side: Height and width of the images.
    """

    images: int = 12
    classes: int = 10
    budget: BudgetName = "quick"
    side: int = 32

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.images}-{self.classes}-{self.budget}-{self.side}"


@dataclass(frozen=True)
class Cost:
    """What a scan took.

    Attributes:
        images: Clean images in all.
        classes: Of the network.
        concepts: Changes of images and of features that were tried.
        pixels: Of an image.
        passes: Images that went through the model.
        seconds: Of the processor.
        peak: MiB.
    """

    images: int
    classes: int
    concepts: int
    pixels: int
    passes: int
    seconds: float
    peak: float


_BASE, _SMALL = Setting(), Setting(images=6, classes=5)
_VARIED: dict[str, tuple[Setting, ...]] = {
    "images": tuple(replace(_BASE, images=count) for count in (6, 12, 24, 48)),
    "classes": tuple(replace(_BASE, classes=count) for count in (5, 10, 20, 40, 80)),
    "concepts": tuple(replace(_SMALL, budget=name) for name in ("quick", "default", "thorough")),
    "pixels": tuple(replace(_SMALL, side=side) for side in (16, 32, 64, 96)),
}


def _files(setting: Setting) -> tuple[Path, Path]:
    """Write a network with random weights, and random images of its classes."""
    model, data = (COSTS / f"{setting.name}{end}" for end in (".onnx", ".npz"))
    torch.manual_seed(0)
    side = setting.side
    network = build_network("vgg", 3, side, side, setting.classes).eval()
    write_onnx(network, model, torch.rand(2, 3, side, side))
    labels = np.repeat(np.arange(setting.classes), setting.images)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), side, side, 3), np.uint8)
    np.savez(data, images=pixels, labels=labels)
    return model, data


def _measure(setting: Setting) -> Cost:
    kept = COSTS / f"{setting.name}.json"
    if kept.is_file():
        return Cost(**json.loads(kept.read_text(encoding="utf-8")))
    model, data = _files(setting)
    scan = run_scan(
        model, data, "--preprocess", "unit", "--min-accuracy", "0", "--time", "24h",
        "--timeout", "86400", "--threads", "1", "--budget", setting.budget,
    )  # fmt: skip
    cost = Cost(
        setting.images * setting.classes, setting.classes, scan.numbers["concepts"],
        setting.side**2, scan.passes, round(scan.processor, 1), round(scan.peak),
    )  # fmt: skip
    kept.write_text(json.dumps(vars(cost)), encoding="utf-8")
    data.unlink()
    model.unlink()
    return cost


@dataclass(frozen=True)
class Line:
    """A straight line through points: what there is without, by each, and how well it fits."""

    fixed: float
    each: float
    explained: float


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Return the line with the least squares, and the share of the variance that it explains."""
    each, fixed = np.polyfit(x, y, 1)
    rest: NDArray[np.float64] = np.asarray(y) - (fixed + each * np.asarray(x))
    return Line(float(fixed), float(each), 1 - float(rest.var() / np.var(y)))


def _plot(costs: dict[str, list[Cost]], chart: Path) -> None:
    figure, axes = plt.subplots(2, len(costs), figsize=(12, 5))
    for column, (name, measured) in enumerate(costs.items()):
        x = [float(getattr(cost, name)) for cost in measured]
        for row, unit in zip(axes[:, column], ("passes", "seconds"), strict=True):
            y = [float(getattr(cost, unit)) for cost in measured]
            line = fit_line(x, y)
            row.plot(x, y, "o", color="#1f5fa8")
            ends = np.array([0, max(x)])
            row.plot(ends, line.fixed + line.each * ends, color="#888888")
            row.set_xlim(left=0)
            row.set_ylim(0, 1.1 * max(y))
        axes[1, column].set_xlabel(name)
    axes[0, 0].set_ylabel("passes")
    axes[1, 0].set_ylabel("seconds of the processor")
    figure.tight_layout()
    figure.savefig(chart, dpi=80)


def _rows(costs: dict[str, list[Cost]]) -> list[list[object]]:
    rows: list[list[object]] = []
    for name, measured in costs.items():
        x = [float(getattr(cost, name)) for cost in measured]
        for unit in ("passes", "seconds"):
            line = fit_line(x, [float(getattr(cost, unit)) for cost in measured])
            told = f"{line.fixed:.0f} + {line.each:.3g} x {name}"
            rows.append([name, unit, told, f"{line.explained:.2f}"])
    return rows


def main() -> None:
    """Measure what is not kept yet, write the chart, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chart", type=Path, default=Path("docs/costs.png"))
    arguments = parser.parse_args()
    COSTS.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    costs = {name: [_measure(one) for one in settings] for name, settings in _VARIED.items()}
    _plot(costs, arguments.chart)
    print(f"# What a scan costs\n\n{machine_facts()}\n")
    columns = [*Cost.__annotations__]
    table = [[name, *vars(cost).values()] for name, measured in costs.items() for cost in measured]
    print(markdown_table(["varied", *columns], table))
    print("\n" + markdown_table(("varied", "what", "line", "variance explained"), _rows(costs)))


if __name__ == "__main__":
    main()
