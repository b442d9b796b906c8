"""Keras: `.keras` (configuration as JSON, weights as HDF5, in a zip archive) and `.h5`.

Read by Keras on top of PyTorch and exported by PyTorch; where that is not installed and TensorFlow
is, by Keras on top of TensorFlow and tf2onnx. Both in one process get in each other's way, so it is
one or the other. Keras gets a copy of a `.keras` file that holds the checked configuration and
weights alone.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnx_soda.data.hdf5_safety import open_checked
from onnx_soda.errors import ConvertError, DatasetFileError, UnsupportedSourceError

from .archive import Archive, checked_archive, member_names
from .keras_config import check_config, without_training
from .protocol import Conversion, ConvertOptions
from .refusals import damaged, explaining, misleading
from .strict_json import parse_json

__all__ = ["KerasConverter"]

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_CONFIG_BYTES = 64 * 2**20
_WEIGHTS_BYTES = 2**31 - 1
# What Keras may run on, the first one that is installed.
_ROUTES = {
    "torch": ("keras", "torch", "onnxscript"),
    "tensorflow": ("keras", "tensorflow", "tf2onnx"),
}
_HDF5 = b"\x89HDF\r\n\x1a\n"
_LOADS_NOT = (
    "The file may be of another version of Keras; export it to ONNX there: "
    'model.export("model.onnx", format="onnx").'
)


class KerasConverter:
    """Reads what `model.save` of Keras writes."""

    name = "Keras (.keras, .h5)"
    extra = "keras"

    @property
    def packages(self) -> tuple[str, ...]:
        """See `Converter`; PyTorch's where neither way is complete."""
        return _ROUTES[_backend()]

    def can_read(self, path: Path) -> bool:
        """See `Converter`."""
        names = member_names(path)
        if names:
            return _CONFIG in names and _METADATA in names
        with path.open("rb") as stream:
            return stream.read(len(_HDF5)) == _HDF5

    def precheck(self, path: Path) -> None:
        """See `Converter`."""
        with _checked_copy(path):
            pass

    def load(self) -> None:
        """See `Converter`."""
        backend = _backend()
        if backend == "torch":
            import torch.onnx  # noqa: F401
        before = os.environ.get("KERAS_BACKEND")
        os.environ["KERAS_BACKEND"] = backend
        try:
            import keras
        finally:
            del os.environ["KERAS_BACKEND"]
            if before is not None:
                os.environ["KERAS_BACKEND"] = before
        if keras.backend.backend() != backend:
            raise ConvertError(
                f"Keras runs on {keras.backend.backend()} in this process already",
                "Convert in a child process, as is usual, or import keras with "
                f"KERAS_BACKEND={backend}.",
            )

    def convert(self, path: Path, out: Path, options: ConvertOptions) -> Conversion:
        """See `Converter`."""
        convert_model = _runner()
        with (
            _checked_copy(path) as copy,
            explaining(f"Keras cannot convert {path.name}", _LOADS_NOT),
        ):
            return convert_model(self.name, path, copy, out, options)


def _backend() -> str:
    """Return what Keras is to run on."""
    for backend, packages in _ROUTES.items():
        if all(importlib.util.find_spec(name) for name in packages):
            return backend
    return "torch"


def _runner() -> Callable[[str, Path, Path, Path, ConvertOptions], Conversion]:
    if _backend() == "torch":
        from .keras_run import convert_model

        return convert_model
    from .keras_tensorflow_run import convert_model as convert_on_tensorflow

    return convert_on_tensorflow


@contextmanager
def _checked_copy(path: Path) -> Iterator[Path]:
    """Yield what Keras may read of a file, under a name by which Keras knows the format.

    Raises:
        UnsafeSourceError: See `check_config`.
        UnsupportedSourceError: It holds weights alone.
        ConvertError: It is damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        if member_names(path):
            copy = Path(folder) / "model.keras"
            with checked_archive(path) as archive:
                _write_copy(archive, copy)
        else:
            _check_hdf5(path)
            copy = Path(folder) / "model.h5"
            copy.symlink_to(path.absolute())
        yield copy


def _write_copy(archive: Archive, copy: Path) -> None:
    config = _config(archive.read(_CONFIG, _CONFIG_BYTES), archive.file)
    weights = copy.with_name(_WEIGHTS)
    weights.write_bytes(archive.read(_WEIGHTS, _WEIGHTS_BYTES))
    with _reading(archive.file), open_checked(weights):
        pass
    metadata = parse_json(archive.read(_METADATA, 2**16), f"{_METADATA} in {archive.file}")
    with zipfile.ZipFile(copy, "w") as written:
        written.writestr(_METADATA, json.dumps(metadata))
        written.writestr(_CONFIG, json.dumps(config))
        written.write(weights, _WEIGHTS)
    weights.unlink()


def _check_hdf5(path: Path) -> None:
    with _reading(path.name), open_checked(path) as file:
        content = file.attrs.get("model_config")
        if content is None:
            raise UnsupportedSourceError(
                f"{path.name} is an HDF5 file without a Keras model in it",
                "If it holds weights alone, save the whole model: model.save('model.keras').",
            )
    if not isinstance(content, str | bytes):
        raise damaged(f"{path.name} has no configuration that can be read")
    _config(content, path.name)


def _config(content: bytes | str, file: str) -> Any:
    config = without_training(parse_json(content, f"the configuration of {file}"), file)
    check_config(config, file)
    return config


@contextmanager
def _reading(file: str) -> Iterator[None]:
    """Tell what is wrong with an HDF5 file as with a model, not as with a clean set."""
    try:
        yield
    except DatasetFileError as error:
        raise misleading(f"the weights of {file} are refused: {error.message}") from error
