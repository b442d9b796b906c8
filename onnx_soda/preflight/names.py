"""Names that stand for two things: what one program scans, another would not run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx

from onnx_soda.preflight.inventory import Inventory
from onnx_soda.preflight.refusal import ambiguous

__all__ = ["check_names"]


def check_names(inventory: Inventory, file: str) -> None:
    """Refuse tensors that are defined twice in one graph or function.

    An initializer may have the name of an input: it is that input's default.

    Raises:
        ModelFileError: There are such tensors.
    """
    for graph in inventory.graphs:
        inputs = [value.name for value in graph.input]
        sparse = [tensor.values.name for tensor in graph.sparse_initializer]
        initializers = [tensor.name for tensor in graph.initializer] + sparse
        _check("input", inputs, file)
        _check("initializer", initializers, file)
        _check_outputs(graph.node, {*inputs, *initializers}, file)
    for function in inventory.model.functions:
        _check("function input", function.input, file)
        _check_outputs(function.node, set(function.input), file)
    _check("operator set", (entry.domain for entry in inventory.model.opset_import), file)


def _check_outputs(nodes: Iterable[onnx.NodeProto], others: set[str], file: str) -> None:
    outputs = [name for node in nodes for name in node.output if name]
    _check("node output", outputs, file)
    taken = next((name for name in outputs if name in others), None)
    if taken is not None:
        raise ambiguous(f"{file} computes the tensor {taken[:80]!r}, which is an input or a weight")


def _check(kind: str, names: Iterable[str], file: str) -> None:
    name, count = next(iter(Counter(names).most_common(1)), ("", 0))
    if count > 1:
        raise ambiguous(f"{file} has the {kind} {name[:80]!r} {count} times")
