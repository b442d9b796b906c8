"""Clean sets in .npz files."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnx_soda._data.datasets import load_dataset
from onnx_soda._errors import DatasetFileError, ImageError, LabelError
from onnx_soda._options import DataOptions

from .helpers import SHAPE, random_pixels, read_all

IMAGES, LABELS = random_pixels(6), np.arange(6) % 2


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        ("x", "y"),
        ("X", "Y"),
        ("X_TEST", "y_test"),
        ("test_images", "test_labels"),
    ],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_names_of_images_and_labels(
    tmp_path: Path, images: str, labels: str, save: Callable[..., None]
) -> None:
    save(tmp_path / "a.npz", **{images: IMAGES, labels: LABELS})
    clean = load_dataset(tmp_path / "a.npz")
    assert clean.images.native == SHAPE
    assert np.array_equal(read_all(clean, SHAPE), IMAGES)
    assert np.array_equal(clean.labels, LABELS)


def test_the_split_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "mnist.npz"
    np.savez(path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:2], y_test=LABELS[:2])
    assert len(load_dataset(path).images) == 2
    assert len(load_dataset(path, "train").images) == 6
    everything = load_dataset(path, "all")
    assert np.array_equal(read_all(everything, SHAPE), np.concatenate([IMAGES[:2], IMAGES]))
    assert everything.notes == ("Images are those of the test and train splits.",)


def refused(path: Path, reason: str) -> None:
    with pytest.raises(DatasetFileError, match=reason) as caught:
        load_dataset(path)
    assert path.name in caught.value.message
    assert caught.value.advice


def test_pickled_objects_are_not_unpickled(tmp_path: Path) -> None:
    ragged = np.array([IMAGES[0], IMAGES[1, :2]], dtype=object)
    np.savez(tmp_path / "a.npz", images=ragged, labels=np.array([0, 1]))
    refused(tmp_path / "a.npz", "images holds Python objects")


def declare(path: Path, sizes: int) -> None:
    """Make each member's declared size that of the argument, in the zip's directory."""
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        content[at + 24 : at + 28] = struct.pack("<I", sizes)
        at = content.find(b"PK\x01\x02", at + 4)
    path.write_bytes(content)


def test_a_zip_bomb_is_refused_unread(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {f"x{number}": IMAGES for number in range(5)}
    np.savez_compressed(tmp_path / "a.npz", images=IMAGES, labels=LABELS, **arrays)
    declare(tmp_path / "a.npz", 2**32 - 2)
    refused(tmp_path / "a.npz", "declares 28.0 GiB of data")


def test_an_array_that_declares_more_than_is_stored(tmp_path: Path) -> None:
    header = io.BytesIO()
    npy.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 6, 5, 3)}
    )
    np.savez(tmp_path / "a.npz", labels=LABELS)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("images.npy", header.getvalue() + b"few")
    refused(tmp_path / "a.npz", "images declares shape .* not what is stored")


@pytest.mark.parametrize("kept", [100, 400])
def test_a_truncated_file(tmp_path: Path, kept: int) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[:kept])
    refused(tmp_path / "a.npz", "cannot be read")


def test_a_damaged_array_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    path, images = tmp_path / "a.npz", random_pixels(200)
    np.savez(path, images=images, labels=np.arange(200))
    content = bytearray(path.read_bytes())
    content[content.find(images[-1].tobytes())] ^= 0xFF
    path.write_bytes(content)
    clean = load_dataset(path)
    with pytest.raises(DatasetFileError, match="CRC"):
        read_all(clean, SHAPE)


def test_a_zip_without_arrays(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "a.zip", "holds no class folders")
    (tmp_path / "a.zip").rename(tmp_path / "a.npz")
    refused(tmp_path / "a.npz", "no images and labels under known names")


def test_labels_of_another_length(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS[:-1])
    with pytest.raises(LabelError, match="5 labels for 6 images"):
        load_dataset(tmp_path / "a.npz")


@pytest.mark.parametrize("images", [IMAGES.reshape(6, -1), IMAGES[:0], IMAGES.astype(np.int32)])
def test_arrays_that_are_no_images(tmp_path: Path, images: NDArray[Any]) -> None:
    np.savez(tmp_path / "a.npz", images=images, labels=LABELS[: len(images)])
    with pytest.raises(ImageError, match=r"a\.npz: images has (shape|elements)") as caught:
        load_dataset(tmp_path / "a.npz")
    assert "Store" in caught.value.advice


@pytest.mark.parametrize(
    ("images", "labels"), [("images", "labels"), ("x_test", "y_test"), ("X", "y")]
)
def test_a_pair_of_npy_files(tmp_path: Path, images: str, labels: str) -> None:
    np.save(tmp_path / f"{images}.npy", IMAGES)
    np.save(tmp_path / f"{labels}.npy", LABELS)
    for path in (tmp_path, tmp_path / f"{images}.npy"):
        clean = load_dataset(path)
        assert np.array_equal(read_all(clean, SHAPE), IMAGES)
        assert np.array_equal(clean.labels, LABELS)


def test_npy_files_of_two_splits(tmp_path: Path) -> None:
    for name, array in (("x_train", IMAGES), ("x_test", IMAGES[:2])):
        np.save(tmp_path / f"{name}.npy", array)
        np.save(tmp_path / f"y{name[1:]}.npy", LABELS[: len(array)])
    assert len(load_dataset(tmp_path).labels) == 2
    assert len(load_dataset(tmp_path, "train").labels) == 6
    assert load_dataset(tmp_path / "x_train.npy").notes == ("Images are those of the train split.",)


def test_npy_labels_that_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "pixels.npy", IMAGES)
    np.save(tmp_path / "other" / "truth.npy", LABELS)
    told = DataOptions(labels=str(tmp_path / "other" / "truth.npy"))
    clean = load_dataset(tmp_path / "pixels.npy", options=told)
    assert np.array_equal(clean.labels, LABELS)
    before = clean.sha256
    np.save(tmp_path / "other" / "truth.npy", 1 - LABELS)
    assert load_dataset(tmp_path / "pixels.npy", options=told).sha256 != before


def test_npy_with_objects_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.array([print], dtype=object), allow_pickle=True)
    np.save(tmp_path / "labels.npy", LABELS)
    refused(tmp_path / "images.npy", "holds Python objects")


def test_npy_that_is_cut_short(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "labels.npy", LABELS)
    (tmp_path / "images.npy").write_bytes((tmp_path / "images.npy").read_bytes()[:-5])
    refused(tmp_path / "images.npy", "which is not what is stored")
