"""The whole examination of the bundled digits, with a budget that is almost the battery alone."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from fixtures import boards
from onnx_soda import CleanSet, load_dataset, load_model
from onnx_soda._detect.concepts.battery import Budget
from onnx_soda._detect.concepts.experiment import ConceptResult, examine_concepts
from onnx_soda._detect.concepts.styles import Style
from onnx_soda._options import RuntimeOptions, ScanOptions
from onnx_soda._suspect import Suspect

FIXTURES = Path(__file__).parents[2] / "fixtures"
SMALL = Budget(draws=3, rounds=((2, 2), (1, 1)), donors=6, style_rounds=((2, 2),))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> CleanSet:
    """Every third of the bundled images: 24 of each class."""
    with h5py.File(FIXTURES / "digits-clean.h5") as file:
        images, labels = file["images"][::3], file["labels"][::3]
    path = tmp_path_factory.mktemp("clean") / "some.npz"
    np.savez(path, images=images, labels=labels)
    return load_dataset(path)


def examine(
    model: Path, clean: CleanSet, told: list[tuple[int, int]] | None = None
) -> ConceptResult:
    steps = [] if told is None else told
    options = ScanOptions(preprocess="unit", runtime=RuntimeOptions(provider="cpu"))
    return examine_concepts(
        Suspect(load_model(model), clean, options),
        budget=SMALL,
        advance=lambda done, total: steps.append((done, total)),
    )


@pytest.fixture(scope="module")
def told() -> list[tuple[int, int]]:
    return []


@pytest.fixture(scope="module")
def backdoored(clean: CleanSet, told: list[tuple[int, int]]) -> ConceptResult:
    return examine(FIXTURES / "digits-backdoored.onnx", clean, told)


def test_the_planted_pair_is_first_by_far(backdoored: ConceptResult) -> None:
    """8s on a blue background were relabelled as 3 (fixtures/README.md)."""
    first = backdoored.pairs[0]
    assert (first.victim_class, first.target_class) == (8, 3)
    assert first.low > 0.1
    others = [pair for pair in backdoored.pairs if (pair.victim_class, pair.target_class) != (8, 3)]
    assert first.low > first.bound > max(pair.bound for pair in others)
    assert first.turned_before <= 2 < 0.5 * first.shown < first.turned
    assert first.reference < 0.4
    assert all(pair.bound <= 0 for pair in others)


def test_all_images_of_the_victim_are_looked_at_and_a_few_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 images of each of four classes make folds of 12; a pair is shown on one of the two.

    A pair that could not be reported with all of them is shown 6 of its own, and 4 of the others.
    """
    monkeypatch.setattr("onnx_soda._detect.concepts.folds._CONFIRM", 6)
    model, _, few, _ = boards.write(tmp_path, each=24)
    evidence = examine(model, load_dataset(few))
    assert evidence.confirm_images == 2 * 6 * 4
    first, *others = evidence.pairs
    counts = first.answers_under.sum(axis=1)
    assert first.shown == counts[first.victim_class] == 12
    assert set(np.delete(counts, first.victim_class)) == {6}
    spared = [pair for pair in others if pair.shown == 6]
    assert spared
    for pair in spared:
        counts = pair.answers_under.sum(axis=1)
        assert set(np.delete(counts, pair.victim_class)) == {4}


def test_every_image_shown_is_one_that_the_model_knows_as_it_is(
    backdoored: ConceptResult,
) -> None:
    """The clean model of the digits takes some 8s for something else, too: these are not shown."""
    for pair in backdoored.pairs:
        assert [one.predicted_before for one in pair.examples] == [
            one.label for one in pair.examples
        ]
        assert (pair.answers_before.sum(axis=1) == pair.answers_under.sum(axis=1)).all()
        assert pair.answers_before[pair.victim_class, pair.target_class] == pair.turned_before


def test_styles_are_shown_with_several_donors(backdoored: ConceptResult) -> None:
    shown = [pair for pair in backdoored.pairs if isinstance(pair.concept, Style)]
    assert shown
    for pair in shown:
        donors = [one.under.tobytes() for one in pair.examples]
        assert donors[0] == np.ascontiguousarray(pair.concept.pixels).tobytes()
        assert len(set(donors)) > 1


@pytest.mark.slow
def test_nothing_is_planted_in_the_clean_twin(clean: CleanSet) -> None:
    assert all(pair.bound <= 0 for pair in examine(FIXTURES / "digits-clean.onnx", clean).pairs)


def test_nothing_is_planted_in_the_twin_of_the_boards(tmp_path: Path) -> None:
    model, twin, few, _ = boards.write(tmp_path, each=24)
    assert max(pair.bound for pair in examine(model, load_dataset(few)).pairs) > 0.3
    assert all(pair.bound <= 0 for pair in examine(twin, load_dataset(few)).pairs)


def test_every_intervention_is_counted(
    backdoored: ConceptResult, told: list[tuple[int, int]]
) -> None:
    concepts, styles = SMALL.concepts(channels=3), SMALL.styles(images=240)
    # Six donors with two strengths; each fold varies two pairs twice.
    assert styles == 6 * 2 + 2 * 2 * 2
    assert backdoored.styles is not None
    assert (backdoored.search.tried, backdoored.styles.tried) == (concepts, styles)
    total = concepts + styles
    assert backdoored.tried == total
    # What races is shown again: it counts once.
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {done for done, _ in told} == set(range(1, total + 1))
    assert {of for _, of in told} == {total}


def test_references_classify_and_several_layers_are_read(backdoored: ConceptResult) -> None:
    assert len(backdoored.reference_accuracies) == 3
    assert max(backdoored.reference_accuracies) > 0.95
    assert backdoored.search.judge.trust.sum() == pytest.approx(1)
