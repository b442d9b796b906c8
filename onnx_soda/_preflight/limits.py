"""How large a model may be, the refusals that several checks share, and what is told of a file."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_soda._errors import ModelFileError, UnsupportedModelError
from onnx_soda._rules import RULE_AMBIGUOUS, RULE_RESOURCES, RULE_SIZES, Severity


@dataclass(frozen=True)
class FileFinding:
    """Something unusual in a file.

    Attributes:
        rule_id: Id of the rule, "SODA31x".
        severity: How severe it is.
        message: What it is, in one sentence.
        location: Where in the file: a tensor, a field, a list of operators; may be empty.
    """

    rule_id: str
    severity: Severity
    message: str
    location: str = ""


@dataclass(frozen=True)
class FileLimits:
    """Limits on a model file. Any one passed refuses the file.

    Attributes:
        file_bytes: Size of the .onnx file. A protobuf message cannot be larger
            (https://protobuf.dev/programming-guides/proto-limits/).
        parts: Messages and strings in the file. torch's exporter writes about 40 per node, stack
            traces included; an empty message takes two bytes of the file and 150 in memory.
        message_depth: Messages inside messages. protobuf itself gives up at 100.
        graph_depth: Graphs inside graphs (If, Loop, Scan). Exported classifiers have two or three;
            libraries take time quadratic in the depth.
        list_bytes: Bytes of all attribute lists and dimensions written number by number. Two bytes
            of the file become 36 in memory.
        nodes: Nodes once the model's functions are put in, subgraphs included. Classifiers have
            some hundreds to a few thousand; onnx-ir takes a millisecond for each (measured).
        graph_outputs: Outputs of a graph. Detectors have a dozen; each is followed back.
        node_outputs: Outputs of a node; Split has some.
        call_depth: Functions that call functions. Exporters nest as deep as modules, under 20.
        rank: Axes of a tensor. Classifiers use up to 6.
        tensor_bytes: Sum of all tensors' sizes, outside or inside the file.
        tied_factor: Times that the bytes of weights files may be read by several tensors. Tied
            weights are read twice; more multiplies memory without multiplying the download.
        string_count: Elements of string tensors: names of the classes (ImageNet-21k: 21,841).
        string_bytes: Bytes of all string tensors.
        text_bytes: Bytes of a name or another text that is no note. Exporters write paths of
            modules, some hundred bytes; reports show them, and lay them out in lines.
        note_bytes: Bytes of all metadata and doc strings. torch's stack traces take some
            kilobytes per node.
        intermediate_elements: Elements of the largest tensor computed for one image. 2**28 are
            1 GiB of float32; the attention of a ViT-g at 518 pixels has 2**25.4.
        total_elements: Elements of all tensors computed for one batch, as if none was ever freed.
        fixed_batch: Images that a graph may insist on at once.
        vector_elements: Elements of all one-dimensional whole-number tensors that are computed.
            Shape inference keeps every element of these (170 bytes each, measured).
    """

    file_bytes: int = 2**31 - 1
    parts: int = 600_000
    message_depth: int = 64
    graph_depth: int = 8
    list_bytes: int = 8 * 2**20
    nodes: int = 8_000
    graph_outputs: int = 256
    node_outputs: int = 1024
    call_depth: int = 50
    rank: int = 16
    tensor_bytes: int = 16 * 2**30
    tied_factor: int = 8
    string_count: int = 100_000
    string_bytes: int = 4 * 2**20
    text_bytes: int = 16 * 2**10
    note_bytes: int = 64 * 2**20
    intermediate_elements: int = 2**28
    total_elements: int = 2**32
    fixed_batch: int = 1024
    vector_elements: int = 2**20


DEFAULT_LIMITS = FileLimits()


def over_limit(what: str, limit: int | str) -> UnsupportedModelError:
    """Return the error for something too large.

    Args:
        what: Subject, verb and number, as "m.onnx has 30000 nodes".
        limit: What is allowed.
    """
    return UnsupportedModelError(
        f"{what}, over the limit of {limit}",
        "No image classifier needs that; do not trust this file.",
        rule_id=RULE_RESOURCES,
    )


def ambiguous(what: str) -> ModelFileError:
    """Return the error for a graph that two readers may understand differently."""
    return ModelFileError(
        what,
        "Export it again; do not trust this file if its author cannot explain it.",
        rule_id=RULE_AMBIGUOUS,
    )


def false_size(what: str) -> ModelFileError:
    """Return the error for a tensor whose dimensions do not fit its data."""
    return ModelFileError(
        what,
        "The file is damaged or made to mislead; download it again.",
        rule_id=RULE_SIZES,
    )


def unreadable(file: str) -> ModelFileError:
    """Return the error for bytes that are no protobuf message of a model."""
    return ModelFileError(
        f"{file} cannot be read as ONNX: it is cut short or of another format",
        "Compare its size and digest with the source, and download it again.",
    )
