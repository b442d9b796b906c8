"""HDF5 clean sets: the three layouts, their splits and class names."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_soda._data.datasets import load_dataset
from onnx_soda._errors import DatasetFileError, LabelError

from .helpers import GREY, SHAPE, encode, random_pixels, read_all, write_h5

TRAIN, TEST = random_pixels(8, seed=1), random_pixels(5, seed=2)
TRAIN_LABELS, TEST_LABELS = np.arange(8) % 3, np.arange(5) % 3


def split_file(path: Path) -> Path:
    return write_h5(
        path, X_train=TRAIN, Y_train=TRAIN_LABELS, X_test=TEST, Y_test=np.eye(3)[TEST_LABELS]
    )


def encoded_group(group: h5py.Group, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    encoded = [encode(image) for image in images]
    group["encoded"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    group["offset"] = np.cumsum([0, *map(len, encoded)])
    group["label"] = labels.astype(np.uint8)


def grouped_file(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        encoded_group(file.create_group("train"), TRAIN, TRAIN_LABELS)
        encoded_group(file.create_group("test"), TEST, TEST_LABELS)
        file["trigger/striped/test"] = np.array([1, 3])
        file["trigger/striped/train"] = np.array([0])
        file["trigger/green/test"] = np.array([3])
        file.attrs["class_names"] = json.dumps(["cat", "dog", "eel"])
    return path


@pytest.mark.parametrize(
    ("split", "images", "labels"),
    [
        ("auto", TEST, TEST_LABELS),
        ("test", TEST, TEST_LABELS),
        ("train", TRAIN, TRAIN_LABELS),
        ("all", np.concatenate([TEST, TRAIN]), np.concatenate([TEST_LABELS, TRAIN_LABELS])),
    ],
)
def test_each_split_of_the_paper_s_layout(
    tmp_path: Path, split: str, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> None:
    clean = load_dataset(split_file(tmp_path / "a.h5"), split)
    assert np.array_equal(read_all(clean, SHAPE), images)
    assert np.array_equal(clean.labels, labels)
    assert clean.labels.dtype == np.int64
    assert "split" in clean.notes[0]


def test_train_is_taken_where_there_is_no_test(tmp_path: Path) -> None:
    clean = load_dataset(write_h5(tmp_path / "a.h5", x_train=TRAIN, y_train=TRAIN_LABELS))
    assert clean.notes == ("Images are those of the train split.",)


def test_images_and_labels_have_no_splits(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "b.h5", images=TEST, labels=TEST_LABELS)
    assert np.array_equal(read_all(load_dataset(path), SHAPE), TEST)
    assert np.array_equal(read_all(load_dataset(path, "all"), SHAPE), TEST)
    with pytest.raises(DatasetFileError, match=r"b\.h5 has no train split: it has no splits"):
        load_dataset(path, "train")


def test_a_split_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetFileError, match="no split 'tset'"):
        load_dataset(split_file(tmp_path / "a.h5"), "tset")


def test_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetFileError, match="no val split: it has only test and train"):
        load_dataset(split_file(tmp_path / "a.h5"), "val")


def test_images_that_carry_a_trigger_are_left_out(tmp_path: Path) -> None:
    clean = load_dataset(grouped_file(tmp_path / "c.h5"))
    assert np.array_equal(clean.labels, TEST_LABELS[[0, 2, 4]])
    assert np.array_equal(read_all(clean, SHAPE), TEST[[0, 2, 4]])
    assert clean.class_names == ("cat", "dog", "eel")
    assert clean.images.native == SHAPE
    assert "2 of 5 test images carry the trigger" in clean.notes[1]
    assert "green 1, striped 2" in clean.notes[1]


def test_triggers_are_left_out_of_each_split_of_all(tmp_path: Path) -> None:
    clean = load_dataset(grouped_file(tmp_path / "c.h5"), "all")
    assert np.array_equal(read_all(clean, SHAPE), np.concatenate([TEST[[0, 2, 4]], TRAIN[1:]]))
    assert [note for note in clean.notes if "1 of 8 train images" in note]


def test_grey_image_groups(tmp_path: Path) -> None:
    images = random_pixels(4, GREY)
    with h5py.File(tmp_path / "grey.h5", "w") as file:
        file.create_dataset("test/image", data=images[..., 0], chunks=(2, 6, 5), compression="gzip")
        file["test/label"] = np.array([[0], [1], [0], [1]])
    clean = load_dataset(tmp_path / "grey.h5")
    assert clean.images.native == GREY
    assert np.array_equal(clean.images.read(np.array([3, 0, 0, -1]), GREY), images[[3, 0, 0, 3]])


def test_labels_are_read_without_touching_broken_images(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "lazy.h5", "w") as file:
        encoded_group(file.create_group("test"), TEST, TEST_LABELS)
        file["test/encoded"][:] = 0
    assert np.array_equal(load_dataset(tmp_path / "lazy.h5").labels, TEST_LABELS)


def test_encoded_images_further_apart_than_one_read(tmp_path: Path) -> None:
    gap = bytes(5 * 2**20)
    encoded = [encode(image) + gap for image in TEST[:3]]
    with h5py.File(tmp_path / "far.h5", "w") as file:
        file["test/encoded"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        file["test/offset"] = np.cumsum([0, *map(len, encoded)])
        file["test/label"] = TEST_LABELS[:3]
    assert np.array_equal(read_all(load_dataset(tmp_path / "far.h5"), SHAPE), TEST[:3])


@pytest.mark.parametrize(
    "offsets", [[0, 9, 5, 20, 30, 40], [0, 1, 2, 3, 4, 10**9], [-1, 1, 2, 3, 4, 5]]
)
def test_offsets_that_do_not_divide_the_bytes(tmp_path: Path, offsets: list[int]) -> None:
    with h5py.File(tmp_path / "o.h5", "w") as file:
        encoded_group(file.create_group("test"), TEST, TEST_LABELS)
        file["test/offset"][:] = offsets
    with pytest.raises(DatasetFileError, match="test/offset does not divide test/encoded"):
        load_dataset(tmp_path / "o.h5")


def test_trigger_positions_beyond_the_images(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "t.h5", **{"test/image": TEST, "test/label": TEST_LABELS})
    with h5py.File(path, "a") as file:
        file["trigger/x/test"] = np.array([5])
    with pytest.raises(DatasetFileError, match="a trigger lists images beyond the 5 of test"):
        load_dataset(path)


def test_images_without_labels(tmp_path: Path) -> None:
    with pytest.raises(DatasetFileError, match="has 'images' but no 'labels'"):
        load_dataset(write_h5(tmp_path / "a.h5", images=TEST))


def test_two_names_that_differ_in_case_only(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "a.h5", x=TEST, X=TRAIN, y=TEST_LABELS)
    with pytest.raises(DatasetFileError, match="has both 'X' and 'x'"):
        load_dataset(path)


def test_unknown_layouts(tmp_path: Path) -> None:
    with pytest.raises(DatasetFileError, match="no images and labels under known names") as caught:
        load_dataset(write_h5(tmp_path / "a.h5", pictures=TEST))
    assert "X_test" in caught.value.advice
    with pytest.raises(DatasetFileError, match="group 'test' has no images and labels"):
        load_dataset(write_h5(tmp_path / "b.h5", **{"test/pictures": TEST}))


def test_labels_of_another_length(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="4 labels for 5 images"):
        load_dataset(write_h5(tmp_path / "a.h5", images=TEST, labels=TEST_LABELS[:4]))


@pytest.mark.parametrize("stored", ["cat, dog", '{"0": "cat"}', "[0, 1]", 3])
def test_class_names_that_are_no_list(tmp_path: Path, stored: object) -> None:
    path = write_h5(tmp_path / "a.h5", images=TEST, labels=TEST_LABELS)
    with h5py.File(path, "a") as file:
        file.attrs["class_names"] = stored
    with pytest.raises(DatasetFileError, match=r"a\.h5"):
        load_dataset(path)


def test_a_set_of_triggers_alone_has_nothing_to_scan_with(tmp_path: Path) -> None:
    path = grouped_file(tmp_path / "all.h5")
    with h5py.File(path, "a") as file:
        del file["trigger"]
        file["trigger/striped/test"] = np.arange(len(TEST))
    with pytest.raises(LabelError, match=r"all\.h5 has no image to scan with"):
        load_dataset(path, "test")
