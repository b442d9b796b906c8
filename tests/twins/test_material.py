"""How a clean set is divided, and what its images go through."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_soda import CleanSet, SplitData, split_from_arrays
from onnx_soda._twins.material import Material, divide

torch = pytest.importorskip("torch", reason="twins are trained with torch")


def material(height: int, width: int, channels: int = 3, each: int = 10) -> Material:
    labels = np.arange(2).repeat(each)
    pixels = np.zeros((len(labels), height, width, channels), np.uint8)
    part: SplitData = split_from_arrays(pixels, labels, name="made.npz", files=())
    return Material(CleanSet("made.npz", "0" * 64, part.labels, None, part.images, ()))


def test_every_fifth_image_of_each_class_is_held_out() -> None:
    labels = np.array([0] * 50 + [1] * 14 + [2] * 10)
    train, held_out = divide(labels, 0, 1000)
    assert sorted([*train, *held_out]) == list(range(74))
    assert np.bincount(labels[held_out]).tolist() == [10, 2, 2]
    assert not np.array_equal(held_out, divide(labels, 1, 1000)[1])


def test_of_a_large_set_as_many_of_each_class_are_used() -> None:
    labels = np.array([0] * 1000 + [1] * 50)
    train, held_out = divide(labels, 0, 150)
    used = np.bincount(labels[np.concatenate([train, held_out])])
    # 50 of the small class leave 100 for the large one.
    assert used[1] == 50
    assert 90 <= used[0] <= 100


@pytest.mark.parametrize(
    ("size", "taken"),
    [((32, 32), (32, 32)), ((96, 64), (96, 64)), ((224, 224), (96, 96)), ((100, 200), (48, 96))],
)
def test_large_images_are_made_smaller(size: tuple[int, int], taken: tuple[int, int]) -> None:
    found = material(*size)
    assert (found.shape.height, found.shape.width) == taken
    told = f"The images are {size[0]} x {size[1]}; twins take them at {taken[0]} x {taken[1]}."
    assert (told in found.notes()) == (size != taken)


def test_epochs_go_by_the_number_of_images() -> None:
    assert material(8, 8, each=10).usual_epochs == 100
    # 8,000 images to train on, 40,000 to show.
    assert material(8, 8, each=5000).usual_epochs == 5


@pytest.mark.parametrize("size", [(8, 8), (17, 23), (28, 28), (64, 48), (96, 96)])
@pytest.mark.parametrize("architecture", ["vgg", "resnet", "mobilenet", "densenet"])
def test_networks_take_every_size(architecture: str, size: tuple[int, int]) -> None:
    from onnx_soda._twins.networks import build_network

    network = build_network(architecture, 1, *size, 7).eval()
    assert network(torch.zeros(2, 1, *size)).shape == (2, 7)


def test_images_are_moved_and_never_mirrored() -> None:
    from onnx_soda._twins.networks import shifted

    # A ramp to the right stays one, whatever its place: rows never fall.
    ramp = np.broadcast_to(np.arange(28, dtype=np.uint8)[:, None], (200, 28, 28, 1))
    moved = shifted(ramp, np.random.default_rng(0))
    assert moved.shape == ramp.shape
    assert (np.diff(moved[..., 0].astype(int), axis=2) >= 0).all()
    # By two pixels at most, a fourteenth of 28, both ways.
    assert set(moved[:, 14, 14, 0]) == {12, 13, 14, 15, 16}
