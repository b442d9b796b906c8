"""TensorFlow SavedModel: a folder with `saved_model.pb` and `variables/`.

`tf.saved_model.load` runs functions of the file: what makes a resource runs at loading. So only
operators of classifiers are let in, and no resources and no assets. The functions that save and
load the variables are in every SavedModel; nothing else may call them. TensorFlow gets a copy of
the program and the variables alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx_soda.errors import UnsupportedSourceError

from .protocol import Conversion, ConvertOptions
from .refusals import bomb, damaged, explaining, misleading, runs_code
from .saved_model_wire import Program, read_program
from .tensorflow_operators import OPERATORS, SAVING

__all__ = ["SavedModelConverter"]

_PROGRAM, _VARIABLES, _ASSETS = "saved_model.pb", "variables", "assets"
_PROGRAM_BYTES = 2**28
_VARIABLES_BYTES = 2**31 - 1
_MOST_FILES = 100
_ADVICE = "Export the bare network, from images to scores, without preprocessing of files or texts."
_LOADS_NOT = "The file may be of another version of TensorFlow; convert it there with tf2onnx."


class SavedModelConverter:
    """Reads what `tf.saved_model.save` and `model.export` of Keras write."""

    name = "TensorFlow SavedModel"
    extra = "tensorflow"
    packages = ("tensorflow", "tf2onnx")

    def can_read(self, path: Path) -> bool:
        """See `Converter`."""
        return (path / _PROGRAM).exists()

    def precheck(self, path: Path) -> None:
        """See `Converter`."""
        with _checked_copy(path):
            pass

    def load(self) -> None:
        """See `Converter`."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from . import saved_model_run  # noqa: F401

    def convert(self, path: Path, out: Path, options: ConvertOptions) -> Conversion:
        """See `Converter`."""
        with (
            _checked_copy(path) as copy,
            explaining(f"TensorFlow cannot convert {path.name}", _LOADS_NOT),
        ):
            from .saved_model_run import convert_model

            return convert_model(self.name, path, copy, out, options)


@contextmanager
def _checked_copy(path: Path) -> Iterator[Path]:
    """Yield a folder with what TensorFlow may read of a SavedModel.

    Raises:
        UnsafeSourceError: It could run code or touch files, or is built to mislead.
        UnsupportedSourceError: It is of TensorFlow 1.
        ConvertError: It is damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model"
        (copy / _VARIABLES).mkdir(parents=True)
        if (path / _ASSETS).is_symlink() or any((path / _ASSETS).glob("*")):
            raise _reads_files(path.name)
        content = _plain(path / _PROGRAM, path.name, _PROGRAM_BYTES).read_bytes()
        check_program(read_program(content, path.name), path.name)
        (copy / _PROGRAM).write_bytes(content)
        _copy_variables(path, copy)
        yield copy


def check_program(program: Program, file: str) -> None:
    """Refuse a SavedModel that could do more than compute.

    Args:
        program: What it would run.
        file: Name to show.

    Raises:
        UnsafeSourceError: See above.
        UnsupportedSourceError: It is of TensorFlow 1, or holds several graphs.
    """
    if program.graphs != 1 or not program.has_objects:
        raise UnsupportedSourceError(
            f"{file} is of TensorFlow 1, or holds several graphs",
            "Load it in TensorFlow 2 and save it with tf.saved_model.save.",
        )
    functions = program.operators.keys() - {""}
    ambiguous = program.repeated | (functions & (OPERATORS | SAVING))
    if ambiguous:
        raise misleading(f"{file} defines the function {min(ambiguous)} twice")
    if program.has_assets:
        raise _reads_files(file)
    saving = {name for name in functions if program.operators[name] & SAVING}
    for name, operators in program.operators.items():
        refused = operators - OPERATORS - (SAVING if name in saving else set())
        if refused:
            raise runs_code(
                f"{file} uses the operator {min(refused)}, which no image classifier needs", _ADVICE
            )
    # The graph itself calls them too; that is not run at loading.
    called = {one for name in functions for one in program.calls[name]} | program.restored
    if saving & called:
        raise runs_code(f"{file} reads or writes files in {min(saving & called)}", _ADVICE)
    if program.has_resources:
        raise runs_code(f"{file} holds resources, which are made by running it", _ADVICE)


def _reads_files(file: str) -> Exception:
    return runs_code(f"{file} reads files of its own (assets)", _ADVICE)


def _copy_variables(path: Path, copy: Path) -> None:
    folder = path / _VARIABLES
    if folder.is_symlink():
        raise misleading(f"{path.name} has a link in place of {_VARIABLES}")
    names = sorted(folder.glob("variables.*"))
    if len(names) > _MOST_FILES:
        raise bomb(f"{path.name} has {len(names)} files of variables")
    left = _VARIABLES_BYTES
    for name in names:
        left -= _plain(name, path.name, left).stat().st_size
        shutil.copyfile(name, copy / _VARIABLES / name.name, follow_symlinks=False)


def _plain(path: Path, file: str, most: int) -> Path:
    """Return a path that is an ordinary file and not too large."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise misleading(f"{path.name} in {file} is no ordinary file")
    if not path.exists():
        raise damaged(f"{file} has no {path.name}")
    if path.stat().st_size > most:
        raise bomb(f"{path.name} in {file} has {path.stat().st_size} bytes")
    return path
