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

from onnx_soda import ScanReport, repair_file, scan_file
from onnx_soda._results import ConceptExample
from onnx_soda._sandbox.jobs import RepairJob

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
    if report.verdict != "backdoor":
        return
    show(report, arguments.gallery)
    repair(report, arguments.repaired)


def show(report: ScanReport, gallery: Path) -> None:
    """Draw the images of the strongest pair."""
    concepts = report.evidence.concepts
    if concepts is None:
        return
    pair = concepts.pairs[0]
    victim, target = pair.victim_class, pair.target_class
    examples = [
        example
        for example in concepts.examples
        if (example.victim_class, example.target_class) == (victim, target)
    ]
    victims = [example for example in examples if example.label == victim][:_VICTIMS]
    others = [example for example in examples if example.label != victim][:_OTHERS]
    _draw([*victims, *others], f"{victim} turns into {target} under: {pair.concept}", gallery)
    print(f"{gallery}: {len(victims)} images of class {victim}, {len(others)} of other classes")


def _draw(examples: Sequence[ConceptExample], title: str, gallery: Path) -> None:
    figure, axes = pyplot.subplots(
        2, len(examples), figsize=(1.1 * len(examples), 3.0), squeeze=False, layout="constrained"
    )
    for column, example in enumerate(examples):
        _show(axes[0, column], example.before, example.predicted_before, example.label)
        _show(axes[1, column], example.under, example.predicted_under, example.label)
    figure.suptitle(title, fontsize=9, wrap=True)
    figure.savefig(gallery, dpi=120)
    pyplot.close(figure)


def _show(place: Axes, picture: str, answer: int, label: int) -> None:
    _, _, content = picture.partition("base64,")
    place.imshow(Image.open(io.BytesIO(base64.b64decode(content))), cmap="gray")
    wrong = answer != label
    place.set_title(
        f"says {answer}", fontsize=9, color="tab:red" if wrong else "black",
        fontweight="bold" if wrong else "normal",
    )  # fmt: skip
    place.axis("off")


def repair(report: ScanReport, repaired: Path) -> None:
    """Repair the strongest pair, and tell what changed."""
    pair = next(
        (finding.victim_class, finding.target_class)
        for finding in report.findings
        if finding.victim_class is not None and finding.target_class is not None
    )
    job = RepairJob(
        str(_MODEL), str(_CLEAN), "", str(repaired.absolute()), pair=pair, triggers=str(_TRIGGER)
    )
    summary = repair_file(job).summary
    print(f"{summary.outcome}: {summary.reason}")
    if summary.triggers_before and summary.triggers_after:
        before, after = summary.triggers_before.target_rate, summary.triggers_after.target_rate
        print(f"real 8s on blue taken for 3: {before:.0%} before, {after:.0%} after")
    for change in summary.changes:
        print(f"{change.name}: {change.changed} of {change.size} values, by {change.largest:.3g}")
    print(f"new scan: {summary.rescan}")


if __name__ == "__main__":
    main()
