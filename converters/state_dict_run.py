"""The part of the converter of bare weights that runs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from onnx_soda.errors import ConvertError

from .architectures import Architecture, find_architecture
from .protocol import Conversion, ConvertOptions
from .result import Source, finish
from .torch_export import TORCH_PACKAGES, quiet, reference, to_onnx

__all__ = ["convert_weights"]

# Where training programs keep the weights among other things.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
# What wrappers put in front of every name.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_CHANNELS = 3


def convert_weights(
    converter: str, path: Path, safe: bool, arch: str, out: Path, options: ConvertOptions
) -> Conversion:
    """Put weights into a network and convert it.

    Args:
        converter: Name of the converter.
        path: The file with the weights.
        safe: It is safetensors.
        arch: The network, as "torchvision:resnet18".
        out: File to write.
        options: See `ConvertOptions`.

    Raises:
        ConvertError: The file holds no weights, the network is not known, or they do not fit.
    """
    network = find_architecture(arch)
    weights = _read(path, safe)
    classes = _classes(network, weights, path.name)
    with quiet():
        module = network.build(classes, _has_auxiliary(weights)).eval()
        _fill(module, weights, path.name, arch)
        size = options.size or network.size
        image = torch.rand(2, _CHANNELS, size, size)
        program = torch.export.export(
            module, (image,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        )
    shape = (None, _CHANNELS, size, size)
    note = f"The weights were put into {arch} for {classes} classes and images of {size} pixels."
    source = Source(
        converter, path, reference(module), shape, (*TORCH_PACKAGES, network.package), notes=(note,)
    )
    return finish(to_onnx(program, options.opset), source, out, options)


def _read(path: Path, safe: bool) -> dict[str, Any]:
    """Return the weights by name."""
    if safe:
        from safetensors.torch import load_file

        found: Any = load_file(path)
    else:
        with quiet():
            found = torch.load(path, map_location="cpu", weights_only=True)
    for key in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    weights = {
        str(name): value for name, value in dict(found).items() if isinstance(value, torch.Tensor)
    }
    if not weights:
        raise ConvertError(f"{path.name} holds no weights by name", "Save model.state_dict().")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _has_auxiliary(weights: dict[str, Any]) -> bool:
    """Tell whether Inception's classifiers for training alone are among the weights."""
    return any(name.lower().startswith("aux") for name in weights)


def _classes(network: Architecture, weights: dict[str, Any], file: str) -> int:
    """Return the number of classes: where the weights differ from the usual network's."""
    with torch.device("meta"):
        usual = network.build(network.classes, _has_auxiliary(weights)).state_dict()
    counts = {
        weights[name].shape[0]
        for name, value in usual.items()
        if name in weights
        and value.shape[:1] == (network.classes,)
        and weights[name].dim() == value.dim()
    }
    if len(counts) > 1:
        raise ConvertError(
            f"the weights in {file} have last layers of {sorted(counts)} classes",
            "Name the network that they belong to by --arch.",
        )
    return counts.pop() if counts else network.classes


def _fill(module: Any, weights: dict[str, Any], file: str, arch: str) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise ConvertError(
            f"the weights in {file} do not fit {arch}: {' '.join(lines)[:300]}",
            "Name the network that they belong to by --arch.",
        ) from error
