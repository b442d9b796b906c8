"""Computes what depends on neither the image nor the weights, once and for all.

ONNX Runtime computes it: the values are then exactly those that it will use itself.
"""

from __future__ import annotations

import onnx_ir as ir

from onnx_soda.model.runtime import Batch, Session
from onnx_soda.model.runtime_options import RuntimeOptions
from onnx_soda.model.split import serialise
from onnx_soda.repair.graphs import constant, is_constant, is_weight, replace_uses

__all__ = ["fold_constants", "fold_dequantized"]

# Read the shape of their input, not its values.
_SHAPE_READERS = frozenset({"Shape", "Size"})
# Give other values every time.
_RANDOM = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
})  # fmt: skip
_CPU = RuntimeOptions(provider="cpu", threads=1)


def fold_constants(model: ir.Model) -> None:
    """Replace nodes that depend on constants alone by initializers of the same names.

    What is computed from weights stays, so that the weights can be trained through it.

    Raises:
        InferenceError: ONNX Runtime cannot compute one of them.
    """
    folded = _constant_nodes(model.graph)
    wanted = [
        value
        for node in folded
        for value in node.outputs
        if value.is_graph_output() or any(user not in folded for user, _ in value.uses())
    ]
    _replace(model, wanted)


def fold_dequantized(model: ir.Model) -> frozenset[str]:
    """Replace quantized weights, with the DequantizeLinear behind them, by initializers.

    Returns:
        Names of the new initializers: those of the outputs of the nodes.

    Raises:
        InferenceError: ONNX Runtime cannot compute one of them.
    """
    folded = [n for n in _constant_nodes(model.graph) if n.op_type == "DequantizeLinear"]
    names = frozenset(node.outputs[0].name or "" for node in folded)
    _replace(model, [node.outputs[0] for node in folded])
    return names


def _constant_nodes(graph: ir.Graph) -> dict[ir.Node, None]:
    """Return the nodes that depend on constants alone, in order."""
    found: dict[ir.Node, None] = {}
    for node in graph:
        known = all(_is_known(value, node, found) for value in node.inputs)
        if known and node.op_type not in _RANDOM:
            found[node] = None
    return found


def _is_known(value: ir.Value | None, reader: ir.Node, known: dict[ir.Node, None]) -> bool:
    if value is None or value.producer() in known:
        return True
    return is_constant(value) and (reader.op_type in _SHAPE_READERS or not is_weight(value))


def _replace(model: ir.Model, wanted: list[ir.Value]) -> None:
    if not wanted:
        return
    part = ir.convenience.extract(model.graph, [], wanted)
    part.name = "constants"
    part.opset_imports.update(model.graph.opset_imports)
    content = serialise(ir.Model(part, ir_version=model.ir_version), None)
    arrays = Session(content, _CPU).run(Batch({}, 0), whole=True)
    for value, array in zip(wanted, arrays, strict=True):
        name = value.name or ""
        value.name = f"{name} (computed)"
        replace_uses(value, constant(model.graph, name, array))
