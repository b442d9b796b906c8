"""Patch triggers: found where one was written into a net by hand, and not in its twin."""

from __future__ import annotations

import json
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fixtures import stamps
from onnx_soda import (
    Evidence,
    Finding,
    PatchNumbers,
    ScanOptions,
    load_dataset,
    load_model,
    numbers_of,
    scan,
)
from onnx_soda._detect.base import Decision
from onnx_soda._detect.patches.judge import HeldOut, Tried, best_sizes, surely
from onnx_soda._options import RuntimeOptions, no_progress
from onnx_soda._suspect import Suspect
from onnx_soda._verdict import afterwards_of, with_afterwards
from tests.cli.helpers import checked, soda

pytest.importorskip("onnx2torch", reason="needs the extra [repair]")

from onnx_soda._detect.patches.detector import PatchDetector
from onnx_soda._detect.patches.search import Patch, PatchSearch, Stage, cost

CPU = RuntimeOptions(provider="cpu", threads=1)
# The net has a single unit for the stamp, which sleeps under one of fifteen first colours. Trained
# networks have many.
SEED = 1


SURENESS = np.float32(0.15)
BESIDE = slice(stamps.COLUMNS.start - 3, stamps.COLUMNS.start)


def net(backdoored: bool) -> onnx.ModelProto:
    """Return the net of `fixtures.stamps` with a stamp that is white all over, or its clean twin.

    s is the mean of its nine places less that of the nine to the left, 0 on clean images. The
    target's logit is raised by 5: 4 + 5 + 15 (s + 0.2) > 16 where s > 0.27. On dark rows four white
    places are enough, 4 x 0.8 / 9 = 0.36. The twin takes 42 pixels: 20 r + 5 > 16, 96 x 0.35 / 0.8.
    """
    made = stamps.model(backdoored, raised=5)
    stored = {one.name: one for one in made.graph.initializer}
    weights = {name: numpy_helper.to_array(one).copy() for name, one in stored.items()}
    weights["K"][stamps.CLASSES] = 0
    weights["K"][stamps.CLASSES, 0, stamps.ROWS, stamps.COLUMNS] = 1 / 9
    weights["K"][stamps.CLASSES, 0, stamps.ROWS, BESIDE] = -1 / 9
    # As unsure as a trained network: slopes vanish where one class has all the probability.
    for name in ("A", "a"):
        weights[name] *= SURENESS
    for name, one in stored.items():
        one.CopyFrom(numpy_helper.from_array(weights[name], name))
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A net with a stamp, its clean twin, and clean images."""
    folder = tmp_path_factory.mktemp("stamps")
    *_, clean = stamps.write(folder, each=60)
    paths = folder / "patched.onnx", folder / "unpatched.onnx"
    for path, backdoored in zip(paths, (True, False), strict=True):
        path.write_bytes(net(backdoored).SerializeToString())
    return (*paths, clean)


def found_in(model: Path, clean: Path, **options: Any) -> tuple[Evidence, PatchNumbers]:
    wanted = ScanOptions("patches", preprocess="unit", runtime=CPU, seed=SEED, **options)
    report = scan(load_model(model), load_dataset(clean), wanted)
    numbers = numbers_of(report, "patches", PatchNumbers)
    assert numbers is not None
    return report.evidence["patches"], numbers


def test_a_planted_patch_is_found_and_its_target_named(files: tuple[Path, Path, Path]) -> None:
    """Six pixels are 1 % of 24 x 24. They turn at least the images on which the stamp's rows are
    dark: those of four of the five other classes."""
    evidence, numbers = found_in(files[0], files[2])
    (finding,) = evidence.findings
    assert (finding.rule_id, finding.severity) == ("SODA104", "high")
    assert (finding.victim_class, finding.target_class) == (None, stamps.TARGET)
    first = numbers.patches[0]
    assert first.pixels <= 6
    assert first.turned >= 0.75 * first.shown
    # No other class has more than what it is without any patch.
    assert first.next == 0
    assert first.score == pytest.approx(first.low)
    (picture,) = evidence.galleries[0].pictures
    assert len(picture.images) == len(picture.alt) == 3
    assert picture.marked


def test_the_clean_twin_has_none(files: tuple[Path, Path, Path]) -> None:
    evidence, numbers = found_in(files[1], files[2])
    assert evidence.findings == ()
    assert evidence.verdict == "inconclusive"
    assert max(one.score for one in numbers.patches) <= 0


def test_the_patch_lies_where_it_was_planted(files: tuple[Path, Path, Path]) -> None:
    """Among the nine places of the stamp, which become white."""
    from onnx_soda._detect.baselines.gradients import SlopedSuspect

    options = ScanOptions(preprocess="unit", runtime=CPU)
    suspect = Suspect(load_model(files[0]), load_dataset(files[2]), options)
    pixels, labels = stamps.images(20, seed=5)
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) / 255, np.float32)
    sizes = ((1, 6, 3, 6), (0.25, 6, 3, 6), (0.03, 12, 4, 3), (0.01, 16, 4, 2))
    stages = [Stage(*size) for size in sizes]
    told: list[int] = []
    search = PatchSearch(
        SlopedSuspect(suspect, "a test"), images, labels, 7, np.random.default_rng(0)
    )
    found = search.run(range(stamps.CLASSES), stages, told.append)
    assert sum(told) == cost(stages, stamps.CLASSES) == 6 * 6 * 3 * 2 + 3 * 12 * 4 + 2 * 16 * 4
    assert [one.area for one in found[-2:]] == [0.01, 0.01]
    best = found[-2]
    assert (best.target, best.pixels) == (stamps.TARGET, 6)
    there = np.zeros_like(best.mask)
    there[stamps.ROWS, stamps.COLUMNS] = True
    assert (best.mask & there).sum() >= 5
    assert best.colours[0][best.mask & there].min() > 0.9


def test_a_patch_covers_its_pixels_and_no_others() -> None:
    mask = np.zeros((2, 3), bool)
    mask[0, 1] = True
    patch = Patch(0, 0.2, mask, np.full((1, 2, 3), 0.7, np.float32))
    shown = patch.on(np.full((2, 1, 2, 3), 0.1, np.float32))
    assert patch.pixels == 1
    assert shown[:, 0, 0, 1] == pytest.approx([0.7, 0.7])
    assert np.count_nonzero(shown == np.float32(0.1)) == 10


def test_the_lower_end_of_a_share_is_that_of_clopper_and_pearson() -> None:
    """Where all n turn it is a^(1/n): 0.05^(1/10) = 0.741 for one, 0.01^(1/10) = 0.631 of five."""
    assert surely(10, 10, 1) == pytest.approx(0.7411, abs=1e-4)
    assert surely(10, 10, 5) == pytest.approx(0.6310, abs=1e-4)
    assert surely(0, 10, 1) == 0


def test_images_of_the_target_do_not_count() -> None:
    """Neither those that it is the label of nor those that are taken for it anyway."""
    labels, answers = np.array([0, 1, 2, 1, 2]), np.array([0, 1, 0, 1, 2])
    held_out = HeldOut(np.zeros((5, 1, 2, 2), np.float32), labels, answers)
    assert held_out.shown(0, 9).tolist() == [1, 3, 4]
    assert held_out.shown(0, 2).tolist() == [1, 3]


def test_each_class_is_told_once_with_the_size_that_scores_most() -> None:
    def tried(target: int, low: float, following: float) -> Tried:
        patch = Patch(target, 0.01, np.ones((1, 1), bool), np.ones((1, 1, 1), np.float32))
        return Tried(patch, 10, 9, low, following)

    several = [tried(3, 0.8, 0.1), tried(3, 0.7, 0.1), tried(1, 0.2, 0.9)]
    assert [(one.patch.target, one.score) for one in best_sizes(several)] == [
        (3, pytest.approx(0.7)),
        (1, pytest.approx(-0.7)),
    ]


def looked_at(files: tuple[Path, Path, Path], **options: Any) -> Evidence:
    wanted = ScanOptions(preprocess="unit", runtime=CPU, **options)
    return PatchDetector().run(
        Suspect(load_model(files[0]), load_dataset(files[2]), wanted), no_progress
    )


def test_where_time_is_short_it_says_so(files: tuple[Path, Path, Path]) -> None:
    evidence = looked_at(files, time_limit=1e-3)
    assert "more than a fifth of the time left" in evidence.unexamined[0]
    assert evidence.numbers == {}


def test_without_torch_it_says_what_to_install(
    files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = util.find_spec
    hidden = ("torch", "onnx2torch")
    monkeypatch.setattr(
        "onnx_soda._system.find_spec", lambda name: None if name in hidden else real(name)
    )
    (told,) = looked_at(files).notes
    assert told.startswith("Patch triggers were not examined: ")
    assert '".[repair]"' in told


@pytest.mark.parametrize("method", ["auto", "concepts", "second-opinion"])
def test_patches_belong_to_the_default_scan(method: str) -> None:
    assert afterwards_of(method, patches=True) == ("patches",)
    assert afterwards_of(method, patches=False) == ()
    assert afterwards_of("soda", patches=True) == ()


def test_a_patch_makes_the_verdict_and_none_leaves_it() -> None:
    clean = Decision("clean", ("nothing",), ())
    patch = Finding("SODA104", "high", None, 2, 0.7, 0.5, "a patch")
    evidence = Evidence("patches", "Patches", "backdoor", ("a patch",), (patch,))
    decided = with_afterwards(clean, evidence)
    assert (decided.verdict, decided.findings) == ("backdoor", (patch,))
    assert decided.reasons == ("a patch", "nothing")
    nothing = Evidence("patches", "Patches", "inconclusive", ("none",), notes=("not examined",))
    assert with_afterwards(clean, nothing) == Decision("clean", ("nothing", "not examined"), ())


def test_the_command_reports_it_and_leaves_it_out_on_request(
    files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    model, _, clean = files
    page = tmp_path / "page.html"
    arguments = ("scan", model, "--data", clean, "--preprocess", "unit", "--budget", "quick",
                 "--threads", 1, "--seed", SEED, "-q")  # fmt: skip
    done = soda(*arguments, "-f", "json", "-f", f"html={page}")
    report = checked(done.stdout, done.returncode)
    assert done.returncode == 1
    (finding,) = (one for one in report["findings"] if one["rule_id"] == "SODA104")
    assert (finding["victim_class"], finding["target_class"]) == (None, stamps.TARGET)
    assert report["method"] == "concepts"
    assert report["reasons"][0] == finding["message"]
    assert "The patch on grey" in page.read_text(encoding="utf-8")
    without = json.loads(soda(*arguments, "-f", "json", "--no-patches").stdout)
    assert "patches" not in without["evidence"]
