"""The parts of the PyTorch converters that run torch, and its two exporters.

What the converters of PyTorch models share: running a module, and torch's two exporters.

Imported inside `convert` alone; it imports torch.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray

from onnx_soda._answers import Conversion
from onnx_soda._errors import ConvertError, UnsupportedSourceError
from onnx_soda._options import ConvertOptions

from .result import Reference, Source, compare, finish
from .state_dict import Architecture, find_architecture

TORCH_PACKAGES = ("torch", "onnxscript")
# The exporter writes 18 even where less is asked for (seen with torch 2.15).
_OPSET = 18
# The older exporter's; BatchNormalization and pooling are written in one piece.
_TRACED_OPSET, _TRACED_NEWEST = 17, 20


@contextmanager
def quiet() -> Iterator[None]:
    """Compute without gradients, and keep torch's warnings about its own future to itself."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def reference(module: Any) -> Reference:
    """Return a function that runs a module on a batch."""

    def run(images: NDArray[Any]) -> list[NDArray[Any]]:
        with quiet():
            given = module(torch.from_numpy(images))
        return [tensor.detach().numpy() for tensor in _flat(given)]

    return run


def _flat(given: Any) -> Iterator[torch.Tensor]:
    if isinstance(given, torch.Tensor):
        yield given
    elif isinstance(given, dict):
        for one in given.values():
            yield from _flat(one)
    elif isinstance(given, Sequence):
        for one in given:
            yield from _flat(one)


def to_onnx(program: Any, opset: int | None) -> onnx.ModelProto:
    """Return a `torch.export.ExportedProgram` as ONNX."""
    with quiet():
        exported = torch.onnx.export(
            program, (), dynamo=True, opset_version=opset or _OPSET, verbose=False
        )
    assert exported is not None  # noqa: S101 - so with dynamo=True
    proto: onnx.ModelProto = exported.model_proto
    return proto


def trace_to_onnx(
    module: Any, example: Any, opset: int | None, free: Sequence[int]
) -> onnx.ModelProto:
    """Return a module as ONNX by torch's older exporter, which can free what was fixed.

    Args:
        module: A TorchScript module.
        example: A batch.
        opset: Version of the operator set; the usual one where None.
        free: Axes of the input that take any length.
    """
    axes = {"image": {axis: ("batch", "", "height", "width")[axis] for axis in free}}
    axes["scores"] = {0: "batch"} if 0 in free else {}
    buffer: Any = io.BytesIO()  # declared for paths alone
    with quiet():
        torch.onnx.export(
            module,
            (example,),
            buffer,
            dynamo=False,
            opset_version=min(opset or _TRACED_OPSET, _TRACED_NEWEST),
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes={name: chosen for name, chosen in axes.items() if chosen},
        )
    return onnx.load_model_from_string(buffer.getvalue())


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
            "Name the network that they belong to as `arch`.",
        )
    return counts.pop() if counts else network.classes


def _fill(module: Any, weights: dict[str, Any], file: str, arch: str) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise ConvertError(
            f"the weights in {file} do not fit {arch}: {' '.join(lines)[:300]}",
            "Name the network that they belong to as `arch`.",
        ) from error


def convert_program(
    converter: str, path: Path, copy: Path, out: Path, options: ConvertOptions
) -> Conversion:
    """Convert a checked copy of a `.pt2` file.

    Args:
        converter: Name of the converter.
        path: The file, for its name and digest.
        copy: What torch may read of it.
        out: File to write.
        options: See `ConvertOptions`.
    """
    with quiet():
        program = torch.export.load(copy)
        module = program.module()
    shape, dtype = _input(program, path.name)
    source = Source(converter, path, reference(module), shape, TORCH_PACKAGES, dtype)
    if shape[0] is None:
        return finish(to_onnx(program, options.opset), source, out, options)
    freed = _freed(module, source, options)
    if freed is not None:
        return finish(*freed, out, options)
    note = f"The file was exported for exactly {shape[0]} images at once."
    fixed = Source(converter, path, source.run, shape, TORCH_PACKAGES, dtype, notes=(note,))
    return finish(to_onnx(program, options.opset), fixed, out, options)


def _input(program: Any, file: str) -> tuple[tuple[int | None, ...], str]:
    """Return shape and element type of the one input; None for the free batch."""
    names = program.graph_signature.user_inputs
    tensors = [
        node.meta["val"]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in names
    ]
    if len(tensors) != 1 or not isinstance(tensors[0], torch.Tensor):
        raise UnsupportedSourceError(
            f"{file} takes {len(tensors)} inputs, not one batch of images",
            "Export a program that takes images alone.",
        )
    sizes = tuple(size if isinstance(size, int) else None for size in tensors[0].shape)
    return sizes, str(tensors[0].dtype).removeprefix("torch.")


def _freed(
    module: Any, source: Source, options: ConvertOptions
) -> tuple[onnx.ModelProto, Source] | None:
    """Trace a program with a fixed batch for any batch; None where it depends on the number."""
    free = (None, *source.shape[1:])
    example = torch.rand([size or 1 for size in source.shape])
    try:
        with quiet():
            traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call, unused-ignore]
            proto = trace_to_onnx(traced, example, options.opset, [0])
        # The source itself insists on its batch, so what it says of the traced one is asked.
        several = Source(
            source.converter, source.path, reference(traced), free, source.packages, source.dtype
        )
        compare(proto, source, options.seed)
        compare(proto, several, options.seed)
    except (ConvertError, RuntimeError, torch.onnx.errors.OnnxExporterError):
        return None
    return proto, several
