"""Clean sets as a folder of class folders, as torchvision's ImageFolder has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from onnx_soda._data.sources import readable
from onnx_soda._data.splits import (
    UNSPLIT,
    SplitData,
    choose_splits,
    join_parts,
    split_note,
    split_of_folder,
)
from onnx_soda._data.tree import Tree, class_numbers, folder_tree, images_of, is_image, left_out
from onnx_soda._errors import DatasetFileError, LabelError
from onnx_soda._options import DataOptions
from onnx_soda._words import as_text, shown_name

# Class folders from which it is likely that they are some: images may lie in one folder of a list.
_SEVERAL = 2


def load_folder(path: Path, split: str, options: DataOptions) -> SplitData:
    """List the images of a folder of class folders; see `class_folders`.

    Raises:
        DatasetFileError: As `class_folders`, or a link leaves the folder.
        LabelError: As `class_folders`.
    """
    with readable(shown_name(path)):
        return class_folders(folder_tree(path, options.data_root), split)


def load_with_list(
    path: Path,
    split: str,
    options: DataOptions,
    read: Callable[[Tree, str, Path | None], SplitData],
    inside: str = "",
) -> SplitData:
    """Read a folder of images with a list of them.

    Args:
        path: The folder, or the list in it.
        split: See `choose_splits`.
        options: They may name a list that lies elsewhere.
        read: Reads the list that is named, or else those in the tree.
        inside: Name of a folder beside the images that lists may lie in.

    Raises:
        DataError: As `read` does, or `class_folders`.
    """
    if path.is_dir():
        root, named = path, options.labels
    else:
        root, named = path.parent, str(path)
        root = root.parent if root.name == inside else root
    with readable(shown_name(path)):
        tree = folder_tree(root, options.data_root)
        if named is not None:
            return read(tree, split, Path(named))
        return or_class_folders(tree, split, lambda inner, part: read(inner, part, None))


def or_class_folders(tree: Tree, split: str, read: Callable[[Tree, str], SplitData]) -> SplitData:
    """Read a list that lies in a folder; where it does not serve, and there are classes, use these.

    A file of that name may tell something else, as the names of the classes.

    Args:
        tree: The folder.
        split: See `choose_splits`.
        read: Reads the list.

    Raises:
        DataError: As `read` does, or `class_folders`.
    """
    try:
        return read(tree, split)
    except (DatasetFileError, LabelError) as error:
        prefixes = _split_folders(tree).values()
        if len({name for prefix in prefixes for name in tree.folders_in(prefix)}) < _SEVERAL:
            raise
        found = class_folders(tree, split)
        note = f"The class folders tell the labels, and not the list there: {error.message}."
        return replace(found, notes=(note, *found.notes))


def class_folders(tree: Tree, split: str) -> SplitData:
    """List the images of class folders; they are decoded when asked for.

    Folders called ``train``, ``test`` or ``val`` that hold class folders are splits. Where all
    class folders have whole numbers for names, these are the labels; otherwise the classes are
    numbered in the order of their names. Images may lie deeper inside a class folder. Hidden
    files are skipped.

    Raises:
        DatasetFileError: No class folders, or no such split.
        LabelError: An empty class folder, or two that stand for the same number.
    """
    splits = _split_folders(tree)
    chosen = choose_splits(splits, split, tree.name)
    # All splits name the classes: one without images in a split must not renumber the others.
    classes = sorted({name for prefix in splits.values() for name in tree.folders_in(prefix)})
    if not classes:
        raise DatasetFileError(
            f"{tree.name} holds no class folders", "Give each class a folder with its images."
        )
    numbers, names = class_numbers(classes)
    if len(set(numbers.values())) < len(classes):
        raise LabelError(
            f"{tree.name} has two class folders for the same number",
            "Name each class folder with its own number.",
        )
    joined = join_parts([_part(tree, splits[which], numbers) for which in chosen], tree.name)
    return replace(
        joined,
        class_names=names and tuple(map(as_text, names)),
        notes=(*split_note(chosen), *_number_note(classes, names is None), *joined.notes),
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


def _split_folders(tree: Tree) -> dict[str, str]:
    """Return the prefix of the names of each split."""
    found = {
        split_of_folder(name): f"{name}/"
        for name in tree.folders_in("")
        if split_of_folder(name) != UNSPLIT and tree.folders_in(f"{name}/")
    }
    return found or {UNSPLIT: ""}


def _part(tree: Tree, prefix: str, numbers: dict[str, int]) -> SplitData:
    images: dict[str, int] = {}
    others: list[str] = []
    filled: set[str] = set()
    for name in tree.files:
        if not name.startswith(prefix):
            continue
        entry, slash, _ = name[len(prefix) :].partition("/")
        if slash and is_image(name):
            images[name] = numbers[entry]
            filled.add(entry)
        else:
            others.append(name)
    for entry in tree.folders_in(prefix):
        if entry not in filled:
            raise LabelError(
                f"{tree.name}: the class folder {as_text(prefix + entry)} holds no images",
                "Put images of the class into it, or remove it.",
            )
    notes = left_out(
        others,
        "file that is no image in a class folder",
        "files that are no images in a class folder",
    )
    return images_of(tree, list(images), list(images.values()), notes)
