"""The clean set: opens whatever the user has, by what is in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onnx_soda._data.folder import load_folder
from onnx_soda._data.hdf5 import load_hdf5
from onnx_soda._data.idx import GZIP_MAGIC, IDX_MAGIC, find_image_files, load_idx
from onnx_soda._data.npz import load_npz
from onnx_soda._data.parquet import load_parquet
from onnx_soda._data.parts import SplitData
from onnx_soda._data.sources import ImageSource, IntArray, digest, first_bytes, readable, shown_name
from onnx_soda._errors import DatasetFileError, LabelError

_Loader = Callable[[Path, str], SplitData]

_BY_MAGIC: dict[bytes, _Loader] = {
    b"\x89HDF\r\n\x1a\n": load_hdf5,
    b"PK\x03\x04": load_npz,
    b"PAR1": load_parquet,
    IDX_MAGIC: load_idx,
    GZIP_MAGIC: load_idx,
}

# A file that begins otherwise than its name promises goes to that format's reader all the same,
# which then says what is wrong with it.
_BY_SUFFIX: dict[str, _Loader] = {
    ".h5": load_hdf5,
    ".hdf5": load_hdf5,
    ".npz": load_npz,
    ".parquet": load_parquet,
}

_FORMATS = "HDF5, .npz, a folder of class folders, MNIST's IDX, Parquet"


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


def load_dataset(path: str | Path, split: str = "auto") -> CleanSet:
    """Open a clean set: HDF5, .npz, a folder of class folders, IDX or Parquet.

    The format is told by the content. Labels are read and checked; no image is decoded.

    Args:
        path: File or folder.
        split: "auto" (test images where there are any, else val, else train), "train", "val",
            "test" or "all".

    Returns:
        The clean set.

    Raises:
        DatasetFileError: Not there, empty, unreadable, of an unknown format, refused as unsafe, or
            without the split asked for.
        LabelError: Labels do not fit the images, or a class folder is empty.
        ImageError: An array is not one of images.
    """
    path = Path(path)
    name = shown_name(path)
    with readable(name):
        part = _loader(path, name)(path, split)
        sha256 = digest(path, part.files)
    if not len(part.labels):
        raise LabelError(f"{name} has no image to scan with", "Give clean labelled images.")
    return CleanSet(
        name, sha256, part.labels, part.class_names, part.images, part.notes, part.preprocessed
    )


def _loader(path: Path, name: str) -> _Loader:
    if path.is_dir():
        return load_idx if find_image_files(path.iterdir()) else load_folder
    if not path.exists():
        raise DatasetFileError(f"{name} is not there", "Check the path of the clean set.")
    if not path.is_file():
        raise DatasetFileError(f"{name} is neither a file nor a folder", f"Give {_FORMATS}.")
    if path.stat().st_size == 0:
        raise DatasetFileError(f"{name} is empty", "Fetch or write the file again.")
    head = first_bytes(path, max(map(len, _BY_MAGIC)))
    for magic, loader in _BY_MAGIC.items():
        if head.startswith(magic):
            return loader
    if path.suffix.lower() in _BY_SUFFIX:
        return _BY_SUFFIX[path.suffix.lower()]
    raise DatasetFileError(f"{name} is of no format known here", f"Give {_FORMATS}.")
