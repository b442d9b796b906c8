"""Images made from the clean set: infected ones of the victim, bystanders of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_soda import ScanOptions, load_dataset, load_model
from onnx_soda._detect.concepts.battery import concept_battery
from onnx_soda._detect.concepts.pipeline import render_images
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.parts import Body
from onnx_soda._observe import choose_preprocessing
from onnx_soda._repair.materials import FloatArray, Subject
from onnx_soda._repair.reconstruct import Reconstructor

FIXTURES = Path(__file__).parents[2] / "fixtures"
VICTIM, TARGET = 8, 3


@pytest.fixture(scope="module")
def subject() -> Subject:
    options = ScanOptions(preprocess="unit")
    body = Body(dissect(load_model(FIXTURES / "digits-backdoored.onnx")), options.runtime)
    clean = load_dataset(FIXTURES / "digits-clean.h5")
    how, _ = choose_preprocessing(body, clean, np.arange(10), options)
    return Subject(body, how)


@pytest.fixture(scope="module")
def images(subject: Subject) -> tuple[FloatArray, np.ndarray]:
    clean = load_dataset(FIXTURES / "digits-clean.h5")
    return subject.pixels(clean), clean.labels


def test_bystanders_are_other_classes_under_the_same_changes(
    subject: Subject, images: tuple[FloatArray, np.ndarray]
) -> None:
    concept = concept_battery(3)[0]
    maker = Reconstructor(subject, TARGET, [concept], None)
    made, labels = maker.bystanders(*images, (VICTIM,), seed=1)
    assert len(made) == len(labels) == 30 + 40
    assert (labels == TARGET).sum() == 30
    assert VICTIM not in labels
    # Each is an image of its class, changed by the concept.
    pixels, classes = images
    for one, label in zip(made[::10], labels[::10], strict=True):
        changed = subject.inputs(render_images(pixels[classes == label], concept))
        assert min(np.abs(changed - one).max(axis=(1, 2, 3))) < 1e-5


def test_without_concepts_there_are_none(
    subject: Subject, images: tuple[FloatArray, np.ndarray]
) -> None:
    made, labels = Reconstructor(subject, TARGET, [], None).bystanders(*images, (VICTIM,), seed=1)
    assert len(made) == len(labels) == 0


def test_infected_images_are_those_that_the_model_gives_to_the_target(
    subject: Subject, images: tuple[FloatArray, np.ndarray]
) -> None:
    """Blue 8s are taken for 3 (fixtures/README.md); of red ones none is, so all are kept."""
    pixels, classes = images
    victims = pixels[classes == VICTIM]
    tints = [one for one in concept_battery(3) if one.family == "tint" and not one.then]
    counts = []
    for tint in tints:
        made = Reconstructor(subject, TARGET, [tint], None).infect(victims, seed=1)
        given = subject.body.logits(made).argmax(axis=1)
        counts.append(len(made))
        assert (given == TARGET).all() or not (given == TARGET).any()
    # Each tint and six near it, on 30 of the victim's images.
    assert max(counts) == 7 * 30
    assert 0 < min(counts) < 7 * 30
