"""Keras: `.keras` (configuration as JSON, weights as HDF5, in a zip archive) and `.h5`.

Read by Keras on top of PyTorch and exported by PyTorch; where that is not installed and TensorFlow
is, by Keras on top of TensorFlow and tf2onnx. Both in one process get in each other's way, so it is
one or the other. Keras gets a copy of a `.keras` file that holds the checked configuration and
weights alone.

What may stand in the configuration of a Keras model; imports no Keras.

Keras makes Python objects of names in the configuration: of its own classes, of whatever module is
named, of functions saved as byte code. Its `safe_mode` refuses the last two in recent versions;
here every name has to be on a list. Layers that read files or other models (`TFSMLayer`,
`TorchModuleWrapper`, `StringLookup` with a vocabulary file) are not.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnx_soda._answers import Conversion
from onnx_soda._data.hdf5 import open_checked
from onnx_soda._errors import ConvertError, DatasetFileError, UnsupportedSourceError
from onnx_soda._options import ConvertOptions

from .archives import Archive, checked_archive, member_names
from .refusals import damaged, explaining, misleading, parse_json, runs_code, walk

_LAYER_NAMES = """
    InputLayer Input Functional Sequential Model Dense Activation Flatten Reshape Permute
    RepeatVector Conv1D Conv2D DepthwiseConv1D DepthwiseConv2D SeparableConv1D SeparableConv2D
    Conv2DTranspose MaxPooling1D MaxPooling2D AveragePooling1D AveragePooling2D
    GlobalMaxPooling1D GlobalMaxPooling2D GlobalAveragePooling1D GlobalAveragePooling2D
    AdaptiveAveragePooling2D AdaptiveMaxPooling2D
    BatchNormalization LayerNormalization GroupNormalization RMSNormalization UnitNormalization
    SpectralNormalization Dropout SpatialDropout1D SpatialDropout2D GaussianDropout GaussianNoise
    AlphaDropout ActivityRegularization ReLU LeakyReLU PReLU ELU Softmax ThresholdedReLU Identity
    Add Subtract Multiply Average Maximum Minimum Concatenate Dot ZeroPadding1D ZeroPadding2D
    Cropping1D Cropping2D UpSampling1D UpSampling2D Rescaling Normalization Resizing CenterCrop
    RandomFlip RandomRotation RandomZoom RandomTranslation RandomCrop RandomContrast
    RandomBrightness Embedding MultiHeadAttention Attention EinsumDense TimeDistributed
    """
_PART_NAMES = """
    DTypePolicy Policy Zeros Ones Constant Identity RandomNormal RandomUniform TruncatedNormal
    VarianceScaling GlorotUniform GlorotNormal HeUniform HeNormal LecunUniform LecunNormal
    Orthogonal OrthogonalInitializer IdentityInitializer L1 L2 L1L2 OrthogonalRegularizer MaxNorm
    MinMaxNorm NonNeg UnitNorm
    """
_OPERATION_NAMES = """
    Add Subtract Multiply Divide TrueDivide Maximum Minimum Mean Max Sum Reshape Transpose
    Concatenate ExpandDims Squeeze Pad Relu Relu6 Silu Sigmoid Softmax Gelu HardSigmoid HardSilu
    GetItem Power Sqrt Exp Tanh
    """
_LAYERS = frozenset(_LAYER_NAMES.split())
_PARTS = frozenset(_PART_NAMES.split())
_OPERATIONS = frozenset(_OPERATION_NAMES.split())
# Classes that keras.applications defines beside the networks that use them.
_APPLICATIONS = {
    "convnext": frozenset({"LayerScale", "StochasticDepth"}),
    "inception_resnet_v2": frozenset({"CustomScaleLayer"}),
}
_LAYER_MODULES = re.compile(
    r"keras(?:\.layers|\.models|\.src\.(?:layers|models)(?:\.\w+)*|\.src\.engine\.\w+)?"
)
_PART_MODULES = re.compile(
    r"keras(?:\.(?:initializers|regularizers|constraints|dtype_policies|mixed_precision)"
    r"|\.src\.(?:initializers|regularizers|constraints|dtype_policies)(?:\.\w+)*)?"
)
_OPERATION_MODULES = re.compile(r"keras(?:\.ops|\.src\.ops\.\w+)(?:\.\w+)*")
# Values, not classes: tensors between layers, constants, tuples.
_VALUES = frozenset({"__keras_tensor__", "__tensor__", "__numpy__", "__tuple__", "__slice__"})
_FUNCTION_NAMES = """
    linear relu relu6 leaky_relu elu selu celu gelu silu swish sigmoid hard_sigmoid hard_silu
    hard_swish hard_tanh tanh softmax log_softmax softplus softsign mish exponential
    """
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_ADVICE = (
    "Ask its author for ONNX, or save it without Lambda and custom layers: a Rescaling or "
    "Normalization layer replaces most of them."
)
_TRAINING = ("compile_config", "training_config", "optimizer_config")


def check_config(config: Any, file: str) -> None:
    """Look at every object of a configuration.

    Raises:
        UnsafeSourceError: It names a class or a function that is not on the list.
    """
    for found in walk(config, file):
        if "class_name" in found:
            _check_object(found, file)


def without_training(config: Any, file: str) -> Any:
    """Drop what is for training alone, which names more classes; return the configuration."""
    for found in walk(config, file):
        for key in _TRAINING:
            found.pop(key, None)
    return config


def _check_object(found: dict[str, Any], file: str) -> None:
    name, module = found["class_name"], found.get("module")
    if not isinstance(name, str) or not isinstance(module, str | None):
        raise runs_code(f"{file} names a class in an unusual way", _ADVICE)
    if name == "function":
        function = found.get("config")
        if not isinstance(function, str) or function not in _FUNCTIONS:
            raise runs_code(f"{file} has a function of its own: {str(function)[:80]!r}", _ADVICE)
        return
    if name in ("Lambda", "__lambda__"):
        raise runs_code(f"{file} has a Lambda layer, which is a Python program", _ADVICE)
    registered = found.get("registered_name")
    if registered not in (None, name, f"keras>{name}") or not _is_known(name, module):
        where = f"{module}.{name}" if module else name
        raise runs_code(
            f"{file} needs the class {where[:120]!r}, which is not among Keras's own that are "
            "allowed",
            _ADVICE,
        )


def _is_known(name: str, module: str | None) -> bool:
    if name in _VALUES:
        return True
    if module is None:  # as HDF5 files have it: Keras looks among its own classes
        return name in _LAYERS | _PARTS or any(name in own for own in _APPLICATIONS.values())
    package, _, network = module.rpartition(".")
    if package == "keras.src.applications":
        return name in _APPLICATIONS.get(network, ())
    return any(
        pattern.fullmatch(module) and name in names
        for pattern, names in (
            (_LAYER_MODULES, _LAYERS),
            (_PART_MODULES, _PARTS),
            (_OPERATION_MODULES, _OPERATIONS),
        )
    )


# Where a network takes images of any size.
_USUAL_SIZE = 224
# Scales of Rescaling layers that take bytes: to 0..1 and to -1..1.
_BYTE_SCALES = (1 / 255, 1 / 127.5)


def image_shape(
    model: Any, file: str, options: ConvertOptions
) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    """Return the shape of a batch, with sizes for free ones, and what is to be said about it.

    Raises:
        UnsupportedSourceError: It takes several inputs.
    """
    if len(model.inputs) != 1:
        raise UnsupportedSourceError(
            f"{file} takes {len(model.inputs)} inputs, not one batch of images",
            "Export a model that takes images alone.",
        )
    size = options.size or _USUAL_SIZE
    sizes = tuple(model.inputs[0].shape)[1:]
    note = f"The model takes images of any size; the result takes {size} pixels."
    notes = (note,) if None in sizes else ()
    return (None, *(size if one is None else int(one) for one in sizes)), notes


def image_facts(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield what the layers tell about the images."""
    import keras  # in the child alone

    for layer in model._flatten_layers():
        scale = getattr(layer, "scale", None)
        if isinstance(layer, keras.layers.Rescaling) and isinstance(scale, float):
            if any(math.isclose(scale, one, rel_tol=1e-3) for one in _BYTE_SCALES):
                yield "value_range", [0, 255]
            return


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
    from .keras_tensorflow_run import convert_on_tensorflow

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
