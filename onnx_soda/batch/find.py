"""Which models are meant: files, folders, patterns, lists. Nothing is opened but lists."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from onnx_soda.errors import ModelFileError

__all__ = ["ENDINGS", "find_models", "is_single"]

ENDINGS = frozenset({".onnx", ".pt2", ".pt", ".pth", ".keras", ".safetensors", ".skops", ".tflite"})
"""Files that are taken for models in folders. `.h5` and `.npz` are mostly images, and `.bin` and
`.data` mostly weights of a model beside them; named by themselves they are taken too."""
_LIST = "@"
_SAVED_MODEL = "saved_model.pb"
_LARGEST_LIST = 2**24


def is_single(arguments: Iterable[str]) -> bool:
    """Tell whether one model is meant by its own path, so that it is reported by itself."""
    first, *others = arguments
    if others or first.startswith(_LIST):
        return False
    return not _is_plain_folder(Path(first)) if _exists(first) else not glob.has_magic(first)


def find_models(arguments: Iterable[str]) -> list[Path]:
    """Return the models that are meant, each once, in the order of the arguments.

    Args:
        arguments: Paths of files; folders, which are searched with all below them; patterns as
            `glob` has them; or lists: "@FILE" with one path per line, relative to the list.

    Raises:
        ModelFileError: A list cannot be read, or there is no model.
    """
    found: dict[Path, Path] = {}
    for argument in arguments:
        paths = list(_expand(argument))
        if not paths:
            endings = ", ".join(sorted(ENDINGS))
            raise ModelFileError(
                f"{Path(argument).name} holds no model", f"In folders, models end in {endings}."
            )
        for path in paths:
            found.setdefault(_real(path), path)
    return list(found.values())


def _real(path: Path) -> Path:
    """Return where a path leads; the path itself where that cannot be told."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a link to itself, a name that is too long
        return path


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def _expand(argument: str) -> Iterator[Path]:
    path = Path(argument)
    if argument.startswith(_LIST) and not _exists(argument):
        yield from _listed(Path(argument[1:]))
    elif _exists(argument) and _is_plain_folder(path):
        yield from _below(path)
    elif _exists(argument) or not glob.has_magic(argument):
        yield path
    else:
        for match in sorted(glob.glob(argument, recursive=True)):  # noqa: PTH207 - as users write it
            place = Path(match)
            yield from _below(place) if _is_plain_folder(place) else (place,)


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not (path / _SAVED_MODEL).exists()


def _below(folder: Path) -> Iterator[Path]:
    """Yield the models below a folder in order; links to folders are not followed."""
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders.sort()
        if _SAVED_MODEL in files:
            folders.clear()
            yield Path(place)
            continue
        for name in sorted(files):
            if Path(name).suffix.lower() in ENDINGS:
                yield Path(place) / name


def _refuse(error: OSError) -> None:
    """What cannot be searched may hold a model: never pass over it."""
    name = Path(str(error.filename)).name
    raise ModelFileError(
        f"the folder {name} cannot be searched: {error.strerror}",
        "Make it readable, or name the models.",
    ) from error


def _listed(file: Path) -> Iterator[Path]:
    try:
        if file.stat().st_size > _LARGEST_LIST:
            raise ModelFileError(f"{file.name} is too large for a list", "Give folders instead.")
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"the list {file.name} cannot be read: {error}", "Write one path per line, in UTF-8."
        ) from error
    for line in lines:
        if "\0" in line:
            raise ModelFileError(f"the list {file.name} is no text", "Write one path per line.")
        if line.strip():
            yield file.parent / line.strip()
