"""Clean sets with COCO's annotations: the category of an image, where it has just one.

The form: https://cocodataset.org/#format-data. Annotations lie beside the images, in each of
``train``, ``valid`` and ``test`` (``_annotations.coco.json``), or in a folder ``annotations``
(``instances_val2017.json``). Categories are numbered in the order of their ids.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from onnx_soda._data.folder import load_with_list
from onnx_soda._data.forms import is_coco
from onnx_soda._data.lists import ImageList, Row, put_together
from onnx_soda._data.splits import UNSPLIT, SplitData, split_of_file, split_of_folder
from onnx_soda._data.tree import Tree, left_out, text_of
from onnx_soda._errors import DatasetFileError
from onnx_soda._options import DataOptions
from onnx_soda._system import read_json

_FOLDER = "annotations"


@dataclass(frozen=True)
class _Image:
    id: int | str
    file_name: str


@dataclass(frozen=True)
class _Annotation:
    image_id: int | str
    category_id: int


@dataclass(frozen=True)
class _Category:
    id: int
    name: str
    supercategory: str | None = None


@dataclass(frozen=True)
class _Annotations:
    """A file of annotations, as far as classes are concerned."""

    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category] = field(default_factory=list)

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the category of each image."""
        found: dict[int | str, set[int]] = {}
        for one in self.annotations:
            found.setdefault(one.image_id, set()).add(one.category_id)
        for image in self.images:
            categories = found.get(image.id, set())
            label = str(min(categories)) if len(categories) == 1 else None if categories else ""
            yield Row(image.file_name, label, split)


def load_coco(path: Path, split: str, options: DataOptions) -> SplitData:
    """Read which category each image of a folder is of.

    Args:
        path: The folder, or a file of annotations in it.
        split: See `choose_splits`.
        options: They may name annotations that lie elsewhere.

    Raises:
        DatasetFileError: No annotations, some that cannot be read, or no such split.
        LabelError: No image has just one category.
    """
    return load_with_list(path, split, options, load_coco_tree, _FOLDER)


def load_coco_tree(tree: Tree, split: str, named: Path | None = None) -> SplitData:
    """Read which category each image of a tree is of.

    Args:
        tree: The images, and the annotations where none are named.
        split: See `choose_splits`.
        named: Annotations that lie elsewhere.
    """
    if named is not None:
        told = _decoded(text_of(named.read_bytes(), named.name), named.name)
        lists = [ImageList(named.name, "", tuple(told.rows(UNSPLIT)), named)]
        read = [told]
    else:
        places = _places(tree)
        read = [_decoded(tree.text(name), name) for name in places]
        lists = [
            ImageList(
                name, _images_of(name), tuple(one.rows(_split(name))), tree.place(tree.top + name)
            )
            for name, one in zip(places, read, strict=True)
        ]
    categories, unused = _categories(read, lists[0].name)
    found = put_together(tree, split, lists, {str(one.id): one.name for one in categories})
    notes = left_out(unused, "category that has no images", "categories that have no images")
    return replace(found, notes=(*_order_note(categories), *notes, *found.notes))


def has_coco(tree: Tree) -> bool:
    """Tell whether a tree has annotations."""
    return bool(_places(tree))


def _places(tree: Tree) -> list[str]:
    return [
        name
        for name in tree.files
        if is_coco(posixpath.basename(name)) and _is_usual(posixpath.dirname(name))
    ]


def _is_usual(folder: str) -> bool:
    return folder in ("", _FOLDER) or split_of_folder(folder) != UNSPLIT


def _images_of(name: str) -> str:
    """Return where the images of a file of annotations begin."""
    folder = posixpath.dirname(name)
    return "" if folder in ("", _FOLDER) else f"{folder}/"


def _split(name: str) -> str:
    return split_of_folder(posixpath.dirname(name)) or split_of_file(name)


def _decoded(text: str, name: str) -> _Annotations:
    try:
        found: _Annotations = read_json(text, _Annotations)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DatasetFileError(
            f"{name} is no file of COCO annotations: {error}",
            "It has lists of `images`, `annotations` and `categories`.",
        ) from error
    return found


def _categories(read: Sequence[_Annotations], name: str) -> tuple[list[_Category], list[str]]:
    """Return the categories in the order of their ids, and those that only stand for others.

    Raises:
        DatasetFileError: A category has two names, or one that is used has none.
    """
    named: dict[int, _Category] = {}
    for one in (category for told in read for category in told.categories):
        if named.setdefault(one.id, one).name != one.name:
            raise DatasetFileError(
                f"{name}: category {one.id} is {named[one.id].name!r} and {one.name!r}",
                "Give one of the files alone.",
            )
    used = {one.category_id for told in read for one in told.annotations}
    for missing in sorted(used - named.keys()):
        raise DatasetFileError(
            f"{name} has no category {missing}, which an annotation names",
            "List it among the `categories`.",
        )
    above = {one.supercategory for one in named.values()}
    unused = [one for one in named.values() if one.id not in used and one.name in above]
    kept = sorted((one for one in named.values() if one not in unused), key=lambda one: one.id)
    return kept, [one.name for one in unused]


def _order_note(categories: Iterable[_Category]) -> tuple[str, ...]:
    """Say how categories are numbered, where that is not by their ids."""
    moved = next(((n, one) for n, one in enumerate(categories) if one.id != n), None)
    if moved is None:
        return ()
    number, one = moved
    return (
        f"The categories are numbered in the order of their ids: {one.name} ({one.id}) is class "
        f"{number}.",
    )
