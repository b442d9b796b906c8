"""Clean sets as images with a list that says which class each is of.

``labels.csv`` has the columns image and label, with a header or without. ``metadata.csv`` and
``metadata.jsonl`` are those of Hugging Face's ``imagefolder``: ``file_name`` and ``label``
(https://huggingface.co/docs/datasets/image_dataset). A list may lie in each of ``train``, ``val``
and ``test``, or have a column that says so.
"""

from __future__ import annotations

import csv
import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnx_soda._data.folder import load_with_list
from onnx_soda._data.forms import LIST_FILES, SPLIT_WORDS
from onnx_soda._data.splits import (
    UNSPLIT,
    SplitData,
    choose_splits,
    join_parts,
    split_note,
    split_of_folder,
)
from onnx_soda._data.tree import (
    Tree,
    class_numbers,
    images_of,
    is_image,
    left_out,
    text_of,
)
from onnx_soda._errors import DatasetFileError, LabelError
from onnx_soda._options import DataOptions

# Names of columns, the likeliest first, in lower case.
_IMAGE_COLUMNS = (
    "file_name", "filename", "file", "image", "image_name", "image_path", "path", "img",
    "image_id", "id",
)  # fmt: skip
_LABEL_COLUMNS = (
    "label", "labels", "class", "class_name", "category", "target", "class_id", "label_id", "y",
)  # fmt: skip
_SPLIT_COLUMNS = ("split", "set", "subset")
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class Row:
    """What a list says of an image.

    Attributes:
        image: Its name, as the list has it.
        label: Its label; "" where the list has none, None where it has several.
        split: The split it is of.
    """

    image: str
    label: str | None
    split: str = UNSPLIT


@dataclass(frozen=True)
class ImageList:
    """A list of images with labels.

    Attributes:
        name: The file's name, as errors and notes call it.
        folder: Name of the folder that images are named from, with "/" behind it; "" for the top.
        rows: What it says.
        file: The file itself, where it is one of its own.
    """

    name: str
    folder: str
    rows: Sequence[Row]
    file: Path | None = None


def load_listed(path: Path, split: str, options: DataOptions) -> SplitData:
    """Read which class each image of a folder is of, from a list beside the images.

    Args:
        path: The folder, or the list.
        split: See `choose_splits`.
        options: They may name a list that lies elsewhere.

    Raises:
        DatasetFileError: No list, one that cannot be read, or no such split.
        LabelError: A label is no class.
    """
    return load_with_list(path, split, options, load_listed_tree)


def load_listed_tree(tree: Tree, split: str, named: Path | None = None) -> SplitData:
    """Read which class each image of a tree is of.

    Args:
        tree: The images, and the lists where none is named.
        split: See `choose_splits`.
        named: A list that lies elsewhere, whose images are named from the top of the tree.
    """
    if named is not None:
        text = text_of(named.read_bytes(), named.name)
        rows = tuple(_rows(text, named.name, _Finder(tree, ""), UNSPLIT))
        return put_together(tree, split, [ImageList(named.name, "", rows, named)])
    places = [name for name in tree.files if posixpath.basename(name) in LIST_FILES]
    lists = [_read(tree, name) for name in places if _is_at_top(name)]
    return put_together(tree, split, lists)


def has_list(tree: Tree) -> bool:
    """Tell whether a tree has a list at its top, or at that of a split."""
    return any(posixpath.basename(name) in LIST_FILES and _is_at_top(name) for name in tree.files)


def _is_at_top(name: str) -> bool:
    folder = posixpath.dirname(name)
    return not folder or split_of_folder(folder) != UNSPLIT


def _read(tree: Tree, name: str) -> ImageList:
    folder = posixpath.dirname(name)
    prefix = f"{folder}/" if folder else ""
    rows = _rows(tree.text(name), name, _Finder(tree, prefix), split_of_folder(folder))
    return ImageList(name, prefix, tuple(rows), tree.place(tree.top + name))


def _rows(text: str, name: str, finder: _Finder, split: str) -> Iterator[Row]:
    """Yield what a list says."""
    if name.lower().endswith(".jsonl"):
        records: Iterable[Mapping[str, Any]] = _json_lines(text, name)
    else:
        records = _csv_records(text, name, finder)
    image = label = part = None
    for number, record in enumerate(records):
        if number == 0:
            image = _column(record, _IMAGE_COLUMNS, name, "image")
            label = _column(record, _LABEL_COLUMNS, name, "label")
            part = next((key for key in record if key.lower() in _SPLIT_COLUMNS), None)
        told = SPLIT_WORDS.get(str(record.get(part or "")).strip().lower(), split)
        yield Row(str(record.get(image or "") or ""), _label(record.get(label or "")), told)


def _label(stored: Any) -> str | None:
    """Return a label as text: "" for none, None for several."""
    if isinstance(stored, list):
        return _label(stored[0]) if len(stored) == 1 else None if stored else ""
    text = "" if stored is None else str(stored).strip()
    whole, point, rest = text.partition(".")
    # pandas writes whole numbers as 3.0 where some are missing.
    return whole if point and whole.isdecimal() and not rest.strip("0") else text


def _json_lines(text: str, name: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(filter(str.strip, text.splitlines()), 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetFileError(
                f"{name}: line {number} is no JSON", "Write one JSON object per line."
            ) from error
        if not isinstance(record, dict):
            raise DatasetFileError(
                f"{name}: line {number} is no JSON object", "Write one JSON object per line."
            )
        yield record


def _csv_records(text: str, name: str, finder: _Finder) -> Iterator[Mapping[str, Any]]:
    first = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=first.count)
    try:
        rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(row)]
    except csv.Error as error:
        raise DatasetFileError(
            f"{name} cannot be read as CSV: {error}", "Write it anew."
        ) from error
    if not rows or len(rows[0]) < 2:
        raise DatasetFileError(
            f"{name} has no two columns", "Write a line for each image: its name, and its label."
        )
    head = [cell.strip() for cell in rows[0]]
    # A list without a header begins with an image.
    titled = not (is_image(head[0]) or finder.find(head[0]))
    columns = head if titled else ["image", "label"]
    return (dict(zip(columns, row, strict=False)) for row in rows[titled:])


def _column(record: Mapping[str, Any], known: Sequence[str], name: str, what: str) -> str:
    names = {key.lower(): key for key in record}
    for column in known:
        if column in names:
            return names[column]
    raise DatasetFileError(
        f"{name} has no column for the {what}: it has {', '.join(record)}",
        f"Call that column {known[0]}.",
    )


class _Finder:
    """Finds images by what a list calls them: by their path, else by their name alone.

    Args:
        tree: Where the images are.
        folder: What the list names them from, with "/" behind it.
    """

    def __init__(self, tree: Tree, folder: str) -> None:
        images = [name for name in tree.files if is_image(name)]
        self._images, self._folder = set(images), folder
        inside = [name for name in images if name.startswith(folder)]
        bases = [posixpath.basename(name) for name in inside]
        self._by_name = _unique(zip(bases, inside, strict=True))
        stems = (posixpath.splitext(base)[0] for base in bases)
        self._by_stem = _unique(zip(stems, inside, strict=True))

    def find(self, called: str) -> str | None:
        """Return an image's name in the tree; None where there is none, or none of its own."""
        plain = posixpath.normpath(called.strip().replace("\\", "/"))
        for name in (self._folder + plain, plain):
            if name in self._images:
                return name
        base = posixpath.basename(plain)
        return self._by_name.get(base) or self._by_stem.get(base)


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    known = list(pairs)
    counts = Counter(key for key, _ in known)
    return {key: name for key, name in known if counts[key] == 1}


def put_together(
    tree: Tree, split: str, lists: Sequence[ImageList], classes: Mapping[str, str] | None = None
) -> SplitData:
    """Return the images of lists.

    Args:
        tree: Where the images are.
        split: See `choose_splits`.
        lists: The lists; they may be of several splits.
        classes: Names of the classes by label, in order, where the lists tell; else labels that are
            whole numbers are class numbers, and others are numbered in alphabetical order.

    Raises:
        DatasetFileError: No such split.
        LabelError: No row has an image and a label.
    """
    found = [_Found(row, finder.find(row.image)) for finder, row in _with_finders(tree, lists)]
    chosen = choose_splits({one.row.split for one in found}, split, tree.name)
    numbers, names = _numbered({one.row.label for one in found if one.row.label}, classes)
    told, files = ", ".join(one.name for one in lists), [one.file for one in lists if one.file]
    parts = []
    for which in chosen:
        known, notes = _labelled([one for one in found if one.row.split == which], numbers)
        if not known:
            raise LabelError(
                f"{told} gives no image of {tree.name} a label",
                "Name the images as they lie below the folder, each with its label.",
            )
        ordered = [name for name in tree.files if name in known]
        parts.append(images_of(tree, ordered, [known[name] for name in ordered], notes, files))
    joined = join_parts(parts, tree.name)
    numbered = (f"The labels in {told} are whole numbers, which are taken as class numbers.",)
    notes = (
        *split_note(chosen),
        *(() if names else numbered),
        *joined.notes,
        *_unlisted(tree, lists, {one.image for one in found}),
    )
    return replace(joined, class_names=names, notes=notes)


@dataclass(frozen=True)
class _Found:
    row: Row
    image: str | None


def _with_finders(tree: Tree, lists: Sequence[ImageList]) -> Iterator[tuple[_Finder, Row]]:
    for one in lists:
        finder = _Finder(tree, one.folder)
        yield from ((finder, row) for row in one.rows)


def _numbered(
    labels: set[str], classes: Mapping[str, str] | None
) -> tuple[Mapping[str, int], tuple[str, ...] | None]:
    if classes is not None:
        return {label: number for number, label in enumerate(classes)}, tuple(classes.values())
    return class_numbers(tuple(labels))


def _labelled(
    found: Sequence[_Found], numbers: Mapping[str, int]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the class of each image that has just one, and what is left out."""
    labels: dict[str, set[str | None]] = {}
    for one in found:
        if one.image is not None:
            labels.setdefault(one.image, set()).add(one.row.label)
    single = {name: label for name, (label, *others) in labels.items() if not others}
    return {name: numbers[label] for name, label in single.items() if label}, (
        *left_out(
            [one.row.image for one in found if one.image is None],
            "row whose image is not there",
            "rows whose images are not there",
        ),
        *left_out(
            [name for name in labels if single.get(name) is None],
            "image with several labels",
            "images with several labels",
        ),
        *left_out(
            [name for name, label in single.items() if label == ""],
            "image without a label",
            "images without a label",
        ),
    )


def _unlisted(tree: Tree, lists: Sequence[ImageList], listed: set[str | None]) -> tuple[str, ...]:
    folders = tuple(one.folder for one in lists)
    names = [
        name
        for name in tree.files
        if is_image(name) and name not in listed and name.startswith(folders)
    ]
    return left_out(names, "image that is not in the list", "images that are not in the list")
