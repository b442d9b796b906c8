"""Describes a file for `onnx-soda inspect`; the model is not run."""

from __future__ import annotations

import onnx_ir as ir

from onnx_soda._answers import LayerSummary, LogitsSummary, ModelSummary, TensorSummary
from onnx_soda._detect.graph_logic.telling import decisions_in
from onnx_soda._errors import NotAClassifierError
from onnx_soda._model.anatomy import Anatomy, Layer, dissect
from onnx_soda._model.load import OnnxModel
from onnx_soda._model.logits import KEEP_SCORES
from onnx_soda._verdict import file_findings, in_order


def summarise(model: OnnxModel, logits: str | None = None) -> ModelSummary:
    """Describe a model and what would be picked in it; the model is not run.

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
        layers=tuple(_layer(layer) for layer in anatomy.offered) if anatomy else (),
        notes=anatomy.notes if anatomy else (),
        findings=in_order(file_findings(model.findings)),
        problem=failure.message if failure else None,
        advice=failure.advice if failure else None,
        decisions=decisions_in(model.ir),
    )


def _tensor(value: ir.Value) -> TensorSummary:
    shape = None
    if value.shape is not None:
        shape = tuple(size if isinstance(size, int) else size.value for size in value.shape)
    return TensorSummary(value.name or "", value.dtype.name if value.dtype else "?", shape)


def _logits(anatomy: Anatomy) -> LogitsSummary:
    found = anatomy.logits
    classes = found.classes or _declared_classes(anatomy)
    return LogitsSummary(found.value.name or "", classes, found.output, found.stripped)


def _declared_classes(anatomy: Anatomy) -> int | None:
    """Return the number of classes that the output declares, where inference does not tell it."""
    found = anatomy.logits
    if not KEEP_SCORES.issuperset(found.stripped):
        return None
    outputs = anatomy.model.ir.graph.outputs
    shape = next((value.shape for value in outputs if value.name == found.output), None)
    sizes = [size for size in (shape or ())[1:] if size != 1]
    return sizes[0] if len(sizes) == 1 and isinstance(sizes[0], int) else None


def _layer(layer: Layer) -> LayerSummary:
    return LayerSummary(layer.role, layer.name, layer.shape, layer.neurons, layer.depth)
