"""Clean sets in Parquet as the Hugging Face ``datasets`` library writes them.

Column ``image`` (or ``img``) is a struct with ``bytes``, or plain binary; column ``label`` (or
``labels``) holds class numbers; class names are in the schema's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_soda._data.images import EncodedSource
from onnx_soda._data.sources import IntArray, check_declared, readable
from onnx_soda._data.splits import SplitData, as_labels, choose_splits, split_note, split_of_file
from onnx_soda._errors import DatasetFileError, ImageError
from onnx_soda._system import install_hint
from onnx_soda._words import shown_name

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels")


@dataclass(frozen=True)
class _Column:
    """Encoded images in a column of a Parquet file."""

    path: Path
    column: str
    nested: bool
    starts: IntArray  # (row groups + 1,) position of each row group's first image

    def fetch(self, positions: IntArray) -> Iterator[tuple[str, bytes]]:
        """Yield name and bytes of the images asked for; only their row groups are read."""
        groups = np.searchsorted(self.starts, positions, side="right") - 1
        with readable(shown_name(self.path)), _pyarrow().ParquetFile(self.path) as file:
            for group in np.unique(groups):
                cells = file.read_row_group(int(group), columns=[self.column]).column(self.column)
                if len(cells) != self.starts[group + 1] - self.starts[group]:
                    raise ValueError(f"row group {group} has other than the rows declared")
                for position in positions[groups == group]:
                    cell = cells[int(position - self.starts[group])].as_py()
                    yield self._named(int(position), cell)

    def _named(self, position: int, cell: Any) -> tuple[str, bytes]:
        name = f"{shown_name(self.path)}: image {position}"
        data = cell["bytes"] if self.nested and cell else cell
        if not data:
            raise ImageError(
                f"{name} has no bytes in the file",
                "Write the images themselves into the file, not only their paths.",
            )
        return name, data


def load_parquet(path: Path, split: str) -> SplitData:
    """Read labels and class names of a Parquet clean set; images follow when asked for.

    Args:
        path: One Parquet file.
        split: See `choose_splits`; ``train-``, ``test-`` or ``validation-`` in the file's name
            tells its split.

    Raises:
        DatasetFileError: pyarrow is not installed, the file is unreadable, declares more than the
            limit, lacks the columns, or is of another split.
        LabelError: The labels are not class numbers.
    """
    name = shown_name(path)
    chosen = choose_splits([split_of_file(path.name)], split, name)
    with readable(name), _pyarrow().ParquetFile(path) as file:
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
        check_declared(name, sum(group.total_byte_size for group in groups))
        image = _named_column(file.schema_arrow, _IMAGE_COLUMNS, name)
        label = _named_column(file.schema_arrow, _LABEL_COLUMNS, name)
        nested = _is_nested(file.schema_arrow.field(image).type, name)
        starts = np.cumsum([0, *(group.num_rows for group in groups)])
        stored = file.read(columns=[label]).column(label).to_numpy()
        names = _class_names(file.schema_arrow.metadata, label)
    labels = as_labels(stored, int(starts[-1]), f"{name}: {label}")
    source = EncodedSource(len(labels), _Column(path, image, nested, starts).fetch)
    return SplitData(source, labels, (path,), names, split_note(chosen))


def _pyarrow() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DatasetFileError(
            "reading Parquet needs pyarrow, which is not installed",
            install_hint("parquet"),
        ) from error
    return parquet


def _named_column(schema: Any, known: tuple[str, ...], name: str) -> str:
    for column in known:
        if column in schema.names:
            return column
    raise DatasetFileError(
        f"{name} has no column {' or '.join(known)}: it has {', '.join(schema.names)}",
        f"Rename the column to {known[0]}.",
    )


def _is_nested(kind: Any, name: str) -> bool:
    """Tell a struct with ``bytes`` from plain binary."""
    from pyarrow import types

    if types.is_binary(kind) or types.is_large_binary(kind):
        return False
    if types.is_struct(kind) and "bytes" in [field.name for field in kind]:
        return True
    raise DatasetFileError(
        f"{name}: the image column has type {kind}, without the images' bytes",
        "Write the images themselves into the file, not only their paths.",
    )


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    """Read ``info.features.<label>.names`` of the Hugging Face metadata."""
    found: Any = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    for key in ("info", "features", label, "names"):
        found = found.get(key) if isinstance(found, dict) else None
    return tuple(map(str, found)) if isinstance(found, list) else None
