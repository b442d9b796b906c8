"""Times scans, attribution and batches: `python -m benchmarks.speed`. Prints Markdown.

Every row is measured in a process of its own; what is compared is measured in turn, and medians
are reported.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.attribution_speed import attributions
from benchmarks.batch_speed import throughputs
from benchmarks.cases import Case, zoo_cases
from benchmarks.children import in_child
from benchmarks.common import FIXTURES, machine_facts, markdown_table
from benchmarks.networks import write_images, write_mlp, write_resnet18
from benchmarks.scan_speed import (
    ScanTimes,
    Subject,
    bare_pass,
    command_seconds,
    scan_once,
    scan_times,
)

# As large as the zoo's models and clean sets: 512 neurons, 1,000 images of 10 classes.
_NEURONS, _SMALL = 512, {"classes": 10, "per_class": 100, "side": 32}
# ImageNet's image size; 300 images keep a pass at about ten seconds.
_LARGE = {"classes": 100, "per_class": 3, "side": 224}
_BATCHES_SMALL, _BATCHES_LARGE = (1, 8, 32, 64, 128, 256, 512), (1, 4, 16, 64, 128)
_SMALL_IMAGES, _LARGE_IMAGES = 1000, 128
# How often the command line is started.
_COMMANDS = 3


def _zoo_subjects(folder: Path) -> Iterator[Subject]:
    """Yield one clean zoo model per data set."""
    first: dict[str, Case] = {}
    for case in zoo_cases():
        if case.poisoning == "clean":
            first.setdefault(case.dataset, case)
    for dataset, case in first.items():
        recipe = folder / f"{dataset}.json"
        known = case.preprocessing or {}
        recipe.write_text(json.dumps({key: known[key] for key in ("scale", "mean", "std")}))
        yield Subject(f"zoo {dataset}", case.model, case.data, str(recipe))


def _made_small(folder: Path) -> Subject:
    data, model = folder / "small.npz", folder / "mlp.onnx"
    in_child(write_images, data, *_SMALL.values())
    in_child(write_mlp, model, data, _NEURONS)
    return Subject("MLP, untrained", model, data, "unit")


def _made_large(folder: Path) -> Subject:
    data, model = folder / "large.npz", folder / "resnet18.onnx"
    in_child(write_images, data, *_LARGE.values())
    in_child(write_resnet18, model, data)
    return Subject("ResNet-18 at 224 x 224", model, data, "unit", repeats=2)


def _print_section(title: str, *parts: str) -> None:
    print(f"\n## {title}\n\n" + "\n\n".join(parts), flush=True)


def _both(values: dict[bool, float], form: str) -> str:
    """Return a cell with the figures for preprocessing given and inferred."""
    return f"{values[True]:{form}} / {values[False]:{form}}"


def _time_row(subject: Subject, times: ScanTimes) -> list[object]:
    return [
        subject.name, times.images, f"{times.bare:.3f} ({times.batch})", f"{times.prepare:.3f}",
        _both(times.scan, ".3f"), _both(times.ratio, ".2f"), _both(times.full_ratio, ".2f"),
    ]  # fmt: skip


def _path_row(subject: Subject, times: ScanTimes) -> list[object]:
    files = [str(subject.model), "--data", str(subject.data), "--exit-zero"]
    repeats = min(subject.repeats, _COMMANDS)
    given = command_seconds("scan", *files, "--preprocess", subject.preprocess, repeats=repeats)
    inferred = command_seconds("scan", *files, repeats=repeats)
    return [
        subject.name, f"{times.session + times.bare:.3f}",
        f"{times.load:.3f}", _both(times.path_ratio, ".2f"),
        _both({True: given, False: inferred}, ".2f"),
    ]  # fmt: skip


def _stage_rows(subject: Subject, times: ScanTimes) -> Iterator[list[object]]:
    for given, stages in times.stages.items():
        cells = [f"{1000 * seconds:.0f}" for stage, seconds in stages.items() if stage != "total"]
        rest = stages["total"] - sum(s for stage, s in stages.items() if stage != "total")
        way = "given" if given else "inferred"
        yield [f"{subject.name}, {way}", *cells, f"{1000 * rest:.0f}", f"{1000 * times.bare:.0f}"]


def _memory_row(subject: Subject, batch: int) -> list[object]:
    _, bare = in_child(bare_pass, subject, batch)
    _, given = in_child(scan_once, subject, True)
    _, inferred = in_child(scan_once, subject, False)
    return [subject.name, f"{bare:.0f}", f"{given:.0f}", f"{inferred:.0f}"]


def _nothing() -> None:
    """Do nothing: its peak memory is that of the imports."""


def _report_scans(subjects: list[Subject]) -> None:
    measured = [(subject, in_child(scan_times, subject)[0]) for subject in subjects]
    _print_section(
        "Scan against a bare ONNX Runtime pass",
        "Seconds. Bare pass: decoded and preprocessed images, session open, best batch size (in "
        "brackets). Prepare: decoding and preprocessing them on one core. Scan: from a loaded "
        "model and an opened clean set to the report. Pairs: preprocessing given / inferred. Goal: "
        "scan within 1.2 of the bare pass.",
        markdown_table(
            (
                "model",
                "images",
                "bare pass (batch)",
                "prepare",
                "scan",
                "scan / bare",
                "scan / (prepare + bare)",
            ),
            (_time_row(subject, times) for subject, times in measured),
        ),
    )
    start = command_seconds("--help", repeats=_COMMANDS)
    _print_section(
        "From files to report",
        "Seconds. Bare: session opened from the file, and the pass. Load: reading the model and "
        "opening the clean set. Ratio: load and scan over bare. Command: wall clock with the "
        f"start of the interpreter; `onnx-soda --help` alone takes {start:.2f}.",
        markdown_table(
            ("model", "bare, with session", "load", "ratio", "command"),
            (_path_row(subject, times) for subject, times in measured),
        ),
    )
    stages = [stage for stage in measured[0][1].stages[True] if stage != "total"]
    _print_section(
        "Where the time goes",
        "Milliseconds of each stage (`timing` in the report).",
        markdown_table(
            ("model", *stages, "rest", "bare pass"),
            (row for subject, times in measured for row in _stage_rows(subject, times)),
        ),
    )
    _, imports = in_child(_nothing)
    _print_section(
        "Peak memory of a scan",
        f"MiB, whole process; imports alone {imports:.0f}. The bare pass holds all images.",
        markdown_table(
            ("model", "bare pass", "scan, given", "scan, inferred"),
            (_memory_row(subject, times.batch) for subject, times in measured),
        ),
    )


def _report_attribution(subject: Subject, folder: Path) -> None:
    found, shape = attributions(subject, folder)
    rows = [
        [
            method, f"{a.seconds:.4f}", f"{a.ratio:.1f}", f"{a.difference:.1e}",
            f"{a.peak:.0f}", f"{a.growth:.0f}",
        ]
        for method, a in found.items()
    ]  # fmt: skip
    largest = next(iter(found.values())).largest
    _print_section(
        "Causal attribution",
        f"{subject.name}, activations of shape {shape}, largest shift {largest:.3g}. brute-force "
        "is the paper's loop: for every source class and neuron a run of the tail. closed-form "
        "includes the test that the tail is affine. Goal: 100 times faster than the loop.",
        markdown_table(
            ("method", "seconds", "times faster", "largest difference", "peak MiB", "growth MiB"),
            rows,
        ),
    )


def _report_batches(small: Subject, large: Subject) -> None:
    for subject, batches, count in (
        (small, _BATCHES_SMALL, _SMALL_IMAGES),
        (large, _BATCHES_LARGE, _LARGE_IMAGES),
    ):
        rows = [
            [t.batch, f"{t.images_per_second:.0f}", f"{t.peak:.0f}"]
            for t in throughputs(subject, batches, count)
        ]
        _print_section(
            f"Batch size: {subject.name}",
            markdown_table(("batch", "images per second", "peak MiB"), rows),
        )


def main() -> None:
    """Print all tables."""
    print(f"# Speed and memory\n\n{machine_facts()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digits = Subject(
            "digits (bundled)", FIXTURES / "digits-backdoored.onnx",
            FIXTURES / "digits-clean.h5", "unit",
        )  # fmt: skip
        zoo, large = list(_zoo_subjects(folder)), _made_large(folder)
        if not zoo:
            print("\n../shared/zoo is not there: a network of its size stands in for it.")
        wide = zoo[-1] if zoo else _made_small(folder)
        _report_scans([digits, *zoo, large])
        _report_attribution(wide, folder)
        _report_batches(wide, large)


if __name__ == "__main__":
    main()
