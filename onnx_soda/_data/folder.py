"""Clean sets as a folder of class folders, as torchvision's ImageFolder has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnx_soda._data.images import EncodedSource
from onnx_soda._data.sources import IntArray, readable
from onnx_soda._data.splits import (
    UNSPLIT,
    SplitData,
    as_labels,
    choose_splits,
    join_parts,
    split_note,
    split_of_folder,
)
from onnx_soda._errors import DatasetFileError, ImageError, LabelError
from onnx_soda._words import as_text, shown_name

_EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)


@dataclass(frozen=True)
class _Files:
    """Image files; names in errors are relative to the folder given by the caller."""

    root: Path
    paths: Sequence[Path]

    def fetch(self, positions: IntArray) -> Iterator[tuple[str, bytes]]:
        """Yield name and bytes of the images asked for."""
        for path in (self.paths[position] for position in positions):
            name = f"{shown_name(self.root)}: {_below(path, self.root)}"
            try:
                data = path.read_bytes()
            except OSError as error:
                raise ImageError(
                    f"{name} cannot be read: {error.strerror}", "Restore or remove the image."
                ) from error
            yield name, data


def load_folder(path: Path, split: str) -> SplitData:
    """List the images of a folder of class folders; they are decoded when asked for.

    Folders called ``train``, ``test`` or ``val`` that hold class folders are splits. Where all
    class folders have whole numbers for names, these are the labels; otherwise the classes are
    numbered in the order of their names. Images may lie deeper inside a class folder. Hidden
    files are skipped.

    Raises:
        DatasetFileError: No class folders, a link that leaves the folder, or no such split.
        LabelError: An empty class folder, or two that stand for the same number.
    """
    name = shown_name(path)
    with readable(name):
        splits = _split_folders(path)
        chosen = choose_splits(splits, split, name)
        # All splits name the classes: one without images in a split must not renumber the others.
        classes = sorted(
            {entry.name for folder in splits.values() for entry in _folders(folder, path)}
        )
        if not classes:
            raise DatasetFileError(
                f"{name} holds no class folders", "Give each class a folder with its images."
            )
        joined = join_parts([_part(splits[which], classes, path) for which in chosen], name)
    numbered = all(_is_number(entry) for entry in classes)
    return replace(
        joined,
        class_names=None if numbered else tuple(map(as_text, classes)),
        notes=(*split_note(chosen), *_number_note(classes, numbered), *joined.notes),
    )


def _number_note(classes: Sequence[str], numbered: bool) -> tuple[str, ...]:
    """Say that names were taken as numbers, and where another reader would number otherwise.

    Args:
        classes: Names of the class folders, in their order.
        numbered: All of them are whole numbers.
    """
    if not numbered:
        return ()
    note = "The class folders have whole numbers for names, which are taken as class numbers."
    other = next((place for place, name in enumerate(classes) if int(name) != place), None)
    if other is None:
        return (note,)
    return (
        f"{note} A model trained with torchvision's ImageFolder numbers them by the order of their "
        f"names: there {classes[other]} is class {other}.",
    )


def _split_folders(root: Path) -> dict[str, Path]:
    found = {
        split_of_folder(entry.name): entry
        for entry in _folders(root, root)
        if split_of_folder(entry.name) != UNSPLIT and _folders(entry, root)
    }
    return found or {UNSPLIT: root}


def _folders(folder: Path, root: Path) -> list[Path]:
    return [entry for entry in _visible(folder, root) if entry.is_dir()]


def _visible(folder: Path, root: Path) -> list[Path]:
    """Return the entries of a folder, without hidden ones; refuse links that leave the root."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        _refuse_leaving(entry, root)
    return entries


def _refuse_leaving(entry: Path, root: Path) -> None:
    if entry.is_symlink() and not entry.resolve().is_relative_to(root.resolve()):
        link = _below(entry, root)
        raise DatasetFileError(
            f"{shown_name(root)}: {link} is a link that leaves the folder",
            "Copy what it points to into the folder.",
        )


def _below(path: Path, root: Path) -> str:
    return as_text(path.relative_to(root).as_posix())


def _part(folder: Path, classes: Sequence[str], root: Path) -> SplitData:
    paths: list[Path] = []
    numbers: list[int] = []
    ignored = 0
    labels = _label_of(classes, root)
    for entry in _folders(folder, root):
        images, others = _images_below(entry, root)
        if not images:
            raise LabelError(
                f"{shown_name(root)}: the class folder {_below(entry, root)} holds no images",
                "Put images of the class into it, or remove it.",
            )
        paths += images
        numbers += [labels[entry.name]] * len(images)
        ignored += others
    notes = (f"{ignored} files that are not images were ignored.",) if ignored else ()
    source = EncodedSource(len(paths), _Files(root, paths).fetch)
    checked = as_labels(np.array(numbers), len(paths), f"the labels of {shown_name(root)}")
    return SplitData(source, checked, tuple(paths), notes=notes)


def _images_below(folder: Path, root: Path) -> tuple[list[Path], int]:
    """Return the images in a class folder and below, and how many other files there are."""
    images, others = [], 0
    for entry in sorted(folder.rglob("*")):  # rglob does not go into linked folders
        _refuse_leaving(entry, root)
        if any(part.startswith(".") for part in entry.relative_to(folder).parts) or entry.is_dir():
            continue
        if entry.suffix.lower() in _EXTENSIONS and entry.is_file():
            images.append(entry)
        else:
            others += 1
    return images, others


def _label_of(classes: Sequence[str], root: Path) -> dict[str, int]:
    if not all(_is_number(entry) for entry in classes):
        return {entry: number for number, entry in enumerate(classes)}
    labels = {entry: int(entry) for entry in classes}
    if len(set(labels.values())) < len(classes):
        raise LabelError(
            f"{shown_name(root)} has two class folders for the same number",
            "Name each class folder with its own number.",
        )
    return labels


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()
