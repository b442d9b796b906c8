"""Chooses the converter of a file by its content, and names what no converter reads."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from onnx_soda._errors import ModelFileError, UnsupportedSourceError
from onnx_soda._preflight.file import HEAD_BYTES, describe_foreign_file
from onnx_soda._system import missing_modules, require_modules
from onnx_soda._words import shown_name

from .archives import member_names
from .exported_program import ExportedProgramConverter
from .keras_model import KerasConverter
from .protocol import PICKLE_STARTS, Converter
from .refusals import runs_code
from .saved_model import SavedModelConverter
from .sklearn_model import SklearnConverter
from .state_dict import StateDictConverter
from .tflite_model import TfliteConverter
from .torchscript import TorchScriptConverter

_SAVED_MODEL = SavedModelConverter()
CONVERTERS: tuple[Converter, ...] = (
    ExportedProgramConverter(),
    TorchScriptConverter(),
    StateDictConverter(),
    KerasConverter(),
    SklearnConverter(),
    TfliteConverter(),
    _SAVED_MODEL,
)

# What lies in a folder that is a model: name, what it is, what to do.
_FOLDERS = (
    ("inference.json", "a PaddlePaddle model", "Convert it with paddle2onnx."),
    ("inference.pdmodel", "a PaddlePaddle model", "Convert it with paddle2onnx."),
    ("_CHECKPOINT_METADATA", "a JAX checkpoint", "Convert the program with jax2onnx."),
)
# What may be packed for a download, and characters of its name to show.
_PACKED, _MOST_NAME = (".onnx", ".pt2", ".pt", ".pth", ".keras", ".safetensors", ".tflite"), 80
# zlib, as joblib compresses pickles.
_JOBLIB_STARTS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_PICKLE_ADVICE = (
    "Ask its author for .skops (scikit-learn), for weights alone (.safetensors), or for ONNX; do "
    "not open this file."
)


def choose(path: Path) -> Converter:
    """Return the converter that reads a file or folder.

    Raises:
        UnsafeSourceError: It is a pickle.
        UnsupportedSourceError: No converter reads it.
        ModelFileError: It is no file.
    """
    if path.is_dir():
        if _SAVED_MODEL.can_read(path):
            return _SAVED_MODEL
        raise unsupported(path)
    if not path.is_file():
        raise ModelFileError(f"{shown_name(path)} is no file", "Check the path of the model.")
    for converter in CONVERTERS:
        if converter.can_read(path):
            return converter
    raise unsupported(path)


def unsupported(path: Path) -> Exception:
    """Return the error for a file or folder that no converter reads."""
    name = shown_name(path)
    if path.is_dir():
        for inside, what, advice in _FOLDERS:
            if (path / inside).exists():
                return UnsupportedSourceError(f"{name} is {what}: not yet supported", advice)
        return ModelFileError(f"{name} is a folder", "Give the model file inside it.")
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if head.startswith((*PICKLE_STARTS, *_JOBLIB_STARTS)):
        return runs_code(
            f"{name} is a Python pickle (joblib and pickle.dump write these), which can run "
            "anything when it is opened",
            _PICKLE_ADVICE,
        )
    members = member_names(path)
    if members:
        return _unknown_archive(name, members)
    foreign = describe_foreign_file(head)
    if foreign:
        return UnsupportedSourceError(f"{name} is {foreign.what}", foreign.advice)
    return UnsupportedSourceError(
        f"{name} is of no format that can be converted",
        "Export the network to ONNX with the tools of its framework.",
    )


def _unknown_archive(name: str, members: tuple[str, ...]) -> UnsupportedSourceError:
    """Return the error for a zip archive that no framework wrote."""
    packed = [PurePosixPath(member).name for member in members if member.endswith(_PACKED)]
    if packed:
        return UnsupportedSourceError(
            f"{name} is a zip archive with {packed[0][:_MOST_NAME]!r} in it",
            "Unpack it first, and give that file.",
        )
    if all(member.endswith(".npy") for member in members):
        return UnsupportedSourceError(
            f"{name} is an archive of NumPy arrays (.npz), as clean sets are",
            "Give the model, and the clean set as `data`.",
        )
    return UnsupportedSourceError(
        f"{name} is a zip archive of no known framework",
        "Give what torch.export.save, torch.jit.save, torch.save or Keras wrote; if a model is "
        "packed in it, unpack it first.",
    )


def missing_packages(converter: Converter) -> tuple[str, ...]:
    """Return the modules that a converter needs and that cannot be found."""
    return missing_modules(converter.packages)


def require(converter: Converter) -> None:
    """Make sure that what a converter needs is installed.

    Raises:
        MissingExtraError: It is not.
    """
    require_modules(f"converting {converter.name} needs", converter.packages, converter.extra)
