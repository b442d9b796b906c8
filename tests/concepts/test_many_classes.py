"""More classes than a table of all pairs under all changes has room for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fixtures import boards
from onnx_soda._data.datasets import load_dataset
from onnx_soda._detect.concepts.battery import BUDGETS, Budget
from onnx_soda._detect.concepts.examination import Reader
from onnx_soda._detect.concepts.experiment import ConceptResult, examine_concepts, why_not_tried
from onnx_soda._detect.concepts.folds import split_into_folds
from onnx_soda._model.load import load_model
from onnx_soda._options import RuntimeOptions, ScanOptions
from onnx_soda._suspect import Suspect

CLASSES, EACH = 130, 12
SMALL = Budget(draws=0, rounds=((2, 4), (1, 6)), donors=4, style_rounds=())


@pytest.fixture(scope="module")
def backdoored(tmp_path_factory: pytest.TempPathFactory) -> ConceptResult:
    return examine(tmp_path_factory.mktemp("many"), backdoored=True)


def examine(folder: Path, backdoored: bool) -> ConceptResult:
    patterns = boards.many_boards()[:CLASSES]
    pixels, labels = boards.images(EACH, patterns=patterns)
    np.savez(folder / "clean.npz", images=pixels, labels=labels)
    model = folder / "model.onnx"
    model.write_bytes(boards.model(backdoored, patterns).SerializeToString())
    options = ScanOptions(preprocess="unit", runtime=RuntimeOptions(provider="cpu"))
    suspect = Suspect(load_model(model), load_dataset(folder / "clean.npz"), options)
    return examine_concepts(suspect, SMALL)


def test_the_planted_pair_of_130_classes_is_first(backdoored: ConceptResult) -> None:
    """Blue turns class 1 into 3, as in the net of four classes."""
    first = backdoored.pairs[0]
    assert (first.victim_class, first.target_class) == (boards.VICTIM, boards.TARGET)
    assert first.shown == EACH // 2 < 2 * first.turned
    assert first.reference < 0.1
    others = [pair for pair in backdoored.pairs if pair.victim_class != boards.VICTIM]
    assert all(pair.bound < 0 for pair in others)


def test_of_many_classes_more_pairs_are_varied(backdoored: ConceptResult) -> None:
    """8 pairs by 4 variations and 4 by 6, where few classes have 2 and 1; each fold its own.
    The battery has 171 concepts, and the net no layer with styles."""
    assert SMALL.widened().rounds == ((8, 4), (4, 6))
    assert BUDGETS["default"].widened().style_rounds == ((24, 2), (16, 4), (12, 6))
    assert backdoored.planned == backdoored.search.tried == 171 + 2 * (8 * 4 + 4 * 6)


def test_few_images_of_many_classes_are_in_memory(backdoored: ConceptResult) -> None:
    """The screen has two images of each class in a fold; 125 classes of 8 stand for the others in
    the closer look, but a class has 6 in a fold here."""
    assert backdoored.screen_images == 2 * 2 * CLASSES
    assert backdoored.confirm_images == 2 * 6 * 125


def test_a_closer_look_takes_images_that_nothing_was_fitted_to(tmp_path: Path) -> None:
    """100 images of each class. Heads are fitted to 46 in either half (6,000 in all), and a victim
    is looked at with 30; the other 32 and the 8 that nothing has read tell more."""
    patterns = boards.many_boards()[:CLASSES]
    pixels, labels = boards.images(100, patterns=patterns)
    np.savez(tmp_path / "clean.npz", images=pixels, labels=labels)
    (tmp_path / "model.onnx").write_bytes(boards.model(True, patterns).SerializeToString())
    options = ScanOptions(preprocess="unit", runtime=RuntimeOptions(provider="cpu"))
    clean = load_dataset(tmp_path / "clean.npz")
    suspect = Suspect(load_model(tmp_path / "model.onnx"), clean, options)
    reader = Reader(suspect, split_into_folds(labels, np.random.default_rng(0)))
    assert reader.count_confirmed(3) == 60
    assert reader.count(3) == 100
    more = reader.more_of(3)
    assert len(more.labels) == 40
    assert (more.labels == 3).all()
    assert np.bincount(more.fold).tolist() == [20, 20]
    shown = np.concatenate([reader.confirmed(3).pixels, more.pixels])
    assert len(np.unique(shown.reshape(100, -1), axis=0)) == 100


@pytest.mark.slow
def test_the_planted_pair_of_200_classes_is_first_beside_a_reference(tmp_path: Path) -> None:
    """What the clean twin says of the bank is 89 MiB as numbers. It comes through whole."""
    patterns = boards.many_boards()[:200]
    pixels, labels = boards.images(20, patterns=patterns)
    np.savez(tmp_path / "clean.npz", images=pixels, labels=labels)
    for name, backdoored in (("model.onnx", True), ("twin.onnx", False)):
        (tmp_path / name).write_bytes(boards.model(backdoored, patterns).SerializeToString())
    told = subprocess.run(
        [
            sys.executable, "-m", "onnx_soda", "scan", tmp_path / "model.onnx",
            "--data", tmp_path / "clean.npz", "--reference", tmp_path / "twin.onnx",
            "--preprocess", "unit", "--method", "second-opinion", "--format", "json",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 3, told.stderr
    numbers = json.loads(told.stdout)["evidence"]["second-opinion"]["numbers"]
    assert [one["file"] for one in numbers["references"]] == ["twin.onnx"]
    first = numbers["pairs"][0]
    assert (first["victim_class"], first["target_class"]) == (boards.VICTIM, boards.TARGET)


def test_over_4096_classes_nothing_is_tried() -> None:
    assert why_not_tried(None, 4096) is None
    assert "4097" in (why_not_tried(None, 4097) or "")
