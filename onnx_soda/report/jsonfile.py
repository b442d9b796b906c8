"""Writes reports as JSON, and to files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from onnx_soda.errors import OutputError
from onnx_soda.report.schema import ScanReport
from onnx_soda.signals import held_back

__all__ = ["check_writable", "report_as_dict", "report_schema", "to_json", "write_text"]


def report_as_dict(report: ScanReport) -> dict[str, Any]:
    """Return a report as plain dicts and lists, as its JSON form has it."""
    plain: dict[str, Any] = json.loads(to_json(report))
    return plain


def to_json(document: Any) -> str:
    """Return a report, or any other dataclass, as JSON text ending in a newline."""
    return json.dumps(dataclasses.asdict(document), indent=2, allow_nan=False) + "\n"


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the report."""
    text = files("onnx_soda.report").joinpath("scan-report.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def check_writable(path: Path, *inputs: Path | None) -> None:
    """Make sure that a file can be written, before the work for it begins.

    Args:
        path: The file.
        inputs: What the work reads or writes elsewhere; None stands for nothing.

    Raises:
        OutputError: Its folder is missing or not writable, the path is a folder, or one of the
            inputs.
    """
    if any(one is not None and _same(path, one) for one in inputs):
        raise OutputError(
            f"{path.name} would be overwritten, which this command reads or writes otherwise",
            "Choose another name.",
        )
    folder = path.resolve().parent
    if not folder.is_dir():
        raise OutputError(f"the folder of {path.name} does not exist", "Make it first.")
    if path.is_dir():
        raise OutputError(f"{path.name} is a folder", "Give the name of a file.")
    if not os.access(path if _is_device(path) else folder, os.W_OK):
        raise OutputError(f"the folder of {path.name} is not writable", "Choose another one.")


def _same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other) and not _is_device(one)
    return one.resolve() == other.resolve()


def _is_device(path: Path) -> bool:
    """Tell whether a path is something that is there and is no file: /dev/null, a pipe."""
    return path.exists() and not path.is_file()


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: beside its place first, then renamed.

    Where the path is a symbolic link, the file behind it is written; what is no file, such as
    /dev/null or a pipe, is written to directly.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        if _is_device(path):
            path.write_text(text, encoding="utf-8")
            return
        with held_back():
            _write_beside(path.resolve(), text)
    except OSError as error:
        raise OutputError(
            f"{path.name} cannot be written: {error.strerror}", "Choose another place."
        ) from error


def _write_beside(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        # mkstemp makes files for their owner only; a report is an ordinary file.
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
