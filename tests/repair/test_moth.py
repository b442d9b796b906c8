"""MOTH: patches are inverted, and training on them makes them larger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fixtures import graphs
from onnx_soda._errors import RepairError
from onnx_soda._repair.baselines.base import clean_of
from onnx_soda._repair.baselines.moth import Hardening, MothRemover, Patches
from onnx_soda._repair.baselines.networks import Recipe

from .rivals import (
    accuracy,
    boards_ready,
    clean_folds,
    coloured,
    planted,
    ready_for,
    strict,
)
from .test_nad import dense_ready


def test_a_patch_is_blended_in_by_its_mask() -> None:
    """A mask of 0.25 makes 0.75 x 0.4 + 0.25 x 1 of 0.4; the second group's changes nothing."""
    masks = torch.tensor([0.25, 0.0]).reshape(2, 1, 1, 1)
    patches = Patches(masks, torch.ones(2, 3, 1, 1), torch.zeros(2))
    shown = patches.on(torch.full((2, 3, 1, 1), 0.4), torch.tensor([0, 1]))
    assert shown[0].flatten().tolist() == pytest.approx([0.55] * 3)
    assert shown[1].flatten().tolist() == pytest.approx([0.4] * 3)


def test_the_smallest_patch_is_not_smaller_than_can_be(tmp_path: Path) -> None:
    """Class 0 is bright on top, class 1 below; the logits are half the sums of the eight pixels.

    A patch that whitens a pixel below adds half of 1 - x to class 1, one that blackens a pixel on
    top takes half of x from class 0. So the sum of its mask is the margin by that at least.
    """
    ready = dense_ready(tmp_path)
    inverter = MothRemover(ready).inverter()
    examples = clean_of(clean_folds(ready))
    own = examples.images[examples.labels == 0][:20]
    images = torch.from_numpy(own)
    goals, groups = torch.ones(20, dtype=torch.long), torch.zeros(20, dtype=torch.long)
    patch = inverter.invert(images, goals, groups, 0.9)
    top, below = own[:, 0, :2].reshape(20, 8), own[:, 0, 2:].reshape(20, 8)
    margins = 0.5 * (top.sum(axis=1) - below.sum(axis=1))
    per_pixel = 0.5 * np.maximum(1 - below.min(axis=1), top.max(axis=1))
    least = np.sort(margins / per_pixel)[17]  # for 18 of 20
    assert least <= float(patch.sizes[0]) <= 3 * least
    turned = inverter.network.outputs(patch.on(images, groups))[0].argmax(1)
    assert (turned == 1).float().mean() >= 0.9


def test_a_patch_that_turns_nothing_has_no_size(tmp_path: Path) -> None:
    """More than all images cannot be turned."""
    remover = MothRemover(boards_ready(tmp_path))
    images = torch.from_numpy(clean_of(clean_folds(remover.ready)).images[:4])
    goals, groups = torch.zeros(4, dtype=torch.long), torch.zeros(4, dtype=torch.long)
    assert torch.isinf(remover.inverter().invert(images, goals, groups, 1.1).sizes).all()


def test_training_on_patches_makes_the_distance_grow(tmp_path: Path) -> None:
    """The net with a backdoor for blue, at a rate that moves something, again and again.

    The margin of class 0 is 3 x 4 x (0.8 - 0.2) = 7.2. A blue pixel is worth 200 x 1.15 / 16 = 14
    and turns it. One that is green and not red is worth 1.2, so without blue it takes six.
    """
    ready = ready_for(tmp_path, planted(), *coloured(60))
    remover = MothRemover(ready)
    examples = clean_of(clean_folds(ready))
    work = Hardening(remover.inverter(), examples, 2, Recipe((0.01,)))
    sizes = []
    for _ in range(12):
        work.harden((0, 1), torch.arange(len(examples)))
        sizes.append(work.sizes[0, 1])
    assert sizes[-1] > 1.05 * sizes[0]
    assert work.growth[0, 1] > 0
    assert remover.network.accuracy(examples) == 1


def test_the_pair_is_the_one_that_is_near_or_else_drawn(tmp_path: Path) -> None:
    """The loss to class 1 falls most from class 2; 7 of 10 choices fall on them."""
    remover = MothRemover(boards_ready(tmp_path))
    examples = clean_of(clean_folds(remover.ready))
    work = Hardening(remover.inverter(), examples, 4, Recipe((0.01,)))
    work.near[2, 1] = 3.0
    chosen = [frozenset(work.pair(0)) for _ in range(200)]
    assert 0.6 <= chosen.count(frozenset({1, 2})) / 200 <= 0.9
    assert len(set(chosen)) > 2


@pytest.mark.parametrize("parameters", ["paper", "published"])
def test_what_is_trained_is_written_and_keeps_the_accuracy(parameters: str, tmp_path: Path) -> None:
    ready = boards_ready(tmp_path, parameters=parameters)
    done = MothRemover(ready).remove(clean_folds(ready))
    assert done.model is not None
    assert accuracy(ready, done.model) >= 0.99
    assert done.model.graph != ready.proto.graph


def test_a_result_that_costs_too_much_is_not_written(tmp_path: Path) -> None:
    ready = strict(boards_ready(tmp_path))
    done = MothRemover(ready).remove(clean_folds(ready))
    assert done.model is None
    assert "MOTH loses more than" in done.reason


def test_images_of_whole_numbers_are_refused_with_advice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(256, size=(90, 2, 2, 1)).astype(np.uint8), np.arange(90) % 3
    ready = ready_for(tmp_path, graphs.build("uint8_input"), pixels, labels, preprocess="raw")
    with pytest.raises(RepairError, match="whole numbers") as caught:
        MothRemover(ready)
    assert caught.value.advice
