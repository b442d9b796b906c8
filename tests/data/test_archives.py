"""Clean sets in archives: read without unpacking, and nothing that leads out of them."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from onnx_soda._data import archive as archives
from onnx_soda._data.datasets import load_dataset
from onnx_soda._errors import DatasetFileError, ImageError, LabelError
from onnx_soda._options import DataOptions

from .helpers import SHAPE, encode, random_pixels, read_all

CATS, DOGS = random_pixels(2, seed=1), random_pixels(1, seed=2)
PETS = {
    "cat/0.png": encode(CATS[0]),
    "cat/1.png": encode(CATS[1]),
    "dog/0.png": encode(DOGS[0]),
}
KINDS = ("pets.zip", "pets.tar", "pets.tar.gz", "pets.tgz")


def write(path: Path, files: Mapping[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in files.items():
                packed.writestr(name, content)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_class_folders_in_an_archive(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / kind, PETS)
    clean = load_dataset(path)
    assert clean.file == kind
    assert clean.class_names == ("cat", "dog")
    assert clean.labels.tolist() == [0, 0, 1]
    assert np.array_equal(read_all(clean, SHAPE), np.concatenate([CATS, DOGS]))
    assert np.array_equal(clean.images.read(np.array([2, 0]), SHAPE), [DOGS[0], CATS[0]])
    assert clean.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert clean.notes == ()
    assert [one.name for one in tmp_path.iterdir()] == [kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_content_counts_not_the_name(tmp_path: Path, kind: str) -> None:
    write(tmp_path / kind, PETS).rename(tmp_path / "pets")
    assert load_dataset(tmp_path / "pets").labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_packed_archive_is_not_kept_in_memory(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "KEPT_BYTES", 100)
    clean = load_dataset(write(tmp_path / kind, PETS))
    for _ in range(2):
        assert np.array_equal(read_all(clean, SHAPE), np.concatenate([CATS, DOGS]))


@pytest.mark.parametrize("kind", KINDS)
def test_what_operating_systems_leave_in_archives_is_skipped(tmp_path: Path, kind: str) -> None:
    junk = {
        "__MACOSX/cat/._0.png": b"x",
        "cat/._1.png": b"x",
        ".DS_Store": b"x",
        "dog/Thumbs.db": b"x",
    }
    clean = load_dataset(write(tmp_path / kind, {**junk, **PETS}))
    assert (clean.labels.tolist(), clean.notes) == ([0, 0, 1], ())


def test_a_folder_around_all_is_no_class(tmp_path: Path) -> None:
    wrapped = {f"./data/pets/{name}": content for name, content in PETS.items()}
    clean = load_dataset(write(tmp_path / "pets.tar", wrapped))
    assert clean.class_names == ("cat", "dog")
    assert np.array_equal(read_all(clean, SHAPE), np.concatenate([CATS, DOGS]))


def test_splits_and_lists_in_an_archive(tmp_path: Path) -> None:
    split = {f"train/{name}": content for name, content in PETS.items()}
    clean = load_dataset(write(tmp_path / "pets.zip", split | {"val/dog/9.png": PETS["dog/0.png"]}))
    assert (clean.labels.tolist(), clean.class_names) == ([1], ("cat", "dog"))
    listed = {"set/labels.csv": b"0.png,4\n1.png,5\n", "set/0.png": PETS["cat/0.png"],
              "set/1.png": PETS["dog/0.png"]}  # fmt: skip
    assert load_dataset(write(tmp_path / "listed.zip", listed)).labels.tolist() == [4, 5]
    (tmp_path / "own.csv").write_text("cat/0.png,2\ncat/1.png,3\n")
    own = DataOptions(labels=str(tmp_path / "own.csv"))
    clean = load_dataset(write(tmp_path / "pets.zip", PETS), options=own)
    assert clean.labels.tolist() == [2, 3]
    assert clean.notes[1] == "Left out: 1 image that is not in the list (dog/0.png)."


@pytest.mark.parametrize("kind", ["pets.zip", "pets.tar"])
@pytest.mark.parametrize("name", ["../cat/0.png", "/cat/0.png", "cat/../../0.png", "cat\\0.png"])
def test_names_that_lead_out_of_the_archive(tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(DatasetFileError, match="leads out of the archive"):
        load_dataset(write(tmp_path / kind, {**PETS, name: PETS["cat/0.png"]}))


def test_links_in_a_tar_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "pets.tar", PETS)
    with tarfile.open(path, "a") as packed:
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "cat/0.png")):
            info = tarfile.TarInfo(f"cat/link{kind.decode()}.png")
            info.type, info.linkname = kind, target
            packed.addfile(info)
    clean = load_dataset(path)
    assert clean.labels.tolist() == [0, 0, 1]
    assert clean.notes == ("Left out: 2 links in the archive (cat/link2.png, cat/link1.png).",)


def test_links_in_a_zip_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "pets.zip", PETS)
    with zipfile.ZipFile(path, "a") as packed:
        info = zipfile.ZipInfo("cat/link.png")
        info.external_attr = 0o120777 << 16
        packed.writestr(info, "/etc/passwd")
    assert load_dataset(path).notes == ("Left out: 1 link in the archive (cat/link.png).",)


def test_a_zip_that_declares_too_much(tmp_path: Path) -> None:
    """The size in the directory of the archive is changed to 4 GB less one byte, five times."""
    path = write(tmp_path / "pets.zip", {**PETS, "dog/1.png": b"x", "dog/2.png": b"x"})
    content = bytearray(path.read_bytes())
    place = content.find(b"PK\x01\x02")
    while place >= 0:
        content[place + 24 : place + 28] = struct.pack("<I", 2**32 - 2)
        place = content.find(b"PK\x01\x02", place + 4)
    path.write_bytes(content)
    with pytest.raises(DatasetFileError, match="over the limit of 16 GiB"):
        load_dataset(path)


def test_an_image_that_declares_too_much_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_LARGEST_FILE", 10)
    clean = load_dataset(write(tmp_path / "pets.zip", PETS))
    with pytest.raises(ImageError, match=r"cat/0\.png declares .* bytes"):
        read_all(clean, SHAPE)


@pytest.mark.parametrize("offset", [9, 12, 40, 60])
def test_a_damaged_image_in_a_zip_is_named(tmp_path: Path, offset: int) -> None:
    """The first bytes behind the name are those of the packed image."""
    path = write(tmp_path / "pets.zip", PETS)
    content = bytearray(path.read_bytes())
    content[content.find(b"cat/1.png") + offset] ^= 0xFF
    path.write_bytes(content)
    clean = load_dataset(path)
    with pytest.raises(ImageError, match=r"pets\.zip: cat/1\.png cannot be"):
        read_all(clean, SHAPE)


def test_an_archive_that_is_cut_short(tmp_path: Path) -> None:
    for kind in ("pets.zip", "pets.tar.gz"):
        path = write(tmp_path / kind, PETS)
        path.write_bytes(path.read_bytes()[:-60])
        with pytest.raises(DatasetFileError, match=f"{kind} cannot be read"):
            load_dataset(path)


def test_an_archive_without_images(tmp_path: Path) -> None:
    for kind in KINDS:
        with pytest.raises(DatasetFileError, match="holds no class folders"):
            load_dataset(write(tmp_path / kind, {"readme.txt": b"nothing"}))
    with pytest.raises(LabelError, match="the class folder bee holds no images"):
        load_dataset(write(tmp_path / "pets.zip", {**PETS, "bee/x.txt": b""}))
