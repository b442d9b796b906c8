"""Images kept as one array: axes, scales of floats, values that are no numbers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_soda._data.datasets import CleanSet, load_dataset
from onnx_soda._data.sources import ImageShape
from onnx_soda._errors import DatasetFileError, ImageError

from .helpers import GREY, SHAPE, random_pixels, read_all, write_h5

PIXELS = random_pixels(12)
LABELS = np.zeros(12, dtype=np.int64)


def clean_set(folder: Path, images: NDArray[np.generic]) -> CleanSet:
    np.savez(folder / "a.npz", images=images, labels=np.zeros(len(images), dtype=np.int64))
    return load_dataset(folder / "a.npz")


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 9),
    height=st.integers(5, 12),
    width=st.integers(5, 12),
    channels=st.sampled_from([1, 3, 4]),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_every_file_and_axis_order_gives_the_same_pixels(
    count: int, height: int, width: int, channels: int, seed: int, data: st.DataObject
) -> None:
    shape = ImageShape(height, width, channels)
    pixels = random_pixels(count, shape, seed)
    labels = np.zeros(count, dtype=np.uint8)
    indices = np.array(data.draw(st.lists(st.integers(-count, count - 1), max_size=12)), dtype=int)
    orders: list[NDArray[Any]] = [
        pixels,
        pixels.transpose(0, 3, 1, 2),
        pixels.astype(np.float64) / 255,
    ]
    if channels == 1:
        orders.append(pixels[..., 0])
    with tempfile.TemporaryDirectory() as folder:
        for images in orders:
            path = Path(folder) / "a.npz"
            np.savez(path, x=images, y=labels)
            for file in (path, write_h5(Path(folder) / "a.h5", x=images, y=labels)):
                clean = load_dataset(file)
                assert clean.images.native == shape
                assert np.allclose(clean.images.read(indices, shape), pixels[indices], atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_in_unit_range_are_brought_to_255(tmp_path: Path, dtype: type) -> None:
    clean = clean_set(tmp_path, (PIXELS / 255).astype(dtype))
    pixels = read_all(clean, SHAPE)
    assert pixels.dtype == np.float32
    assert np.allclose(pixels, PIXELS, atol=0.2)
    assert clean.notes == ("Float images in 0..1 were multiplied by 255.",)
    assert not clean.preprocessed


def test_rounding_slightly_outside_the_unit_range_is_forgiven(tmp_path: Path) -> None:
    images = PIXELS / 255
    images[0, 0, 0, 0], images[0, 0, 0, 1] = -1e-6, 1 + 1e-6
    pixels = read_all(clean_set(tmp_path, images), SHAPE)
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_floats_up_to_255_stay_as_they_are(tmp_path: Path) -> None:
    clean = clean_set(tmp_path, PIXELS.astype(np.float32))
    assert np.array_equal(read_all(clean, SHAPE), PIXELS)
    assert clean.notes == ()


@pytest.mark.parametrize("stored", [PIXELS / 127.5 - 1, PIXELS * 2.0])
def test_other_ranges_are_taken_as_preprocessed(
    tmp_path: Path, stored: NDArray[np.float64]
) -> None:
    clean = clean_set(tmp_path, stored)
    assert clean.preprocessed
    assert "preprocessed already" in clean.notes[0]
    assert np.allclose(read_all(clean, SHAPE), stored)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers(tmp_path: Path, bad: float) -> None:
    images = PIXELS / 255
    images[[4, 9], 2, 3, 1] = bad
    clean = clean_set(tmp_path, images)
    assert clean.images.read(np.array([0, 3]), SHAPE).shape[0] == 2
    with pytest.raises(ImageError, match=r"2 of the 12 images read .* the first is image 4"):
        read_all(clean, SHAPE)


def test_a_set_of_nothing_but_nan(tmp_path: Path) -> None:
    clean = clean_set(tmp_path, np.full(PIXELS.shape, np.nan))
    with pytest.raises(ImageError, match="12 of the 12 images"):
        read_all(clean, SHAPE)


def test_an_image_off_the_scale_of_the_others(tmp_path: Path) -> None:
    images = np.zeros((600, 5, 5, 1), dtype=np.float32)
    images[299] = 200  # not among the rows that the scale is told from
    clean = clean_set(tmp_path, images)
    with pytest.raises(ImageError, match=r"values off the scale .* the first is image 299"):
        clean.images.read(np.array([298, 299]), ImageShape(5, 5, 1))


@pytest.mark.parametrize(
    ("images", "shape", "message"),
    [
        (PIXELS, GREY, "images have 3 channels, the model wants 1 channel$"),
        (PIXELS[..., 0], SHAPE, "images have 1 channel, the model wants 3 channels"),
    ],
)
def test_another_number_of_channels(
    tmp_path: Path, images: NDArray[np.uint8], shape: ImageShape, message: str
) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        read_all(clean_set(tmp_path, images), shape)
    assert "np.repeat" in caught.value.advice


def test_of_transparent_images_the_colour_is_to_be_taken(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="4 channels, the model wants 3") as caught:
        read_all(clean_set(tmp_path, np.concatenate([PIXELS, PIXELS[..., :1]], axis=-1)), SHAPE)
    assert "images[..., :3]" in caught.value.advice


def test_images_are_resized_to_the_model(tmp_path: Path) -> None:
    for images in (PIXELS, PIXELS / 255):
        pixels = read_all(clean_set(tmp_path, images), ImageShape(12, 10, 3))
        assert pixels.shape == (12, 12, 10, 3)
        assert abs(float(pixels.mean()) - PIXELS.mean()) < 5


def test_indices_beyond_the_images(tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        clean_set(tmp_path, PIXELS).images.read(np.array([12]), SHAPE)


def test_splits_on_different_scales_are_not_joined(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x_train=PIXELS / 127.5 - 1, y_train=LABELS, x_test=PIXELS, y_test=LABELS)
    with pytest.raises(DatasetFileError, match="the splits of") as caught:
        load_dataset(path, "all")
    assert "one split" in caught.value.advice


def test_splits_of_different_sizes_have_no_native_shape(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x_train=PIXELS[:, :5], y_train=LABELS, x_test=PIXELS, y_test=LABELS)
    assert load_dataset(path, "all").images.native is None
    assert load_dataset(path, "test").images.native == SHAPE
