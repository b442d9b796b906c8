"""External data: weights that a model keeps in files beside it.

A model names these files itself, so the names are not trusted: a file must lie in the model's own
folder after all links are resolved, be a regular file, and hold the bytes that are asked for.
The format: https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
import onnx_ir as ir

from onnx_soda.errors import ExternalDataError
from onnx_soda.model.wellformed import walk

__all__ = ["ExternalFile", "check_external_data", "external_tensors", "file_sha256"]

# Larger than any file; numbers of thousands of digits cannot even be printed.
_TOO_LARGE = 2**64


@dataclass(frozen=True)
class ExternalFile:
    """A file that holds weights of the model.

    Attributes:
        file: Location relative to the model's folder.
        sha256: Digest of the whole file, hexadecimal.
        size: Bytes.
    """

    file: str
    sha256: str
    size: int


def file_sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Return every tensor of the model, wherever in it, that is stored outside."""
    tensors = (message for message in walk(model) if isinstance(message, onnx.TensorProto))
    return (tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL)


def check_external_data(
    tensors: Iterable[onnx.TensorProto], folder: Path
) -> tuple[ExternalFile, ...]:
    """Check that every external tensor lies inside a regular file of the model's folder.

    Args:
        tensors: Tensors whose data location is external.
        folder: The folder of the model file.

    Returns:
        The files used, sorted by name, with digest and size.

    Raises:
        ExternalDataError: A file is missing, not a regular file, outside the folder, or too short.
    """
    sizes: dict[str, int] = {}
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in sizes:
            sizes[location] = _contained(location, folder).stat().st_size
        _check_range(tensor, entries, location, sizes[location])
    return tuple(_described(name, folder, size) for name, size in sorted(sizes.items()))


def _described(location: str, folder: Path, size: int) -> ExternalFile:
    try:
        return ExternalFile(location, file_sha256(folder / location), size)
    except OSError as error:
        raise ExternalDataError(
            f"the weights file {location!r} cannot be read: {error.strerror}",
            "Check its permissions.",
        ) from error


def _contained(location: str, folder: Path) -> Path:
    if not location or Path(location).is_absolute():
        raise ExternalDataError(
            f"the model asks for weights at {location!r}, which is not a path beside it",
            "Do not trust this file; ask its author for one with relative locations.",
        )
    path = _resolved(folder / location)
    if path is not None and not path.is_relative_to(folder.resolve()):
        raise ExternalDataError(
            f"the model asks for weights at {location!r}, outside its own folder",
            "Do not trust this file, or put the model and its weights into one folder.",
        )
    if path is None or not path.is_file():
        raise ExternalDataError(
            f"the weights file {location!r} is missing beside the model",
            "Download it too and put it into the model's folder under this name.",
        )
    # The onnx package refuses these too; they may lead to a file of somebody else's.
    if (folder / location).is_symlink() or path.stat().st_nlink > 1:
        raise ExternalDataError(
            f"the weights file {location!r} is a link to a file that may be elsewhere",
            "Put a copy of the file itself into the model's folder.",
        )
    return path


def _resolved(path: Path) -> Path | None:
    """Follow all links, whether there is a file or not; None where no file can have this name."""
    try:
        resolved = path.resolve()
        resolved.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, a link to itself, a NUL
        return None
    return resolved


def _check_range(
    tensor: onnx.TensorProto, entries: dict[str, str], location: str, size: int
) -> None:
    needed = _byte_count(tensor)
    try:
        offset = _number(entries.get("offset", "0"))
        length = _number(entries.get("length", str(needed)))
    except ValueError as error:
        raise ExternalDataError(
            f"tensor {tensor.name!r} has an offset or length that is not a number",
            "The model file is damaged; download it again.",
        ) from error
    if offset < 0 or length < needed or offset + length > size:
        raise ExternalDataError(
            f"tensor {tensor.name!r} needs {needed} bytes and names bytes {offset} to "
            f"{offset + length} of {location!r}, which has {size}",
            "The weights file is cut short or belongs to another model; download it again.",
        )


def _byte_count(tensor: onnx.TensorProto) -> int:
    """Return the size of a tensor's data; 0 for element types that are not stored outside."""
    try:
        # Elements of fewer than 8 bits are packed; their size is a fraction.
        bits = int(8 * ir.DataType(tensor.data_type).itemsize)
    except (TypeError, ValueError):
        return 0
    elements: int = prod(tensor.dims)
    return min((bits * elements + 7) // 8, _TOO_LARGE)


def _number(text: str) -> int:
    if len(text) > len(str(_TOO_LARGE)):
        raise ValueError
    return int(text)
