"""Whatever the user gives: the format is told by the content, and refusals name the file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from onnx_soda._data.datasets import load_dataset
from onnx_soda._errors import DatasetFileError

from .helpers import SHAPE, random_pixels, read_all, write_h5

IMAGES, LABELS = random_pixels(3), np.arange(3)


def refused(path: Path, reason: str) -> None:
    with pytest.raises(DatasetFileError, match=reason) as caught:
        load_dataset(path)
    assert path.name in caught.value.message
    assert str(path.parent) not in caught.value.message
    assert caught.value.advice


def test_the_content_counts_not_the_name(tmp_path: Path) -> None:
    write_h5(tmp_path / "set.npz", images=IMAGES, labels=LABELS)
    np.savez(tmp_path / "set.h5.npz", images=IMAGES, labels=LABELS)
    (tmp_path / "set.h5.npz").rename(tmp_path / "set.h5")
    for name in ("set.npz", "set.h5"):
        assert np.array_equal(read_all(load_dataset(tmp_path / name), SHAPE), IMAGES)


def test_a_clean_set_is_identified_by_name_and_digest(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "set.h5", images=IMAGES, labels=LABELS)
    clean = load_dataset(str(path))
    assert clean.file == "set.h5"
    assert clean.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert clean.class_names is None


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.h5", "is not there")


def test_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "set.h5").symlink_to(tmp_path / "nowhere.h5")
    refused(tmp_path / "set.h5", "is not there")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "set.h5").touch()
    refused(tmp_path / "set.h5", "is empty")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "set.h5")
    refused(tmp_path / "set.h5", "neither a file nor a folder")


@pytest.mark.parametrize("name", ["set.pkl", "photo.png", "set.xlsx"])
def test_unknown_formats(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04 something")
    refused(tmp_path / name, "is of no format known here")


@pytest.mark.parametrize("name", ["set.h5", "set.hdf5", "set.npz", "set.parquet", "set.tar"])
def test_files_that_are_not_what_their_name_says(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"404 not found")
    refused(tmp_path / name, "cannot be read")


@pytest.mark.parametrize("name", ["set.h5", "set.npz", "set.parquet", "set"])
@pytest.mark.parametrize(
    ("text", "what", "advice"),
    [
        (b"\xef\xbb\xbf\n<!doctype HTML><p>404</p>", "a web page", "Download the raw file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer", "git lfs pull"),
    ],
)
def test_what_was_not_fetched_is_named(
    tmp_path: Path, name: str, text: bytes, what: str, advice: str
) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(DatasetFileError, match=what) as caught:
        load_dataset(tmp_path / name)
    assert advice in caught.value.advice


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("set.csv", "is no text in UTF-8"),
        ("set.jsonl", "is no text in UTF-8"),
        ("set.json", "is no text in UTF-8"),
        ("set.zip", "cannot be read"),
        ("set.tar.gz", "cannot be read"),
        ("images.npy", "cannot be read"),
        ("set.npy", "has no labels beside it"),
    ],
)
def test_lists_and_archives_that_are_none(tmp_path: Path, name: str, reason: str) -> None:
    np.save(tmp_path / "labels.npy", LABELS)
    (tmp_path / name).write_bytes(b"\x80\xff something")
    refused(tmp_path / name, reason)


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    refused(tmp_path / "set", "holds no class folders")


def test_a_file_that_is_mostly_a_hole_is_not_read_through(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "clean.h5", images=IMAGES, labels=LABELS)
    os.truncate(path, 2**40)
    refused(path, "1,024.0 GiB of data, over the limit")
