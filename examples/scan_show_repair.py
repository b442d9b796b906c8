"""Scans the bundled backdoored model, shows the evidence, repairs it, and scans it again.

    pip install ".[html,repair]"
    python examples/scan_show_repair.py [--gallery gallery.png] [--repaired repaired.onnx]

Takes a few minutes on two cores. The gallery has clean images above, the same images under the
change that the scan found below, and the model's answer to each.
"""

from __future__ import annotations

import argparse
import base64
import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot
from matplotlib.axes import Axes
from PIL import Image

from onnx_soda import Picture, ScanReport, named_pairs, repair_file, scan_file

_FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
_MODEL, _CLEAN = _FIXTURES / "digits-backdoored.onnx", _FIXTURES / "digits-clean.h5"
_TRIGGER = _FIXTURES / "digits-trigger.h5"
_VICTIMS, _OTHERS = 6, 4


def main() -> None:
    """Scan, show, repair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gallery", type=Path, default=Path("gallery.png"))
    parser.add_argument("--repaired", type=Path, default=Path("repaired.onnx"))
    arguments = parser.parse_args()
    report = scan_file(_MODEL, _CLEAN)
    print(report.verdict)
    for finding in report.findings:
        print(f"{finding.rule_id} {finding.severity}: {finding.message}")
    pair = next(named_pairs(report), None)
    if pair is None:
        return
    show(report, arguments.gallery)
    repair(pair, arguments.repaired)


def show(report: ScanReport, path: Path) -> None:
    """Draw the images of the strongest pair: its victim's, and some of other classes."""
    own, others = report.evidence["concepts"].galleries[:2]
    pictures = [*own.pictures[:_VICTIMS], *others.pictures[:_OTHERS]]
    _draw(pictures, own.title, path)
    print(f"{path}: {own.text}")


def _draw(pictures: Sequence[Picture], title: str, path: Path) -> None:
    figure, axes = pyplot.subplots(
        2, len(pictures), figsize=(1.4 * len(pictures), 3.2), squeeze=False, layout="constrained"
    )
    for column, picture in enumerate(pictures):
        for row, image in enumerate(picture.images):
            _show(axes[row, column], image)
        axes[1, column].set_title(
            picture.caption.replace("; ", "\n"),
            fontsize=8,
            color="tab:red" if picture.marked else "black",
        )
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _show(place: Axes, picture: str) -> None:
    _, _, content = picture.partition("base64,")
    place.imshow(Image.open(io.BytesIO(base64.b64decode(content))), cmap="gray")
    place.axis("off")


def repair(pair: tuple[int, int], repaired: Path) -> None:
    """Repair a pair, and tell what changed."""
    answer = repair_file(_MODEL, _CLEAN, repaired, pair=pair, triggers=_TRIGGER)
    summary = answer.summary
    print(f"{summary.outcome}: {summary.reason}")
    if summary.triggers_before and summary.triggers_after:
        before, after = summary.triggers_before.target_rate, summary.triggers_after.target_rate
        print(f"real 8s on blue taken for 3: {before:.0%} before, {after:.0%} after")
    for change in summary.changes:
        print(f"{change.name}: {change.changed} of {change.size} values, by {change.largest:.3g}")
    print(f"new scan: {summary.rescan}")


if __name__ == "__main__":
    main()
