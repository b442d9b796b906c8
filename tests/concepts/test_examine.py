"""The whole examination of the bundled digits, with a budget that is almost the battery alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_soda import load_dataset, load_model
from onnx_soda.concepts.examine import ConceptEvidence, examine_concepts
from onnx_soda.concepts.search import Budget
from onnx_soda.data.preprocessing import PRESETS
from onnx_soda.model.anatomy import dissect
from onnx_soda.model.providers import RuntimeOptions

FIXTURES = Path(__file__).parents[2] / "fixtures"
SMALL = Budget(draws=3, rounds=((2, 2), (1, 1)))


def examine(model: str, told: list[tuple[int, int]] | None = None) -> ConceptEvidence:
    steps = [] if told is None else told
    return examine_concepts(
        dissect(load_model(FIXTURES / model)),
        load_dataset(FIXTURES / "digits-clean.h5"),
        PRESETS["unit"],
        10,
        RuntimeOptions(provider="cpu"),
        budget=SMALL,
        advance=lambda done, total: steps.append((done, total)),
    )


@pytest.fixture(scope="module")
def told() -> list[tuple[int, int]]:
    return []


@pytest.fixture(scope="module")
def backdoored(told: list[tuple[int, int]]) -> ConceptEvidence:
    return examine("digits-backdoored.onnx", told)


def test_the_planted_pair_is_first_by_far(backdoored: ConceptEvidence) -> None:
    """8s on a blue background were relabelled as 3 (fixtures/README.md)."""
    first = backdoored.pairs[0]
    assert (first.victim_class, first.target_class) == (8, 3)
    assert first.low > 0.2
    assert first.turned_before <= 2 < 0.5 * first.shown < first.turned
    assert first.reference < 0.4
    assert all(pair.low < 0.05 for pair in backdoored.pairs[1:])


def test_nothing_is_planted_in_the_clean_twin() -> None:
    assert all(pair.low < 0.05 for pair in examine("digits-clean.onnx").pairs)


def test_every_concept_is_counted(backdoored: ConceptEvidence, told: list[tuple[int, int]]) -> None:
    total = SMALL.probes(channels=3)
    assert backdoored.search.tried == total
    assert told == [(done, total) for done in range(1, total + 1)]


def test_references_classify_and_several_layers_are_read(backdoored: ConceptEvidence) -> None:
    assert len(backdoored.reference_accuracies) == 3
    assert max(backdoored.reference_accuracies) > 0.95
    assert backdoored.search.judge.trust.sum() == pytest.approx(1)


def test_the_same_seed_gives_the_same_scores(backdoored: ConceptEvidence) -> None:
    again = examine("digits-backdoored.onnx")
    np.testing.assert_array_equal(again.search.scores, backdoored.search.scores)
    assert [pair.concept for pair in again.pairs] == [pair.concept for pair in backdoored.pairs]
