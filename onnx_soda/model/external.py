"""External data: weights that a model keeps in files beside it.

A model names these files itself, so the names are not trusted: a file must lie in the model's own
folder after all links are resolved, be a regular file, and hold the bytes that are asked for.
The format: https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnx_soda.errors import ExternalDataError
from onnx_soda.model.wellformed import walk

__all__ = ["ExternalFile", "check_external_data", "external_tensors", "file_sha256"]


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
    """Yield every tensor of the model, wherever in it, that is stored outside."""
    for message in walk(model):
        if isinstance(message, onnx.TensorProto):
            if message.data_location == onnx.TensorProto.EXTERNAL:
                yield message


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
        _check_range(tensor.name, entries, location, sizes[location])
    return tuple(
        ExternalFile(name, file_sha256(_contained(name, folder)), size)
        for name, size in sorted(sizes.items())
    )


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
    return path


def _resolved(path: Path) -> Path | None:
    """Follow all links; None where there is no such file, or there cannot be one of this name."""
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # missing, too long, a link to itself, a NUL
        return None


def _check_range(name: str, entries: dict[str, str], location: str, size: int) -> None:
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", "0"))
    except ValueError as error:
        raise ExternalDataError(
            f"tensor {name!r} has an offset or length that is not a number",
            "The model file is damaged; download it again.",
        ) from error
    if offset < 0 or length < 0 or offset + length > size:
        raise ExternalDataError(
            f"tensor {name!r} wants bytes {offset} to {offset + length} of {location!r}, "
            f"which has {size}",
            "The weights file is cut short or belongs to another model; download it again.",
        )
