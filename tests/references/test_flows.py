"""The bank on a real model: the same images for all, and a backdoor that a twin does not share."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from fixtures import boards
from onnx_soda import ScanOptions, load_dataset, load_model
from onnx_soda._detect.concepts.experiment import MOST_CLASSES
from onnx_soda._detect.concepts.folds import FOLDS
from onnx_soda._detect.references.bank import BANK_VERSION, concept_bank
from onnx_soda._detect.references.flows import Flows, bank_flows, own_flows
from onnx_soda._detect.references.opinion import second_opinion
from onnx_soda._options import RuntimeOptions
from onnx_soda._sandbox.messages import MOST_BYTES
from onnx_soda._suspect import Suspect


@pytest.mark.parametrize("channels", [1, 3])
def test_concepts_of_the_bank_are_all_different_and_do_something(channels: int) -> None:
    bank = concept_bank(channels)
    words = [concept.describe() for concept in bank]
    assert len(set(words)) == len(bank) == {1: 168 - 1, 3: 290 - 1}[channels]
    unchanged = bank[0].render((channels, 8, 8))
    for concept in bank[1:]:
        fields = concept.render((channels, 8, 8)).as_feeds("")
        before = unchanged.as_feeds("")
        assert any((fields[name] != before[name]).any() for name in fields), concept.describe()


def test_a_bank_of_other_concepts_has_another_version() -> None:
    """Flows are compared by the version. Where this fails, raise it, and write down the digest."""
    banks = repr([concept_bank(channels) for channels in (1, 3)])
    digest = hashlib.sha256(banks.encode()).hexdigest()[:16]
    assert (BANK_VERSION, digest) == (1, "1193c9561e8f574c")


def test_what_a_reference_of_the_most_classes_says_is_one_message() -> None:
    """Shares by concept, fold, class and answer, 4 bytes each, as base64; and what else it says."""
    shares = (1 + len(concept_bank(3))) * FOLDS * MOST_CLASSES**2
    assert 4 * shares * 4 / 3 + 2**20 < MOST_BYTES


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Flows]:
    model, twin, clean, _ = boards.write(tmp_path_factory.mktemp("boards"))
    images = load_dataset(clean)
    found = {}
    for name, path, seed in (("suspect", model, 0), ("twin", twin, 0), ("again", model, 7)):
        options = ScanOptions(seed=seed, runtime=RuntimeOptions(provider="cpu", threads=1))
        found[name] = bank_flows(Suspect(load_model(path), images, options))
    return found


def test_flows_are_shares(seen: dict[str, Flows]) -> None:
    shares = seen["suspect"].shares
    assert shares.shape == (290, 2, 4, 4)
    assert shares.sum(axis=-1) == pytest.approx(np.ones(shares.shape[:-1]), abs=1e-5)
    assert seen["suspect"].images.tolist() == [[20] * 4] * 2


def test_the_seed_of_a_scan_changes_nothing(seen: dict[str, Flows]) -> None:
    """Flows of today and of last month are compared."""
    assert (seen["suspect"].shares == seen["again"].shares).all()


def test_the_twin_tells_the_backdoor(seen: dict[str, Flows]) -> None:
    found = second_opinion(seen["suspect"], [seen["twin"]])
    pair = (boards.VICTIM, boards.TARGET)
    assert found.ranked()[0] == pair
    assert found.scores[pair] > 0.25
    assert "blue" in concept_bank(3)[found.concepts[0, *pair]].describe()


def test_the_twin_itself_has_none(seen: dict[str, Flows]) -> None:
    found = second_opinion(seen["twin"], [seen["suspect"]])
    assert found.scores.max() < 0.05


def test_progress_goes_up_to_all(tmp_path: Path) -> None:
    model, _, clean, _ = boards.write(tmp_path, each=8)
    told: list[tuple[int, int]] = []
    suspect = Suspect(load_model(model), load_dataset(clean))
    bank_flows(suspect, lambda done, total: told.append((done, total)))
    assert told == [(done, 289) for done in range(290)]


def test_a_suspect_is_shown_the_bank_once(tmp_path: Path) -> None:
    model, _, clean, _ = boards.write(tmp_path)
    suspect = Suspect(load_model(model), load_dataset(clean))
    first = own_flows(suspect)
    passes = suspect.meter.passes
    assert own_flows(suspect) is first
    assert suspect.meter.passes == passes > 0
