"""What is remembered: a file per scan, or per answer of a reference, named by what it depends on.

The name is a digest of the model, the clean set, all options and all versions. So no entry is ever
out of date. A file is written beside its place, then renamed. It is read back strictly: what is not
a whole report counts as missing, and is replaced. So several runs can share a folder, and a run can
be killed at any time.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import platformdirs

import onnx_soda
import onnx_soda._converters
from onnx_soda._data.forms import files_beside
from onnx_soda._errors import OutputError
from onnx_soda._options import ReferenceFlows, ScanRequest
from onnx_soda._report.json import to_json
from onnx_soda._results import SCHEMA_VERSION, ScanReport
from onnx_soda._system import installed_versions, read_json, write_text

# Reports have tens to hundreds of kilobytes; what a reference says of 43 classes has 6 megabytes.
_MOST_BYTES = 2**30
# Bytes of a model and its clean set that are read for the key, without a time limit; no scan reads
# more of either.
_MOST_HASHED = 16 * 2**30
_LARGEST = 64 * 2**20
_SCAN, _FLOWS = ".json", ".flows"
# What a result may depend on.
_PACKAGES = (
    "onnx-soda", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy", "scipy", "pillow",
    "h5py", "torch", "keras", "skl2onnx", "tf2onnx",
)  # fmt: skip


_State = tuple[tuple[str, int, int], ...]
"""Of each file of a clean set: path, size, and time of the last change."""


@dataclass(frozen=True)
class _Entry:
    """What the file of a scan holds."""

    key: str
    report: ScanReport


@dataclass(frozen=True)
class _FlowsEntry:
    """What the file of a reference's answer holds."""

    key: str
    flows: ReferenceFlows


_Kind = TypeVar("_Kind", _Entry, _FlowsEntry)


@dataclass(frozen=True)
class CacheSize:
    """How much is remembered.

    Attributes:
        folder: Where.
        scans: Number of scans.
        references: Number of answers of reference models.
        size: Bytes of their files.
    """

    folder: str
    scans: int
    references: int
    size: int


def usual_folder() -> Path:
    """Return the folder for caches of this program and user (XDG on Linux)."""
    return Path(platformdirs.user_cache_dir("onnx-soda", appauthor=False)) / "scans"


@dataclass(frozen=True)
class Cache:
    """Remembers scans and answers of reference models in a folder.

    Attributes:
        folder: The folder; made when something is stored. Whoever can write to it can make up
            results, so it should be the user's own.
    """

    folder: Path

    def key_of(self, request: ScanRequest, model: str | None = None) -> str | None:
        """Return what a scan is remembered by, or a reference's answer; None where it is not.

        Args:
            request: The scan.
            model: What stands for the content of the model where its file is not here.

        A TensorFlow folder and weights beside a model are parts of a model that only parsing tells
        of, which is not done here. What cannot be read is left for the scan to complain about.
        """
        data = request.data
        try:
            if model is None and not request.model.is_file():
                return None
            if not (data is None or data.is_file() or data.is_dir()):
                return None
            state = _state_of(data, request.options.data.labels) if data else ()
            if state is None:
                return None
            own = request.model.stat().st_size if model is None else 0
            if sum((size for _, size, _ in state), own) > _MOST_HASHED:
                return None
            return self._key(request, model or _digest(request.model), state)
        except (OSError, ValueError):
            return None

    def _key(self, request: ScanRequest, model: str, data_state: _State) -> str:
        parts = {
            "model": model,
            "name": request.model.name,
            "data": _digest_of_state(request.data, data_state) if request.data else None,
            "data_name": request.data.name if request.data else None,
            "preprocess": _preprocess(request),
            "split": request.split,
            "options": _options(request),
            "convert": asdict(request.convert),
            "sandbox": request.limits is not None,
            "references": [_reference(one) for one in request.references],
            "schema": SCHEMA_VERSION,
            "program": program_digest(),
            "versions": installed_versions(_PACKAGES),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def load(self, key: str) -> ScanReport | None:
        """Return the report of a key; None where there is none, or none that can be trusted."""
        entry = self._read(self.folder / (key + _SCAN), _Entry)
        # A file that was renamed, or is of another version, is about something else.
        if entry is None or entry.key != key or entry.report.schema_version != SCHEMA_VERSION:
            return None
        return entry.report

    def store(self, key: str, report: ScanReport) -> None:
        """Remember a report, where that can be done, and forget the oldest beyond the limit.

        One of a scan that ended early is not: another time there may be more.
        """
        if not report.model.external_data and report.stopped is None:
            self._write(self.folder / (key + _SCAN), to_json(_Entry(key, report)))

    def load_flows(self, key: str) -> ReferenceFlows | None:
        """Return what a reference said; None where that is not remembered."""
        entry = self._read(self.folder / (key + _FLOWS), _FlowsEntry)
        return None if entry is None or entry.key != key else entry.flows

    def store_flows(self, key: str, flows: ReferenceFlows) -> None:
        """Remember what a reference said; a problem may be over the next time."""
        if not flows.problem and not flows.external_data:
            text = msgspec.json.encode(_FlowsEntry(key, flows)).decode()
            self._write(self.folder / (key + _FLOWS), text)

    def _read(self, path: Path, kind: type[_Kind]) -> _Kind | None:
        try:
            if path.is_symlink() or path.stat().st_size > _LARGEST:
                return None
            entry: _Kind = read_json(path.read_bytes(), kind)
            os.utime(path)  # the oldest go first
        except (OSError, msgspec.MsgspecError, RecursionError):
            return None
        return entry

    def _write(self, path: Path, text: str) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_text(path, text)
            self._shrink()
        except (OSError, OutputError):
            return

    def size(self) -> CacheSize:
        """Tell how much is remembered."""
        entries = list(self._entries())
        scans = sum(path.suffix == _SCAN for _, _, path in entries)
        size = sum(size for _, size, _ in entries)
        return CacheSize(str(self.folder), scans, len(entries) - scans, size)

    def clear(self) -> None:
        """Forget everything."""
        for _, _, path in self._entries():
            path.unlink(missing_ok=True)

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Yield time of last use, size and place of each file; other runs may remove some."""
        for path in (*self.folder.glob(f"*{_SCAN}"), *self.folder.glob(f"*{_FLOWS}")):
            try:
                facts = path.lstat()
            except OSError:
                continue
            yield facts.st_mtime, facts.st_size, path

    def _shrink(self) -> None:
        kept = 0
        for _, size, path in sorted(self._entries(), reverse=True):
            kept += size
            if kept > _MOST_BYTES:
                path.unlink(missing_ok=True)


def _files(path: Path) -> list[Path]:
    """Return a file, or all files below a folder."""
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]


def digest_of_refused(path: Path) -> str:
    """Return the digest of a file or folder that was refused; "" where it is too large, or gone."""
    try:
        small = sum(file.stat().st_size for file in _files(path)) <= _MOST_HASHED
        return _digest(path) if small else ""
    except OSError:
        return ""


def _digest(path: Path) -> str:
    """Return the digest of a file, or of all files below a folder with their names."""
    if path.is_dir():
        whole = hashlib.sha256()
        for file in _files(path):
            line = f"{file.relative_to(path).as_posix()}\0{_digest(file)}\n"
            whole.update(line.encode("utf-8", "surrogateescape"))
        return whole.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _state_of(path: Path, labels: str | None) -> _State | None:
    """Return what tells whether a clean set has changed; None where links lead on to folders."""
    parts = [path, *files_beside(path), *([Path(labels)] if labels else [])]
    files = list(dict.fromkeys(file for part in parts for file in _files(part)))
    if any(part.is_dir() and _has_linked_folder(part) for part in parts):
        return None
    facts = ((file, file.stat()) for file in files)
    return tuple((str(file), fact.st_size, fact.st_mtime_ns) for file, fact in facts)


def _has_linked_folder(folder: Path) -> bool:
    return any(one.is_symlink() and one.is_dir() for one in folder.rglob("*"))


@functools.lru_cache(maxsize=4)
def _digest_of_state(data: Path, state: _State) -> str:
    """Return the digest of a clean set, which many models share; what is unchanged is read once."""
    whole = hashlib.sha256()
    for name, _, _ in state:
        line = f"{os.path.relpath(name, data.parent)}\0{_digest(Path(name))}\n"
        whole.update(line.encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def _options(request: ScanRequest) -> dict[str, Any]:
    """Return the options but for the number of threads: with others only rounding differs."""
    options = asdict(request.options)
    del options["runtime"]["threads"]
    return options


def _reference(flows: ReferenceFlows) -> str:
    """Return a digest of what a reference said."""
    parts = {**asdict(flows), "shares": hashlib.sha256(flows.shares).hexdigest()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _preprocess(request: ScanRequest) -> Any:
    """Return the content of a preprocessing file; a preset is told by its name in the options."""
    named = request.options.preprocess
    return _digest(Path(named)) if named and Path(named).is_file() else None


@functools.cache
def program_digest() -> str:
    """Return a digest of the program itself: a version number stays while it is worked on."""
    whole = hashlib.sha256()
    for package in (onnx_soda, onnx_soda._converters):
        folder = Path(package.__file__ or "").parent
        for file in sorted((*folder.rglob("*.py"), *folder.rglob("*.json"))):
            whole.update(file.read_bytes())
    return whole.hexdigest()
