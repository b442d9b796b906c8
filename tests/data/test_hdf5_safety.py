"""HDF5 files that reach beyond themselves are refused before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_soda._data.datasets import load_dataset
from onnx_soda._errors import DatasetFileError

from .helpers import SHAPE, random_pixels, read_all, write_h5

IMAGES, LABELS = random_pixels(4), np.arange(4)


def refused(path: Path, reason: str) -> None:
    with pytest.raises(DatasetFileError, match=reason) as caught:
        load_dataset(path)
    assert path.name in caught.value.message
    assert caught.value.advice


def soft_link(file: h5py.File, folder: Path) -> None:
    del folder
    file["images"] = h5py.SoftLink("/labels")


def external_link(file: h5py.File, folder: Path) -> None:
    secret = write_h5(folder / "secret.h5", images=IMAGES)
    file["images"] = h5py.ExternalLink(str(secret), "/images")


def external_storage(file: h5py.File, folder: Path) -> None:
    (folder / "secret.bin").write_bytes(IMAGES.tobytes())
    size = IMAGES.nbytes
    file.create_dataset(
        "images", IMAGES.shape, "u1", external=[(str(folder / "secret.bin"), 0, size)]
    )


def virtual(file: h5py.File, folder: Path) -> None:
    secret = write_h5(folder / "secret.h5", images=IMAGES)
    layout = h5py.VirtualLayout(IMAGES.shape, "u1")
    layout[:] = h5py.VirtualSource(str(secret), "images", IMAGES.shape)
    file.create_virtual_dataset("images", layout)


def declared_bomb(file: h5py.File, folder: Path) -> None:
    del folder
    file.create_dataset("images", (10**6, 1000, 1000), "u1", chunks=(1, 1000, 1000))


def built_in_but_not_listed_filter(file: h5py.File, folder: Path) -> None:
    del folder
    file.create_dataset("images", data=IMAGES, scaleoffset=0, chunks=True)


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (soft_link, "'images' is a SoftLink"),
        (external_link, "'images' is a ExternalLink"),
        (external_storage, "keeps its data in another file"),
        (virtual, "is virtual"),
        (declared_bomb, "declares 931.3 GiB of data, over the limit of 16 GiB"),
        (built_in_but_not_listed_filter, "needs HDF5 filter 6"),
    ],
)
def test_what_leads_elsewhere_is_refused(
    tmp_path: Path, plant: Callable[[h5py.File, Path], None], reason: str
) -> None:
    path = write_h5(tmp_path / "evil.h5", labels=LABELS)
    with h5py.File(path, "a") as file:
        plant(file, tmp_path)
    refused(path, reason)


def test_links_are_refused_deep_inside_and_beside_good_data(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "evil.h5", images=IMAGES, labels=LABELS)
    with h5py.File(path, "a") as file:
        file["a/b/c"] = h5py.SoftLink("/images")
    refused(path, "'c' is a SoftLink")


def test_the_limit_is_on_all_data_sets_together(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "evil.h5", images=IMAGES, labels=LABELS)
    with h5py.File(path, "a") as file:
        for number in range(3):
            file.create_dataset(f"more{number}", (6 * 2**30,), "u1", chunks=(2**20,))
    refused(path, "declares 18.0 GiB")


def test_groups_in_a_circle_are_walked_once(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "round.h5", images=IMAGES, labels=LABELS)
    with h5py.File(path, "a") as file:
        file.create_group("a/b")
        file["a/b/up"] = file["a"]
        file["a/b/root"] = file["/"]
    assert np.array_equal(read_all(load_dataset(path), SHAPE), IMAGES)


def test_a_file_swapped_after_loading_is_checked_again(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "swapped.h5", images=IMAGES, labels=LABELS)
    clean = load_dataset(path)
    with h5py.File(path, "w") as file:
        virtual(file, tmp_path)
    with pytest.raises(DatasetFileError, match="is virtual"):
        read_all(clean, SHAPE)


@pytest.mark.parametrize(
    "options",
    [{"compression": "gzip", "shuffle": True}, {"compression": "lzf"}, {"fletcher32": True}],
)
def test_the_usual_filters_are_read(tmp_path: Path, options: dict[str, object]) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("images", data=IMAGES, **options)
        file["labels"] = LABELS
    assert np.array_equal(read_all(load_dataset(tmp_path / "f.h5"), SHAPE), IMAGES)


@pytest.mark.parametrize(
    "images",
    [
        np.array(["a", "b", "c", "d"], dtype=h5py.string_dtype()),
        np.zeros(4, dtype=[("r", "u1"), ("g", "u1")]),
        np.array(3),
    ],
    ids=["strings", "records", "a single number"],
)
def test_other_elements_than_numbers_are_refused(tmp_path: Path, images: NDArray[Any]) -> None:
    refused(
        write_h5(tmp_path / "s.h5", images=images, labels=LABELS), "not an array of the numbers"
    )


def test_a_truncated_file(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "cut.h5", images=random_pixels(500), labels=np.arange(500))
    path.write_bytes(path.read_bytes()[:5000])
    refused(path, "truncated file")


def test_a_damaged_chunk_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "damaged.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("images", data=IMAGES, fletcher32=True)
        file["labels"] = LABELS
        offset = data.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)
    clean = load_dataset(path)
    with pytest.raises(DatasetFileError, match=r"damaged\.h5 cannot be read"):
        read_all(clean, SHAPE)
