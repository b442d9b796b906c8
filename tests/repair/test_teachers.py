"""Reference models teach a repair what changed images should be."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnx_soda import load_dataset, load_model
from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.references.flows import Flows
from onnx_soda._errors import RepairError
from onnx_soda._options import RepairOptions, RuntimeOptions, ScanOptions
from onnx_soda._repair.preparation import subset
from onnx_soda._repair.repair import RepairReport, repair
from onnx_soda._repair.teachers import Teachers
from onnx_soda._suspect import Suspect

FIXTURES = Path(__file__).parents[2] / "fixtures"
MODEL, CLEAN = FIXTURES / "digits-backdoored.onnx", FIXTURES / "digits-clean.onnx"
QUICKLY = RepairOptions(
    scope="deep",
    reconstruction="ascent",
    rescan=False,
    scan=ScanOptions(preprocess="unit", runtime=RuntimeOptions(threads=1)),
)
BANK = (
    Concept("inversion", {"strength": (1.0,)}, "everywhere", {}),
    Concept("inversion", {"strength": (0.5,)}, "everywhere", {}),
)


def flows(*shares: list[list[float]]) -> Flows:
    """Return flows that are the same in both folds: without a concept, and under each."""
    told = np.array(shares, np.float32)
    return Flows(np.stack([told, told], axis=1), np.full((2, 2), 10))


def teachers() -> Teachers:
    """Two classes. Under the first concept the suspect sends 0.9 of class 0 to 1, and the two
    references 0.1 and 0.3; of class 1 all agree. The second concept does nothing to anybody."""
    still = [[1.0, 0.0], [0.0, 1.0]]
    own = flows(still, [[0.1, 0.9], [0.0, 1.0]], still)
    others = (
        flows(still, [[0.9, 0.1], [0.0, 1.0]], still),
        flows(still, [[0.7, 0.3], [0.0, 1.0]], still),
    )
    return Teachers(own, others, BANK)


def test_what_references_say_is_their_mean() -> None:
    np.testing.assert_allclose(teachers().answers[0], [[0.8, 0.2], [0, 1]], atol=1e-6)


def test_a_lesson_counts_where_references_know_the_class_and_agree() -> None:
    """Class 0 under the first concept: 0.8 of it is known, and the references are 0.1 from their
    mean: 0.8 / (1 + (0.1 / 0.2)^2) = 0.64. All else is known and agreed on."""
    np.testing.assert_allclose(teachers().weights, [[0.64, 1], [1, 1]], atol=1e-6)


def test_lessons_are_drawn_where_the_suspect_does_what_references_do_not() -> None:
    """0.9 is over 0.2, one spread of 0.1 and 0.05: all that is aimed goes to the first concept for
    class 0. That is 0.7 of the lessons; 0.3 are drawn evenly from two. Class 1 is drawn evenly."""
    np.testing.assert_allclose(teachers().chances, [[0.85, 0.5], [0.15, 0.5]], atol=1e-6)


def test_lessons_are_changed_images_with_what_references_say_of_their_class() -> None:
    clean = subset(load_dataset(FIXTURES / "digits-clean.h5"), np.arange(0, 720, 40))
    suspect = Suspect(load_model(MODEL), clean, QUICKLY.scan)
    pixels = suspect.pixels(np.arange(len(clean.labels)))
    labels = np.arange(len(clean.labels)) % 2
    made = teachers().lessons(suspect, pixels, labels, seed=0)
    assert made.images.shape == (3 * len(labels), *suspect.inputs(pixels).shape[1:])
    # Of class 0 either answer of the two concepts; their weight goes with them.
    of_zero = made.answers[:, 0] > 0.5
    assert of_zero.sum() == 3 * (labels == 0).sum()
    changed = np.isclose(made.answers[:, 1], 0.2)
    assert changed.any()
    np.testing.assert_allclose(made.weights[changed], 0.64, atol=1e-6)
    np.testing.assert_allclose(made.weights[~changed], 1, atol=1e-6)


@pytest.fixture(scope="module", params=["named", "whole"])
def taught(request: pytest.FixtureRequest) -> RepairReport:
    whole = request.param == "whole"
    clean = subset(load_dataset(FIXTURES / "digits-clean.h5"), np.arange(0, 720, 2))
    return repair(
        load_model(MODEL),
        clean,
        pair=None if whole else (8, 3),
        options=replace(QUICKLY, whole=whole),
        triggers=load_dataset(FIXTURES / "digits-trigger.h5", "all"),
        references=[load_model(CLEAN)],
    )


def test_the_backdoor_is_gone_with_or_without_a_named_pair(taught: RepairReport) -> None:
    summary = taught.summary
    assert (summary.victim_class, summary.target_class) == (8, 3)
    assert summary.teachers == 1
    assert summary.before is not None
    assert summary.after is not None
    assert summary.triggers_before is not None
    assert summary.triggers_after is not None
    assert summary.triggers_before.target_rate > 0.6
    assert summary.triggers_after.target_rate <= 0.05
    # 90 images measure: at most two of them are lost.
    assert round(90 * (summary.before.accuracy - summary.after.accuracy)) <= 2


def test_the_proof_tells_how_the_pair_stands_out_before_and_after(taught: RepairReport) -> None:
    first = taught.summary.flows[0]
    assert (first.victim_class, first.target_class) == (8, 3)
    assert first.before > 0.2 > first.after
    strongest = first.grades[-1]
    assert strongest.before > 0.5
    assert strongest.after < strongest.before / 2


def test_without_references_there_is_no_repair_of_the_whole() -> None:
    clean = load_dataset(FIXTURES / "digits-clean.h5")
    with pytest.raises(RepairError, match="needs references"):
        repair(load_model(MODEL), clean, options=replace(QUICKLY, whole=True))


@pytest.mark.parametrize(
    "asked", [["--whole"], ["--whole", "--reference", str(CLEAN), "--victim", "8", "--target", "3"]]
)
def test_the_command_says_what_does_not_go_with_whole(asked: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "onnx_soda", "repair", str(MODEL), *asked]
    command += ["-d", str(FIXTURES / "digits-clean.h5"), "-o", str(tmp_path / "repaired.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--whole" in done.stderr
    assert not list(tmp_path.iterdir())
