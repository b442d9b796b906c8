"""Clean sets in a folder of class folders."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from onnx_soda._data.datasets import load_dataset
from onnx_soda._errors import DatasetFileError, ImageError, LabelError
from onnx_soda._options import DataOptions

from .helpers import GREY, SHAPE, encode, random_pixels, read_all, write_class_folders

CATS, DOGS = random_pixels(3, seed=1), random_pixels(2, seed=2)


def test_classes_are_numbered_by_name(tmp_path: Path) -> None:
    clean = load_dataset(write_class_folders(tmp_path / "pets", {"dog": DOGS, "cat": CATS}))
    assert clean.file == "pets"
    assert clean.class_names == ("cat", "dog")
    assert clean.labels.tolist() == [0, 0, 0, 1, 1]
    assert clean.images.native == SHAPE
    assert np.array_equal(read_all(clean, SHAPE), np.concatenate([CATS, DOGS]))
    assert clean.notes == ()


def test_numbers_as_folder_names_are_the_labels(tmp_path: Path) -> None:
    clean = load_dataset(write_class_folders(tmp_path, {"00010": CATS, "00002": DOGS}))
    assert clean.class_names is None
    assert clean.labels.tolist() == [2, 2, 10, 10, 10]
    assert np.array_equal(clean.images.read(np.array([0]), SHAPE), DOGS[:1])


@pytest.mark.parametrize(
    ("names", "other"),
    [
        (("0", "1", "2"), ""),
        # By their names the order is 0, 1, 10, 2: torchvision gives "10" the number 2.
        (("0", "1", "2", "10"), "there 10 is class 2."),
        # Numbered from 1: torchvision gives "1" the number 0.
        (("1", "2"), "there 1 is class 0."),
    ],
)
def test_numbers_as_folder_names_are_told(
    tmp_path: Path, names: tuple[str, ...], other: str
) -> None:
    (note,) = load_dataset(write_class_folders(tmp_path, dict.fromkeys(names, DOGS))).notes
    assert "taken as class numbers" in note
    assert note.endswith(other)
    assert ("ImageFolder" in note) == bool(other)


def test_two_folders_for_one_number(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="two class folders for the same number"):
        load_dataset(write_class_folders(tmp_path, {"1": CATS, "01": DOGS}))


def test_a_number_too_large_for_a_class(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="not a class number"):
        load_dataset(write_class_folders(tmp_path, {"12345678901": CATS}))


def test_other_files_are_counted_and_hidden_ones_skipped(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": CATS, "dog": DOGS})
    (tmp_path / "cat" / "notes.txt").write_text("about cats")
    (tmp_path / "cat" / ".DS_Store").write_text("")
    (tmp_path / ".git").mkdir()
    (tmp_path / "README.md").write_text("about pets")
    for name in ("Thumbs.db", "._000.png", "desktop.ini", "__MACOSX/000.png"):
        (tmp_path / "cat" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "cat" / name).write_text("")
    clean = load_dataset(tmp_path)
    assert clean.notes == (
        "Left out: 2 files that are no images in a class folder (README.md, cat/notes.txt).",
    )
    assert len(clean.labels) == 5


def test_what_is_left_out_is_counted_and_the_first_are_named(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": CATS})
    (tmp_path / "cat" / "4.png").symlink_to(tmp_path / "nowhere.png")
    for number in range(5):
        (tmp_path / "cat" / f"{number}.txt").write_text("")
    assert load_dataset(tmp_path).notes == (
        "Left out: 1 link to nothing, or no file (cat/4.png).",
        "Left out: 5 files that are no images in a class folder (cat/0.txt, cat/1.txt, cat/2.txt "
        "and 2 more).",
    )


def test_images_deeper_inside_a_class_folder(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "cat", {"images": CATS})
    assert load_dataset(tmp_path).labels.tolist() == [0, 0, 0]


def test_splits_in_subfolders(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", {"cat": CATS, "dog": DOGS})
    write_class_folders(tmp_path / "val", {"dog": DOGS[:1]})
    clean = load_dataset(tmp_path)
    assert clean.notes == ("Images are those of the val split.",)
    # The class of val keeps the number it has in train.
    assert clean.labels.tolist() == [1]
    assert clean.class_names == ("cat", "dog")
    assert load_dataset(tmp_path, "all").labels.tolist() == [1, 0, 0, 0, 1, 1]


def test_a_class_called_train_is_not_a_split(tmp_path: Path) -> None:
    clean = load_dataset(write_class_folders(tmp_path, {"train": CATS, "bus": DOGS}))
    assert clean.class_names == ("bus", "train")


def test_the_digest_can_be_computed_by_hand(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": CATS[:1], "dog": DOGS[:1]})
    lines = "".join(
        f"{name}/000.png\0{hashlib.sha256(encode(image)).hexdigest()}\n"
        for name, image in (("cat", CATS[0]), ("dog", DOGS[0]))
    )
    assert load_dataset(tmp_path).sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": CATS})
    (tmp_path / "unicorn").mkdir()
    with pytest.raises(LabelError, match="class folder unicorn holds no images"):
        load_dataset(tmp_path)


def test_a_folder_without_class_folders(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(encode(CATS[0]))
    with pytest.raises(DatasetFileError, match="holds no class folders"):
        load_dataset(tmp_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names are text elsewhere")
def test_a_name_that_is_no_text_can_be_reported(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": CATS})
    (tmp_path / "cat" / os.fsdecode(b"\xff.txt")).touch()
    (note,) = load_dataset(tmp_path).notes
    assert (
        note.encode() == b"Left out: 1 file that is no image in a class folder (cat/\\udcff.txt)."
    )


@pytest.mark.parametrize("where", ["unicorn", "cat/secret.png", "cat/sub"])
def test_links_that_leave_the_folder_are_refused(tmp_path: Path, where: str) -> None:
    root = write_class_folders(tmp_path / "set", {"cat": CATS})
    outside = write_class_folders(tmp_path / "outside", {"dog": DOGS})
    target = outside / "dog" / "000.png" if where.endswith(".png") else outside / "dog"
    (root / where).symlink_to(target)
    with pytest.raises(DatasetFileError, match=f"{where} is a link that leaves the folder"):
        load_dataset(root)


@pytest.mark.parametrize("where", ["unicorn", "cat/secret.png", "cat/sub"])
def test_links_may_lead_below_a_folder_that_is_named(tmp_path: Path, where: str) -> None:
    """As DVC, git-annex and `ln -s` leave them: the images lie elsewhere."""
    root = write_class_folders(tmp_path / "set", {"cat": CATS})
    outside = write_class_folders(tmp_path / "outside", {"dog": DOGS})
    target = outside / "dog" / "000.png" if where.endswith(".png") else outside / "dog"
    (root / where).symlink_to(target)
    clean = load_dataset(root, options=DataOptions(data_root=str(outside)))
    assert len(clean.labels) == (4 if where.endswith(".png") else 5)
    assert any(np.array_equal(image, DOGS[0]) for image in read_all(clean, SHAPE))
    with pytest.raises(DatasetFileError, match="is a link that leaves") as caught:
        load_dataset(root, options=DataOptions(data_root=str(root / "cat")))
    assert "`data_root`" in caught.value.advice


def test_a_link_to_the_folder_it_lies_in_has_an_end(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": CATS})
    (tmp_path / "cat" / "again").symlink_to(tmp_path)
    assert load_dataset(tmp_path).labels.tolist() == [0, 0, 0]


def test_links_inside_the_folder_are_read(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": CATS})
    (tmp_path / "cat" / "same.png").symlink_to(tmp_path / "cat" / "000.png")
    clean = load_dataset(tmp_path)
    assert np.array_equal(clean.images.read(np.array([3]), SHAPE), CATS[:1])


def test_an_unreadable_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "pets", {"cat": CATS})
    (tmp_path / "pets" / "cat" / "001.png").write_text("no image")
    clean = load_dataset(tmp_path / "pets")
    assert clean.images.read(np.array([0]), SHAPE).shape == (1, 6, 5, 3)
    with pytest.raises(ImageError, match=r"pets: cat/001\.png cannot be decoded: not an image"):
        read_all(clean, SHAPE)


def test_an_image_that_is_gone_is_named(tmp_path: Path) -> None:
    clean = load_dataset(write_class_folders(tmp_path, {"cat": CATS}))
    (tmp_path / "cat" / "002.png").unlink()
    with pytest.raises(ImageError, match=r"cat/002\.png cannot be read: No such file"):
        read_all(clean, SHAPE)


def test_mixed_sizes_have_no_native_shape(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"a": CATS, "b": np.zeros((1, 9, 9, 3), np.uint8)})
    clean = load_dataset(tmp_path)
    assert clean.images.native is None
    assert read_all(clean, SHAPE).shape == (4, 6, 5, 3)


def test_colour_images_for_a_grey_model(tmp_path: Path) -> None:
    clean = load_dataset(write_class_folders(tmp_path, {"cat": CATS}))
    with pytest.raises(ImageError, match=r"is a colour image \(3 channels\).* wants 1 channel"):
        read_all(clean, GREY)
