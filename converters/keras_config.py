"""What may stand in the configuration of a Keras model; imports no Keras.

Keras makes Python objects of names in the configuration: of its own classes, of whatever module is
named, of functions saved as byte code. Its `safe_mode` refuses the last two in recent versions;
here every name has to be on a list. Layers that read files or other models (`TFSMLayer`,
`TorchModuleWrapper`, `StringLookup` with a vocabulary file) are not.
"""

from __future__ import annotations

import re
from typing import Any

from .refusals import runs_code
from .strict_json import walk

__all__ = ["check_config", "without_training"]

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
