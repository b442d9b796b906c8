"""What `onnx-soda inspect` tells about a file, field by field its JSON form."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_soda.report.schema import Finding

__all__ = ["LayerSummary", "LogitsSummary", "ModelSummary", "TensorSummary"]


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
        findings: What is unusual about the file.
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
    findings: tuple[Finding, ...]
    problem: str | None
    advice: str | None
