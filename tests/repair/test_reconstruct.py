"""Images made from the clean set: infected ones of the victim, bystanders of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_soda import ScanOptions, load_dataset, load_model
from onnx_soda._detect.concepts.battery import concept_battery
from onnx_soda._detect.concepts.pipeline import render_images
from onnx_soda._repair.images import Reconstructor
from onnx_soda._suspect import FloatPixels, Suspect

FIXTURES = Path(__file__).parents[2] / "fixtures"
VICTIM, TARGET = 8, 3


@pytest.fixture(scope="module")
def suspect() -> Suspect:
    clean = load_dataset(FIXTURES / "digits-clean.h5")
    model = load_model(FIXTURES / "digits-backdoored.onnx")
    return Suspect(model, clean, ScanOptions(preprocess="unit"))


@pytest.fixture(scope="module")
def images(suspect: Suspect) -> tuple[FloatPixels, np.ndarray]:
    assert suspect.clean is not None
    return suspect.pixels(), suspect.clean.labels


def test_bystanders_are_other_classes_under_the_same_changes(
    suspect: Suspect, images: tuple[FloatPixels, np.ndarray]
) -> None:
    concept = concept_battery(3)[0]
    maker = Reconstructor(suspect, TARGET, [concept], None)
    made, labels = maker.bystanders(*images, (VICTIM,), seed=1)
    assert len(made) == len(labels) == 30 + 40
    assert (labels == TARGET).sum() == 30
    assert VICTIM not in labels
    # Each is an image of its class, changed by the concept.
    pixels, classes = images
    for one, label in zip(made[::10], labels[::10], strict=True):
        changed = suspect.inputs(render_images(pixels[classes == label], concept))
        assert min(np.abs(changed - one).max(axis=(1, 2, 3))) < 1e-5


def test_without_concepts_there_are_none(
    suspect: Suspect, images: tuple[FloatPixels, np.ndarray]
) -> None:
    made, labels = Reconstructor(suspect, TARGET, [], None).bystanders(*images, (VICTIM,), seed=1)
    assert len(made) == len(labels) == 0


def test_infected_images_are_those_that_the_model_gives_to_the_target(
    suspect: Suspect, images: tuple[FloatPixels, np.ndarray]
) -> None:
    """Blue 8s are taken for 3 (fixtures/README.md); of red ones none is, so all are kept."""
    pixels, classes = images
    victims = pixels[classes == VICTIM]
    tints = [one for one in concept_battery(3) if one.family == "tint" and not one.then]
    counts = []
    for tint in tints:
        made = Reconstructor(suspect, TARGET, [tint], None).infect(victims, seed=1)
        given = suspect.body.logits(made).argmax(axis=1)
        counts.append(len(made))
        assert (given == TARGET).all() or not (given == TARGET).any()
    # Each tint and six near it, on 30 of the victim's images.
    assert max(counts) == 7 * 30
    assert 0 < min(counts) < 7 * 30
