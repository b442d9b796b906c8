"""External data: weights that a model keeps in files beside it.

A model names these files itself, so the names are not trusted. The rule:

1. The name is relative, has no "..", no drive, no backslash and no NUL.
2. After all links are followed, the file lies inside the folder of the model as named, or directly
   in the folder where the model file itself really lies. So a model in the cache of Hugging Face
   loads, whose files are links into one folder of blobs.
3. It is a regular file. Where it has further names (hard links, which uv, conda and DVC make), its
   owner is the model file's: so nobody makes a scan read another user's file.
4. Every tensor lies inside it, and its checksum is right where the model names one.

onnx, onnx-ir and ONNX Runtime refuse symbolic links altogether. So the names in the model are
replaced by those of the files that were checked, and these alone are opened; nothing is copied.
onnx and onnx-ir refuse hard links, too. Weights with hard links are read into the model instead.
The format: https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from onnx_soda._errors import ExternalDataError
from onnx_soda._preflight.file import HEAD_BYTES, describe_text
from onnx_soda._preflight.inventory import declared_bytes
from onnx_soda._preflight.limits import FileLimits, over_limit
from onnx_soda._rules import RULE_EXTERNAL, RULE_EXTERNAL_CONTENT, RULE_LINKED

# Offsets and lengths are printed in messages; no file needs more digits.
_MOST_DIGITS = 20
# A protobuf message holds 2 GiB at most; the graph takes some of it.
_MOST_TAKEN_IN = 2**31 - 2**26
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class ExternalFile:
    """A file that holds weights of the model.

    Attributes:
        file: Location relative to the model's folder, as the model names it.
        sha256: Digest of the whole file, hexadecimal.
        size: Bytes.
        path: Where it really lies, all links followed.
        links: Names that the file has in the file system: its hard links.
    """

    file: str
    sha256: str
    size: int
    path: Path = field(default=Path(), compare=False)
    links: int = field(default=1, compare=False)


def check_external_data(
    tensors: Iterable[onnx.TensorProto], model: Path, limits: FileLimits
) -> tuple[ExternalFile, ...]:
    """Check that every external tensor lies where the rule allows, inside its file.

    Args:
        tensors: Tensors whose data location is external.
        model: Path of the model file, as named.
        limits: The limits.

    Returns:
        The files used, sorted by name.

    Raises:
        ExternalDataError: A file is missing, outside, no regular file, too short, or changed.
        UnsupportedModelError: The files are too large, or read more often than tied weights are.
    """
    found: dict[str, tuple[Path, int]] = {}
    checksums: dict[str, set[str]] = {}
    declared = 0
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in found:
            found[location] = _contained(location, model)
        declared += _check_range(tensor, entries, location, found[location][1])
        if entries.get("checksum"):
            checksums.setdefault(location, set()).add(entries["checksum"])
    held = sum(dict(found.values()).values())
    if held > limits.tensor_bytes:
        raise over_limit(
            f"the weights files of {model.name} have {held} bytes", limits.tensor_bytes
        )
    if declared > limits.tied_factor * held:
        raise over_limit(
            f"the tensors of {model.name} read {declared} bytes from weights files of {held}",
            f"{limits.tied_factor} times",
        )
    return tuple(
        _described(location, path, size, checksums.get(location, set()))
        for location, (path, size) in sorted(found.items())
    )


def place_external_data(
    tensors: Iterable[onnx.TensorProto], files: tuple[ExternalFile, ...], folder: Path
) -> Path:
    """Make tensors name the files that were checked, and return the folder to read them from.

    Args:
        tensors: The external tensors; their locations are changed where links were followed.
        files: The files, from `check_external_data`.
        folder: The folder of the model as named.
    """
    real = folder.resolve()
    paths = {one.file: one.path for one in files}
    if not all(path.is_relative_to(real) for path in paths.values()):
        real = Path(os.path.commonpath([path.parent for path in paths.values()]))
    for tensor in tensors:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = paths[entry.value].relative_to(real).as_posix()
    return real


def take_in_linked(
    tensors: Iterable[onnx.TensorProto], files: tuple[ExternalFile, ...], folder: Path
) -> None:
    """Put the weights into the model itself where a file has hard links.

    Args:
        tensors: The external tensors, after `place_external_data`; they are changed.
        files: The files, from `check_external_data`.
        folder: The folder to read them from, from `place_external_data`.

    Raises:
        ExternalDataError: They do not fit into one model, or a file was changed meanwhile.
    """
    linked = next((one for one in files if one.links > 1), None)
    if linked is None:
        return
    if sum(one.size for one in files) > _MOST_TAKEN_IN:
        raise _linked(linked.file, linked.links, "too many bytes to be read into the model")
    read_external_data(tensors, folder)


def read_external_data(tensors: Iterable[onnx.TensorProto], folder: Path) -> None:
    """Put the weights of checked external tensors into the model itself.

    Args:
        tensors: The external tensors, after `place_external_data`; they are changed.
        folder: The folder to read them from, from `place_external_data`.

    Raises:
        ExternalDataError: A file cannot be read any more, or became shorter.
    """
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        needed = declared_bytes(tensor)
        try:
            with (folder / entries["location"]).open("rb") as stream:
                stream.seek(_number(entries.get("offset", "0")))
                content = stream.read(needed)
        except OSError as error:
            raise _unreadable(entries["location"], error) from error
        if len(content) < needed:
            raise ExternalDataError(
                f"the weights file {entries['location']!r} was changed meanwhile", "Scan it again."
            )
        tensor.raw_data = content
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _unreadable(location: str, error: OSError) -> ExternalDataError:
    return ExternalDataError(
        f"the weights file {location!r} cannot be read: {error.strerror}", "Check its permissions."
    )


def _described(location: str, path: Path, size: int, checksums: set[str]) -> ExternalFile:
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if checksums:
                stream.seek(0)
                sha1 = hashlib.file_digest(stream, "sha1").hexdigest()
                _check_sums(location, sha1, checksums)
    except OSError as error:
        raise _unreadable(location, error) from error
    return ExternalFile(location, digest, size, path, path.stat().st_nlink)


def _check_sums(location: str, sha1: str, checksums: set[str]) -> None:
    wrong = next((one for one in sorted(checksums) if one.lower() != sha1), None)
    if wrong is not None:
        raise ExternalDataError(
            f"the weights file {location!r} has the SHA-1 checksum {sha1}, "
            f"and the model says {wrong[:40]!r}",
            "The weights were changed or belong to another model; download both again.",
            rule_id=RULE_EXTERNAL_CONTENT,
        )


def check_location(location: str) -> None:
    """Refuse a name of a weights file that leads elsewhere, by the name alone.

    Raises:
        ExternalDataError: It does.
    """
    if not location or location.startswith(("/", "\\")) or _DRIVE.match(location):
        raise _outside(location, "which is not a path beside it")
    if "\\" in location:
        raise _outside(location, "with a backslash, which some systems read as a folder")
    if ".." in location.split("/"):
        raise _outside(location, "outside its own folder")


def _contained(location: str, model: Path) -> tuple[Path, int]:
    """Return where the weights really lie, and how many bytes they have."""
    check_location(location)
    path = _resolved(model.parent / location)
    if path is not None and not _allowed(path, model):
        raise _outside(location, "outside its own folder")
    status = _status(path)
    if path is None or status is None or not stat.S_ISREG(status.st_mode):
        raise ExternalDataError(
            f"the weights file {location!r} is missing beside the model",
            "Download it too and put it into the model's folder under this name.",
        )
    if status.st_nlink > 1 and status.st_uid != model.stat().st_uid:
        why = "another owner than the model: it may be another user's file"
        raise _linked(location, status.st_nlink, why)
    if status.st_size <= HEAD_BYTES:
        _check_fetched(location, path)
    return path, status.st_size


def _check_fetched(location: str, path: Path) -> None:
    """Refuse a text in the place of weights: a Git LFS pointer, a server's answer.

    Weights may begin with any bytes, but not with whole sentences.
    """
    text = describe_text(path.read_bytes())
    if text is not None:
        raise ExternalDataError(f"the weights file {location!r} is {text.what}", text.advice)


def _linked(location: str, names: int, why: str) -> ExternalDataError:
    return ExternalDataError(
        f"the weights file {location[:200]!r} has {names} names (hard links), and {why}",
        "If it is the right file, copy it: `cp FILE FILE.copy && mv FILE.copy FILE` makes one of "
        "your own.",
        rule_id=RULE_LINKED,
    )


def _outside(location: str, why: str) -> ExternalDataError:
    return ExternalDataError(
        f"the model asks for weights at {location[:200]!r}, {why}",
        "Do not trust this file; if it is your own, put the model and its weights into one folder.",
        rule_id=RULE_EXTERNAL,
    )


def _allowed(path: Path, model: Path) -> bool:
    return path.is_relative_to(model.parent.resolve()) or path.parent == model.resolve().parent


def _resolved(path: Path) -> Path | None:
    """Follow all links, whether there is a file or not; None where no file can have this name."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # too long, a link to itself, a NUL
        return None


def _status(path: Path | None) -> os.stat_result | None:
    try:
        return path.lstat() if path else None  # a link here would be one made since
    except (OSError, ValueError):
        return None


def _check_range(
    tensor: onnx.TensorProto, entries: dict[str, str], location: str, size: int
) -> int:
    """Check that a tensor lies inside its file, and return its bytes."""
    needed = declared_bytes(tensor)
    try:
        offset = _number(entries.get("offset", "0"))
        length = _number(entries.get("length", str(needed)))
    except ValueError as error:
        raise ExternalDataError(
            f"tensor {tensor.name!r} has an offset or length that is not a number",
            "The model file is damaged; download it again.",
            rule_id=RULE_EXTERNAL_CONTENT,
        ) from error
    if offset < 0 or needed < 0 or length < needed or offset + length > size:
        raise ExternalDataError(
            f"tensor {tensor.name!r} needs {needed} bytes and names bytes {offset} to "
            f"{offset + length} of {location!r}, which has {size}",
            "The weights file is cut short or belongs to another model; download it again.",
            rule_id=RULE_EXTERNAL_CONTENT,
        )
    return length


def _number(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError
    return int(text)
