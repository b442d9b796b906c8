"""Clean sets in HDF5, in three layouts.

* ``X_train``, ``Y_train``, ``X_test``, ``Y_test`` at the root (any case; also ``train_images``).
* ``images`` and ``labels`` at the root, without splits.
* Groups ``train``, ``test``, ``val`` with ``label`` and either ``image`` or ``encoded`` and
  ``offset`` (image i is ``encoded[offset[i]:offset[i + 1]]``). ``trigger/<name>/<split>`` lists
  positions of images that carry a backdoor's trigger: they are left out.

The root's attribute ``class_names`` may hold a JSON list.

A stranger's file is opened without touching any other file. This takes care: soft and external
links, external storage and virtual data sets make HDF5 read other files of the machine. Filters
load shared libraries. A data set may declare any size without storing a byte. So all objects are
looked at before the first one is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.images import EncodedSource
from onnx_soda._data.sources import IntArray, SubsetSource, check_declared, readable
from onnx_soda._data.splits import (
    UNSPLIT,
    SplitData,
    as_labels,
    choose_splits,
    find_pairs,
    join_parts,
    split_from_arrays,
    split_note,
    split_of_folder,
)
from onnx_soda._errors import DatasetFileError
from onnx_soda._words import shown_name

# Filters compiled into h5py itself. Any other is a plug-in: HDF5 loads a shared library for it.
_FILTERS = frozenset(
    {
        h5py.h5z.FILTER_DEFLATE,
        h5py.h5z.FILTER_SHUFFLE,
        h5py.h5z.FILTER_LZF,
        h5py.h5z.FILTER_FLETCHER32,
    }
)

_ADVICE = "Write the data set into one plain HDF5 file (h5py, compression gzip, lzf or none)."


@contextmanager
def open_checked(source: Path | BinaryIO, name: str = "") -> Iterator[h5py.File]:
    """Open an HDF5 file for reading, after a walk over all that is in it.

    Args:
        source: Its path, or a stream of its bytes.
        name: Name to show; that of the path where not given.

    Yields:
        The file. What the body fails to read is reported as unreadable.

    Raises:
        DatasetFileError: Not HDF5, cut short, or it holds a link other than a hard one, external
            storage, a virtual data set, a plug-in filter, or more declared bytes than the limit.
    """
    name = name or shown_name(Path(str(source)))
    with readable(name), h5py.File(source, "r") as file:
        check_declared(name, sum(_declared(dataset, name) for dataset in _datasets(file, name)))
        yield file


def _datasets(file: h5py.File, name: str) -> Iterator[h5py.Dataset]:
    """Walk over every object once; hard links can make the groups a graph with cycles."""
    waiting: list[h5py.Group] = [file]
    seen = {h5py.h5o.get_info(file.id).addr}
    while waiting:
        group = waiting.pop()
        for key in group:
            _check_link(group, key, name)
            member = group[key]
            address = h5py.h5o.get_info(member.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(member, h5py.Group):
                waiting.append(member)
            elif isinstance(member, h5py.Dataset):
                yield member


def _check_link(group: h5py.Group, key: str, name: str) -> None:
    try:
        link = group.get(key, getlink=True)
    except TypeError:  # user-defined link classes
        link = None
    if not isinstance(link, h5py.HardLink):
        kind = type(link).__name__ if link else "unknown link"
        raise _refusal(name, f"{key!r} is a {kind}, which may lead to another file")


def _declared(dataset: h5py.Dataset, name: str) -> int:
    """Return the bytes that a data set declares, after checking how it is stored."""
    if dataset.external is not None:
        raise _refusal(name, f"{dataset.name!r} keeps its data in another file")
    if dataset.is_virtual:
        raise _refusal(name, f"{dataset.name!r} is virtual, made of other data sets")
    creation = dataset.id.get_create_plist()
    for index in range(creation.get_nfilters()):
        number = creation.get_filter(index)[0]
        if number not in _FILTERS:
            raise _refusal(name, f"{dataset.name!r} needs HDF5 filter {number}, a plug-in")
    return int(dataset.size or 0) * int(dataset.id.get_type().get_size())


_REFUSED = "is refused:"


def _refusal(name: str, what: str) -> DatasetFileError:
    return DatasetFileError(f"{name} {_REFUSED} {what}", _ADVICE)


def is_refusal(error: DatasetFileError) -> bool:
    """Tell whether a file was refused for what it would do, and not for being damaged."""
    return _REFUSED in error.message


# Encoded images are read in spans of about this many bytes: each call into HDF5 costs as much as
# copying some 100 KiB, an encoded 32x32 image has one.
_SPAN_BYTES = 4 * 2**20


@dataclass(frozen=True)
class _Place:
    """Names of the data sets that hold one split."""

    split: str
    images: str
    labels: str
    offsets: str | None = None


@dataclass(frozen=True)
class _DatasetRows:
    """Rows of an HDF5 data set; the file is opened anew, and checked anew, for each reading."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def take(self, positions: IntArray) -> NDArray[Any]:
        """Read chunk by chunk: HDF5's own selection of scattered rows is several times slower."""
        out = np.empty((len(positions), *self.shape[1:]), dtype=self.dtype)
        with open_checked(self.path) as file:
            dataset = file[self.key]
            # What is not packed can be read row by row, however large its chunks are.
            packed = dataset.id.get_create_plist().get_nfilters() > 0
            block = dataset.chunks[0] if packed else 1
            for number in np.unique(positions // block):
                inside = positions // block == number
                start = int(number) * block
                out[inside] = dataset[start : start + block][positions[inside] - start]
        return out


@dataclass(frozen=True)
class _EncodedRows:
    """Encoded images end to end in one HDF5 data set."""

    path: Path
    key: str
    offsets: IntArray

    def fetch(self, positions: IntArray) -> Iterator[tuple[str, bytes]]:
        """Yield name and bytes of the images asked for, in increasing order of position."""
        begins, ends = self.offsets[positions], self.offsets[positions + 1]
        with open_checked(self.path) as file:
            start = 0
            while start < len(positions):
                reach = np.searchsorted(ends, begins[start] + _SPAN_BYTES, side="right")
                stop = max(int(reach), start + 1)
                base = int(begins[start])
                span = file[self.key][base : int(ends[stop - 1])].tobytes()
                for index in range(start, stop):
                    name = f"{shown_name(self.path)}: image {positions[index]} of {self.key}"
                    yield name, span[int(begins[index]) - base : int(ends[index]) - base]
                start = stop


def load_hdf5(path: Path, split: str) -> SplitData:
    """Read labels and names of an HDF5 clean set; images follow when asked for.

    Raises:
        DatasetFileError: Unreadable, refused as unsafe, an unknown layout, or no such split.
        LabelError: Labels do not fit the images.
        ImageError: The images are not an array of images.
    """
    name = shown_name(path)
    with open_checked(path) as file:
        places = _places(file, name)
        chosen = choose_splits(places, split, name)
        parts = [_read_place(file, path, places[which]) for which in chosen]
        joined = join_parts(parts, name)
        return replace(
            joined,
            class_names=_class_names(file, name),
            notes=(*split_note(chosen), *joined.notes),
        )


def _places(file: h5py.File, name: str) -> dict[str, _Place]:
    pairs = find_pairs(_members(file, h5py.Dataset), name)
    found = {split: _Place(split, *pair) for split, pair in pairs.items()}
    groups = _members(file, h5py.Group) if not found else []
    for key in groups:
        split = split_of_folder(key)
        if split != UNSPLIT:
            found[split] = _place_in_group(file[key], split, name)
    if not found:
        raise DatasetFileError(
            f"{name} has no images and labels under known names",
            "Call them images and labels, or X_test and Y_test, at the root of the file.",
        )
    return found


def _members(group: h5py.Group, kind: type) -> list[str]:
    return [key for key in group if isinstance(group[key], kind)]


def _place_in_group(group: h5py.Group, split: str, name: str) -> _Place:
    keys = _members(group, h5py.Dataset)
    path = group.name.strip("/")
    if {"encoded", "offset", "label"} <= set(keys):
        return _Place(split, f"{path}/encoded", f"{path}/label", f"{path}/offset")
    pairs = find_pairs(keys, f"{name}: {path}")
    if UNSPLIT not in pairs:
        raise DatasetFileError(
            f"{name}: group {path!r} has no images and labels under known names",
            "A split's group holds label, and image or encoded and offset.",
        )
    images, labels = pairs[UNSPLIT]
    return _Place(split, f"{path}/{images}", f"{path}/{labels}")


def _read_place(file: h5py.File, path: Path, place: _Place) -> SplitData:
    name = f"{shown_name(path)}: {place.images}"
    if place.offsets is None:
        stored = _plain(file, place.images, "uf", shown_name(path))
        rows = _DatasetRows(path, place.images, stored.shape, stored.dtype)
        part = split_from_arrays(
            rows, _plain(file, place.labels, "iubf", shown_name(path)), name, (path,)
        )
    else:
        part = _encoded_part(file, path, place)
    return _without_triggers(part, file, place.split, shown_name(path))


def _encoded_part(file: h5py.File, path: Path, place: _Place) -> SplitData:
    name = shown_name(path)
    encoded = _plain(file, place.images, "u", name)
    offsets = _plain(file, str(place.offsets), "iu", name)[()].astype(np.int64)
    inside = (
        offsets.ndim == 1 and offsets.size > 1 and offsets[0] >= 0 and offsets[-1] <= encoded.size
    )
    if encoded.dtype != np.uint8 or encoded.ndim != 1 or not inside or (np.diff(offsets) < 0).any():
        raise DatasetFileError(
            f"{name}: {place.offsets} does not divide {place.images} into images",
            "Image i is encoded[offset[i]:offset[i + 1]]: bytes, and increasing offsets into them.",
        )
    count = len(offsets) - 1
    labels = as_labels(_plain(file, place.labels, "iubf", name), count, f"{name}: {place.labels}")
    source = EncodedSource(count, _EncodedRows(path, place.images, offsets).fetch)
    return SplitData(source, labels, (path,))


def _plain(file: h5py.File, key: str, kinds: str, name: str) -> h5py.Dataset:
    """Return a data set of plain numbers; strings, references and records are refused unread."""
    dataset = file[key]
    if (
        not isinstance(dataset, h5py.Dataset)
        or not dataset.shape
        or dataset.dtype.kind not in kinds
    ):
        raise DatasetFileError(
            f"{name}: {key} is {dataset!r}, not an array of the numbers expected",
            "Store images as uint8 or float, and labels as whole numbers.",
        )
    return dataset


def _without_triggers(part: SplitData, file: h5py.File, split: str, name: str) -> SplitData:
    """Leave out the images that the file itself lists as carrying a trigger."""
    listed: dict[str, IntArray] = {}
    if split != UNSPLIT and isinstance(file.get("trigger"), h5py.Group):
        for trigger in _members(file["trigger"], h5py.Group):
            for key in file["trigger"][trigger]:
                if split_of_folder(key) == split:
                    positions = _plain(file, f"trigger/{trigger}/{key}", "iu", name)
                    listed[trigger] = positions[()].astype(np.int64).ravel()
    if not listed:
        return part
    carriers = np.concatenate(list(listed.values()))
    if ((carriers < 0) | (carriers >= len(part.labels))).any():
        raise DatasetFileError(
            f"{name}: a trigger lists images beyond the {len(part.labels)} of {split}",
            "Positions count from 0 within the split.",
        )
    kept = np.setdiff1d(np.arange(len(part.labels)), carriers)
    counts = ", ".join(f"{trigger} {len(positions)}" for trigger, positions in listed.items())
    note = (
        f"{len(part.labels) - len(kept)} of {len(part.labels)} {split} images carry the trigger "
        f"of a backdoor and were left out ({counts})."
    )
    return replace(
        part,
        images=SubsetSource(part.images, kept),
        labels=part.labels[kept],
        notes=(*part.notes, note),
    )


def _class_names(file: h5py.File, name: str) -> tuple[str, ...] | None:
    if "class_names" not in file.attrs:
        return None
    stored = file.attrs["class_names"]
    names = json.loads(stored) if isinstance(stored, str | bytes) else None
    if not isinstance(names, list) or not all(isinstance(entry, str) for entry in names):
        raise DatasetFileError(
            f"{name}: the attribute class_names is not a JSON list of strings",
            'Write it as json.dumps(["cat", "dog"]).',
        )
    return tuple(names)
