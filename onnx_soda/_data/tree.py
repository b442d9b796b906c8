"""Files below a folder or in an archive, by their names from there.

What the forms of images in files have in common: the files there are, what operating systems leave
behind, links, and the images that are decoded when asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from onnx_soda._data.images import EncodedSource
from onnx_soda._data.sources import IntArray, check_declared
from onnx_soda._data.splits import SplitData, as_labels
from onnx_soda._errors import DatasetFileError, ImageError, LabelError
from onnx_soda._words import as_text, shown_name

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# What operating systems and file servers leave beside files; names that begin with a dot, too.
_LEFT_BEHIND = frozenset(
    {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir"}
)
MOST_FILES = 2_000_000
"""Files and folders of a clean set; ImageNet has 1.3 million. Links to folders can name a few
files any number of times."""
# A list of a million images takes some dozens of megabytes.
_LARGEST_LIST = 2**29
# Names told of what is left out.
_NAMED = 3


@dataclass(frozen=True, eq=False)
class Tree:
    """Files by their names from a folder or the top of an archive, with "/" between the parts.

    Attributes:
        name: What to call it in an error.
        files: Names of the files, in the order in which they are best read.
        folders: Names of the folders.
        read: Gives the content of a file.
        place: Gives what has to be looked at to tell whether a file's content has changed.
        notes: Sentences for the report.
        top: What is in front of all names, where they begin in a folder further down.
    """

    name: str
    files: tuple[str, ...]
    folders: frozenset[str]
    read: Callable[[str], bytes]
    place: Callable[[str], Path]
    notes: tuple[str, ...] = ()
    top: str = ""

    @cached_property
    def _children(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for folder in sorted(self.folders):
            parent, slash, _ = folder.rpartition("/")
            found.setdefault(parent + slash, []).append(folder)
        return found

    def folders_in(self, prefix: str) -> list[str]:
        """Return the names of the folders right below a folder, in order.

        Args:
            prefix: Name of the folder with "/" behind it; "" for the top.
        """
        return [folder[len(prefix) :] for folder in self._children.get(prefix, ())]

    def below(self, folder: str) -> Tree:
        """Return the files below a folder, by their names from there."""
        start = f"{folder}/"
        return replace(
            self,
            files=tuple(name[len(start) :] for name in self.files if name.startswith(start)),
            folders=frozenset(
                name[len(start) :] for name in self.folders if name.startswith(start)
            ),
            top=self.top + start,
        )

    def content(self, name: str) -> bytes:
        """Return the content of a file."""
        return self.read(self.top + name)

    def text(self, name: str) -> str:
        """Return the content of a file of text.

        Raises:
            DatasetFileError: It is too large, or no UTF-8.
        """
        return text_of(self.content(name), name)

    def fetch(self, names: Sequence[str], positions: IntArray) -> Iterator[tuple[str, bytes]]:
        """Yield name, as errors call it, and bytes of the images asked for."""
        for name in (names[position] for position in positions):
            shown = f"{self.name}: {as_text(name)}"
            try:
                content = self.content(name)
            except OSError as error:
                raise ImageError(
                    f"{shown} cannot be read: {error.strerror or error}",
                    "Restore or remove the image.",
                ) from error
            yield shown, content


def text_of(content: bytes, name: str) -> str:
    """Return the text of a list of images.

    Raises:
        DatasetFileError: It is too large, or no UTF-8.
    """
    if len(content) > _LARGEST_LIST:
        raise DatasetFileError(f"{name} is too large for a list of images", "List fewer images.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetFileError(f"{name} is no text in UTF-8", "Write it anew in UTF-8.") from error


def is_image(name: str) -> bool:
    """Tell by its name whether a file is an image."""
    return name.lower().endswith(_IMAGES)


def is_left_behind(name: str) -> bool:
    """Tell whether a file or folder is hidden, or one that operating systems leave behind."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def left_out(names: Sequence[str], what: str, whats: str) -> tuple[str, ...]:
    """Return the sentence that counts and names what is left out; none where nothing is.

    Args:
        names: Names of it.
        what: What one is, as in "file that is no image".
        whats: The same of several.
    """
    if not names:
        return ()
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    which = ", ".join(map(as_text, names[:_NAMED])) + more
    return (f"Left out: {len(names)} {what if len(names) == 1 else whats} ({which}).",)


def images_of(
    tree: Tree,
    names: Sequence[str],
    labels: Sequence[int],
    notes: tuple[str, ...] = (),
    lists: Sequence[Path] = (),
) -> SplitData:
    """Put together a part of images in files; they are decoded when asked for.

    Args:
        tree: Where the files are.
        names: Names of the images.
        labels: Their class numbers.
        notes: Sentences for the report.
        lists: Files that the labels came from.

    Raises:
        LabelError: A number is too large for a class, or there is no image.
    """
    if not names:
        raise LabelError(f"{tree.name} has no image to scan with", "Give clean labelled images.")
    checked = as_labels(np.array(labels), len(names), f"the labels of {tree.name}")
    files = dict.fromkeys((*map(tree.place, (tree.top + name for name in names)), *lists))
    source = EncodedSource(len(names), lambda positions: tree.fetch(names, positions))
    return SplitData(source, checked, tuple(files), notes=(*tree.notes, *notes))


def class_numbers(names: Sequence[str]) -> tuple[dict[str, int], tuple[str, ...] | None]:
    """Number classes: by their names where all are whole numbers, else in the order of the names.

    Args:
        names: Names of all classes, each once.

    Returns:
        The number of each name, and the names by number; None where the names are numbers.
    """
    ordered = sorted(names)
    if all(name.isascii() and name.isdecimal() for name in ordered):
        return {name: int(name) for name in ordered}, None
    return {name: number for number, name in enumerate(ordered)}, tuple(ordered)


def folder_tree(root: Path, linked: str | None = None) -> Tree:
    """List the files of a folder and of all below it.

    Args:
        root: The folder.
        linked: A further folder, below which links may lead.

    Raises:
        DatasetFileError: A link leaves these folders, or there are too many files.
    """
    name = shown_name(root)
    allowed = [root.resolve(), *([Path(linked).resolve()] if linked else [])]
    files: list[str] = []
    folders: list[str] = []
    odd: list[str] = []

    def walk(folder: Path, prefix: str, above: tuple[Path, ...]) -> None:
        for entry in sorted(os.scandir(folder), key=lambda one: one.name):
            if is_left_behind(entry.name):
                continue
            path, shown = Path(entry.path), prefix + entry.name
            if entry.is_symlink():
                _refuse_leaving(path.resolve(), allowed, f"{name}: {shown}")
            if not entry.is_dir():
                (files if entry.is_file() else odd).append(shown)
            elif (real := path.resolve()) not in above:  # a link to where it lies has no end
                folders.append(shown)
                walk(path, f"{shown}/", (*above, real))
            check_count(name, len(files) + len(folders))

    walk(root, "", (root.resolve(),))
    return Tree(
        name,
        tuple(files),
        frozenset(folders),
        lambda inside: _read_bounded(root / inside),
        lambda inside: root / inside,
        left_out(odd, "link to nothing, or no file", "links to nothing, or no files"),
    )


def _read_bounded(path: Path) -> bytes:
    check_declared(path.name, path.stat().st_size)
    return path.read_bytes()


def check_count(name: str, count: int) -> None:
    """Refuse more files than clean sets have.

    Raises:
        DatasetFileError: It is so.
    """
    if count > MOST_FILES:
        raise DatasetFileError(
            f"{name} has over {MOST_FILES:,} files and folders", "Give fewer images."
        )


def _refuse_leaving(target: Path, allowed: Sequence[Path], link: str) -> None:
    if not any(target.is_relative_to(folder) for folder in allowed):
        raise DatasetFileError(
            f"{link} is a link that leaves the folder",
            "Copy what it points to into the folder, or give the folder that links may lead below "
            "as `data_root`.",
        )
