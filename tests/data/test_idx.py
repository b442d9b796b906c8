"""Clean sets in MNIST's own format."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from onnx_soda._data.datasets import load_dataset
from onnx_soda._errors import DatasetFileError, ImageError, LabelError

from .helpers import GREY, random_pixels, read_all, write_idx

IMAGES, LABELS = random_pixels(7, GREY), np.arange(7, dtype=np.uint8)


def write_mnist(folder: Path, suffix: str = "", **counts: int) -> Path:
    for prefix, count in counts.items():
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", IMAGES[:count, ..., 0])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", LABELS[:count])
    return folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_four_files_of_mnist(tmp_path: Path, suffix: str) -> None:
    write_mnist(tmp_path, suffix, train=7, t10k=3)
    clean = load_dataset(tmp_path)
    assert clean.images.native == GREY
    assert clean.notes == ("Images are those of the test split.",)
    assert np.array_equal(read_all(clean, GREY), IMAGES[:3])
    assert load_dataset(tmp_path, "train").labels.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert len(load_dataset(tmp_path, "all").images) == 10


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_file_of_images_finds_its_labels(tmp_path: Path, suffix: str) -> None:
    write_mnist(tmp_path, suffix, train=7, t10k=3)
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    clean = load_dataset(path)
    assert clean.file == path.name
    assert clean.notes == ("Images are those of the train split.",)
    assert np.array_equal(clean.images.read(np.array([6, 0]), GREY), IMAGES[[6, 0]])
    with pytest.raises(DatasetFileError, match="no test split: it has only train"):
        load_dataset(path, "test")


def test_the_digest_covers_the_labels(tmp_path: Path) -> None:
    write_mnist(tmp_path, t10k=3)
    before = load_dataset(tmp_path).sha256
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", LABELS[2::-1])
    assert load_dataset(tmp_path).sha256 != before


def test_a_file_beside_its_packed_copy(tmp_path: Path) -> None:
    write_mnist(tmp_path, "", t10k=3)
    write_mnist(tmp_path, ".gz", t10k=3)
    assert len(load_dataset(tmp_path).labels) == 3


def test_two_data_sets_in_one_folder(tmp_path: Path) -> None:
    write_mnist(tmp_path, "", **{"emnist-digits-test": 3, "emnist-letters-test": 4})
    with pytest.raises(DatasetFileError, match="holds more than one data set"):
        load_dataset(tmp_path)


def test_labels_packed_otherwise_than_the_images(tmp_path: Path) -> None:
    write_idx(tmp_path / "t10k-images-idx3-ubyte", IMAGES[..., 0])
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", LABELS)
    assert load_dataset(tmp_path).labels.tolist() == LABELS.tolist()


def test_missing_labels(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "t10k-images-idx3-ubyte", IMAGES[..., 0])
    with pytest.raises(DatasetFileError, match="no file of labels beside it") as caught:
        load_dataset(path)
    assert "t10k-labels-idx1-ubyte" in caught.value.advice


def test_labels_for_other_images(tmp_path: Path) -> None:
    write_mnist(tmp_path, t10k=3)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", LABELS)
    with pytest.raises(LabelError, match="7 labels for 3 images"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("kept", [3, 9, 17, 60])
def test_a_truncated_file(tmp_path: Path, kept: int) -> None:
    write_mnist(tmp_path, t10k=7)
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DatasetFileError, match="t10k-images-idx3-ubyte"):
        load_dataset(path)


def test_a_truncated_gzip_file(tmp_path: Path) -> None:
    write_mnist(tmp_path, ".gz", t10k=7)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    clean = load_dataset(path)
    with pytest.raises(DatasetFileError, match=r"ubyte\.gz cannot be read: Compressed file ended"):
        read_all(clean, GREY)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_gzip_file_of_another_size_than_declared(tmp_path: Path, change: int) -> None:
    write_mnist(tmp_path, ".gz", t10k=7)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[:-1] if change < 0 else data + b"\0"))
    with pytest.raises(DatasetFileError, match="declares 7 bytes of data, which is not what"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_declared_bomb(tmp_path: Path, suffix: str) -> None:
    write_mnist(tmp_path, t10k=7)
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    data = b"\0\0\x08\x03" + (2**31 - 1).to_bytes(4, "big") * 3
    path = tmp_path / f"t10k-images-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)
    with pytest.raises(DatasetFileError, match="over the limit of 16 GiB"):
        load_dataset(path)


def test_a_gzip_file_that_declares_more_than_gzip_can_pack(tmp_path: Path) -> None:
    write_mnist(tmp_path, t10k=7)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x03" + (2000).to_bytes(4, "big") * 3))
    with pytest.raises(DatasetFileError, match="declares 8000000000 bytes"):
        load_dataset(path)


@pytest.mark.parametrize(
    "data", [b"hello world", b"\0\0\x08\xff" + b"\xff" * 1020, b"\0\0\x0d\x03"]
)
def test_other_gzip_files(tmp_path: Path, data: bytes) -> None:
    for name in ("set-images.gz", "set-labels.gz"):
        (tmp_path / name).write_bytes(gzip.compress(data))
    with pytest.raises(DatasetFileError, match="not an IDX file of unsigned bytes"):
        load_dataset(tmp_path / "set-images.gz")


def test_the_file_of_labels_given_for_that_of_images(tmp_path: Path) -> None:
    write_mnist(tmp_path, t10k=7)
    with pytest.raises(DatasetFileError, match="no file of labels beside it"):
        load_dataset(tmp_path / "t10k-labels-idx1-ubyte")


def test_images_of_other_dimensions(tmp_path: Path) -> None:
    write_mnist(tmp_path, t10k=7)
    write_idx(tmp_path / "t10k-images-idx3-ubyte", IMAGES.reshape(7, -1))
    with pytest.raises(ImageError, match=r"has shape \(7, 30\)"):
        load_dataset(tmp_path)
