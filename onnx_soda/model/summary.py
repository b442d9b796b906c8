"""What `onnx-soda inspect` tells about a file."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnx_soda.errors import NotAClassifierError
from onnx_soda.model.anatomy import Anatomy, dissect
from onnx_soda.model.load import OnnxModel
from onnx_soda.model.penultimate import Layer

__all__ = ["LayerSummary", "LogitsSummary", "ModelSummary", "TensorSummary", "summarise"]


@dataclass(frozen=True)
class TensorSummary:
    """A graph input or output: name, element type, declared shape."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class LogitsSummary:
    """The logits: tensor, number of classes, and the operators between them and an output."""

    name: str
    classes: int | None
    output: str
    stripped: tuple[str, ...]


@dataclass(frozen=True)
class LayerSummary:
    """A layer that `--layer` takes: role, tensor, shape for one image, neurons, depth."""

    role: str
    name: str
    shape: tuple[int | None, ...] | None
    neurons: int | None
    depth: int


@dataclass(frozen=True)
class ModelSummary:
    """What is in a model file.

    Attributes:
        file: Its name.
        sha256: Its digest.
        opset: Version of the `ai.onnx` operator set.
        ir_version: Version of the file format.
        producer: Program that wrote it.
        parameters: Number of weights.
        external_data: Names of the files beside it that hold weights.
        inputs: Graph inputs.
        outputs: Graph outputs.
        layout: Layout of the image input; None where it is no image classifier.
        logits: The logits picked; None where it is no image classifier.
        layers: Candidate layers, the penultimate one first.
        notes: Sentences about choices that the graph left open.
        problem: Why it cannot be scanned; None where it can.
        advice: What to do about that.
    """

    file: str
    sha256: str
    opset: int
    ir_version: int
    producer: str
    parameters: int
    external_data: tuple[str, ...]
    inputs: tuple[TensorSummary, ...]
    outputs: tuple[TensorSummary, ...]
    layout: str | None
    logits: LogitsSummary | None
    layers: tuple[LayerSummary, ...]
    notes: tuple[str, ...]
    problem: str | None
    advice: str | None


def summarise(model: OnnxModel, logits: str | None = None) -> ModelSummary:
    """Describe a model and what would be picked in it; nothing of it is run.

    Args:
        model: The model.
        logits: Name of the tensor to take as logits; found where not given.

    Raises:
        TensorNotFoundError: `logits` is not in the graph or cannot be the logits.
    """
    anatomy: Anatomy | None = None
    failure: NotAClassifierError | None = None
    try:
        anatomy = dissect(model, logits=logits)
    except NotAClassifierError as error:
        failure = error
    graph = model.ir.graph
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    return ModelSummary(
        file=model.file,
        sha256=model.sha256,
        opset=model.opset,
        ir_version=model.ir_version,
        producer=model.producer,
        parameters=model.parameters,
        external_data=tuple(file.file for file in model.external_data),
        inputs=tuple(_tensor(value) for value in inputs),
        outputs=tuple(_tensor(value) for value in graph.outputs),
        layout=anatomy.view.image.layout if anatomy else None,
        logits=_logits(anatomy) if anatomy else None,
        layers=tuple(_layer(layer) for layer in anatomy.candidates) if anatomy else (),
        notes=anatomy.notes if anatomy else (),
        problem=failure.message if failure else None,
        advice=failure.advice if failure else None,
    )


def _tensor(value: ir.Value) -> TensorSummary:
    shape = None
    if value.shape is not None:
        shape = tuple(size if isinstance(size, int) else size.value for size in value.shape)
    return TensorSummary(value.name or "", value.dtype.name if value.dtype else "?", shape)


def _logits(anatomy: Anatomy) -> LogitsSummary:
    found = anatomy.logits
    return LogitsSummary(found.value.name or "", found.classes, found.output, found.stripped)


def _layer(layer: Layer) -> LayerSummary:
    return LayerSummary(layer.role, layer.name, layer.shape, layer.neurons, layer.depth)
