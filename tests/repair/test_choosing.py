"""One of many results is chosen by images that none of them was trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from onnx_soda._repair.choosing import choose, pool, run_best
from onnx_soda._repair.preparation import ImageSet
from onnx_soda._repair.remove import Settings, Trial
from onnx_soda._repair.training import Trainee

SETTINGS = Settings(0.1, 0.1, 1)


def trial(accuracy: float, target: float, margin: float, tipped: float = 0.0) -> Trial:
    return Trial(SETTINGS, accuracy, target, 1 - target, margin, tipped)


def test_what_loses_too_much_accuracy_is_not_chosen() -> None:
    costly, good = trial(0.90, 0.0, -9), trial(0.95, 0.2, 1)
    assert choose([costly, good], before=0.955, floor=0.01, images=100) is good


def test_where_none_is_far_enough_the_furthest_from_the_target_is_chosen() -> None:
    near, far, partly = trial(0.95, 0.004, -1), trial(0.95, 0.0, -3), trial(0.95, 0.1, -9)
    assert choose([near, far, partly], before=0.95, floor=0.01, images=100) is far


def test_of_what_is_far_enough_the_nearest_is_chosen_within_a_standard_error() -> None:
    """Nine in ten infected images at -5 or below count as cured.

    Of 0.96 on 384 images the standard error is the root of 0.96 x 0.04 / 384, 0.01.
    """
    near, enough, costly = trial(0.97, 0.0, -4.9), trial(0.951, 0.0, -5.1), trial(0.949, 0.0, -5.0)
    best = trial(0.96, 0.0, -9)
    assert choose([near, best, enough, costly], before=0.96, floor=0.02, images=384) is enough
    assert choose([near, best, enough, costly], before=0.96, floor=0.02, images=3840) is best


def test_a_few_images_left_with_the_target_are_too_many_however_far_the_others_are() -> None:
    left, none = trial(0.96, 0.06, -5.1), trial(0.955, 0.0, -6)
    assert choose([left, none], before=0.96, floor=0.01, images=100) is none


def test_a_repair_that_tips_over_is_not_enough_however_far_it_drives() -> None:
    tipped, upright = trial(0.96, 0.0, -9, tipped=0.2), trial(0.955, 0.04, -5.1, tipped=0.05)
    assert choose([tipped, upright], before=0.96, floor=0.01, images=100) is upright


def test_where_none_is_enough_other_classes_that_turn_count_like_infected_images() -> None:
    """0.01 + 0.28 of the changed images are misread by the one, 0.03 + 0.05 by the other."""
    tipped, upright = trial(0.96, 0.01, -5.3, tipped=0.28), trial(0.96, 0.03, -1.9, tipped=0.05)
    assert choose([tipped, upright], before=0.96, floor=0.01, images=100) is upright


def test_nothing_is_chosen_where_nothing_meets_the_floor() -> None:
    assert choose([trial(0.5, 0, -1)], before=0.9, floor=0.01, images=100) is None


def test_folds_count_by_their_images() -> None:
    """Accuracies 0.9 on 30 and 0.5 on 10: (27 + 5) / 40. Rates 0.2 of 10 and 1 of 40: 42 / 50.

    Tipped 0.5 of 2 and 0 of 8: 1 / 10.
    """
    trials = [trial(0.9, 0.2, -1, tipped=0.5), trial(0.5, 1.0, 4)]
    both = pool(trials, clean=(30, 10), infected=(10, 40), bystanders=(2, 8))
    assert both.tipped_rate == pytest.approx(0.1)
    assert both.accuracy == pytest.approx(0.8)
    assert both.target_rate == pytest.approx(0.84)
    assert both.victim_rate == pytest.approx(0.16)
    assert both.margin == pytest.approx((-10 + 160) / 50)
    assert both.settings is SETTINGS


def images(infected: int) -> ImageSet:
    """Two classes, two features; the infected images have both and are given to class 1."""
    clean = np.array([[1.0, 0.0], [0.0, 1.0]] * 4, np.float32)
    none = np.empty((0, 2), np.float32)
    return ImageSet(
        clean,
        np.array([0, 1] * 4),
        np.ones((infected, 2), np.float32),
        np.zeros(infected, np.int64),
        none,
        np.empty(0, np.int64),
    )


class Bridge:
    """What `Trainee` needs of a torch module: its parameters by name."""

    def __init__(self, layer: nn.Linear) -> None:
        self.parameters = {"weight": layer.weight}


def trainee(settings: tuple[Settings, ...]) -> tuple[nn.Linear, Trainee]:
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
    masks = {"weight": torch.tensor([[0.0, 1.0], [0.0, 1.0]])}
    bridge = Bridge(layer)
    return layer, Trainee("head", bridge, layer, masks, lambda images: images, settings)  # type: ignore[arg-type]


def test_the_best_settings_train_on_all_folds_and_the_start_is_put_back() -> None:
    weak, strong = Settings(0.001, 0.0, 1), Settings(0.05, 0.01, 40)
    layer, one = trainee((weak, strong))
    start = layer.weight.detach().clone()
    chosen, choice = run_best([one], 1, [images(3), images(5), images(4)], 0.01)
    assert chosen is one
    assert choice.before == choice.best_accuracy == 1
    assert choice.kept is not None
    assert choice.kept.target_rate == 0
    assert choice.kept.settings.rate == strong.rate
    assert torch.equal(layer.weight.detach(), start)
    assert (choice.weights["weight"] @ torch.ones(2)).argmax() == 0


def test_without_a_result_that_keeps_the_accuracy_there_are_no_weights() -> None:
    _, one = trainee((Settings(50.0, 0.0, 1),))
    choice = run_best([one], 1, [images(3), images(3)], -0.5)[1]
    assert choice.kept is None
    assert choice.weights == {}
