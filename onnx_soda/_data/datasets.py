"""The clean set: opens whatever the user has, by what is in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx_soda._data.class_map import mapped
from onnx_soda._data.forms import form_of
from onnx_soda._data.sources import ImageSource, IntArray, digest, readable
from onnx_soda._errors import LabelError
from onnx_soda._options import DataOptions
from onnx_soda._words import shown_name


@dataclass(frozen=True, eq=False)  # arrays have no truth value to compare by
class CleanSet:
    """Clean, labelled images.

    Args:
        file: Name of the file or folder, without directories.
        sha256: Identifies the content, see `onnx_soda._data.sources.digest`.
        labels: (N,) int64 class numbers.
        class_names: Names of the classes by number, None where the data set has none.
        images: The N images, decoded when asked for.
        notes: Plain sentences for the report: the split taken, images left out, scaling done.
        preprocessed: The images are float arrays that are on no scale of pixels; they go to the
            model as they are, so the preset ``raw`` is the only one that makes sense.
    """

    file: str
    sha256: str
    labels: IntArray
    class_names: tuple[str, ...] | None
    images: ImageSource
    notes: tuple[str, ...]
    preprocessed: bool = False


def load_dataset(
    path: str | Path, split: str = "auto", options: DataOptions | None = None
) -> CleanSet:
    """Open a clean set: arrays, or images in folders or archives; docs/clean-sets.md has the forms.

    The format is told by the content. Labels are read and checked; no image is decoded.

    Args:
        path: File or folder.
        split: "auto" (test images where there are any, else val, else train), "train", "val",
            "test" or "all".
        options: See `DataOptions`.

    Returns:
        The clean set.

    Raises:
        DatasetFileError: Not there, empty, unreadable, of an unknown format, refused as unsafe, or
            without the split asked for.
        LabelError: Labels do not fit the images or the class map, or a class folder is empty.
        ImageError: An array is not one of images.
    """
    path, options = Path(path), options or DataOptions()
    name = shown_name(path)
    with readable(name):
        part = form_of(path, name, options.labels).read(path, split, options)
        sha256 = digest(path, part.files)
    if not len(part.labels):
        raise LabelError(f"{name} has no image to scan with", "Give clean labelled images.")
    clean = CleanSet(
        name, sha256, part.labels, part.class_names, part.images, part.notes, part.preprocessed
    )
    return clean if options.class_map is None else mapped(clean, options.class_map)
