"""Opens an HDF5 file from a stranger without touching anything but that file.

HDF5 can point elsewhere: soft and external links, external storage and virtual data sets make a
small file read other files of the machine, filters load shared libraries, and a data set may
declare any size without storing a byte. All objects are looked at before the first one is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from onnx_soda.data.files import check_declared, readable, shown_name
from onnx_soda.errors import DatasetFileError

__all__ = ["open_checked"]

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
def open_checked(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading, after a walk over all that is in it.

    Yields:
        The file. What the body fails to read is reported as unreadable.

    Raises:
        DatasetFileError: Not HDF5, cut short, or it holds a link other than a hard one, external
            storage, a virtual data set, a plug-in filter, or more declared bytes than the limit.
    """
    name = shown_name(path)
    with readable(name), h5py.File(path, "r") as file:
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


def _refusal(name: str, what: str) -> DatasetFileError:
    return DatasetFileError(f"{name} is refused: {what}", _ADVICE)
