"""Prepares a graph for onnx2torch: what it stumbles over is put in a form that it takes.

The prepared graph computes the same as the given one, but for the rounding of a quantized one.

What depends on neither the image nor the weights is computed once. ONNX Runtime does that: the
values are then exactly those that it will use itself.

Quantization is taken out: QuantizeLinear and DequantizeLinear become float. A pair around an
activation rounds it and bounds it to what the integers can say. The bounds stay: quantization tools
rely on them to cut off what a ReLU did, which they leave out. The rounding goes, since it has no
gradient.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import (
    LiftConstantsToInitializersPass,
    RemoveInitializersFromInputsPass,
    RemoveUnusedNodesPass,
)

from onnx_soda._errors import ConversionError
from onnx_soda._model.parts import serialise
from onnx_soda._model.runtime import Batch, Session
from onnx_soda._options import RuntimeOptions

_FLOATS = frozenset({
    ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE
})  # fmt: skip

# Inputs that say how an operator computes, or hold statistics: not weights, though floating point.
_SETTINGS: dict[str, frozenset[int]] = {
    "BatchNormalization": frozenset({3, 4}),
    "Clip": frozenset({1, 2}),
    "DequantizeLinear": frozenset({1, 2}),
    "Dropout": frozenset({1, 2}),
    "OneHot": frozenset({1, 2}),
    "Pad": frozenset({1, 2, 3}),
    "QuantizeLinear": frozenset({1, 2}),
    "Resize": frozenset({1, 2, 3}),
    "Upsample": frozenset({1}),
}


def is_constant(value: ir.Value | None) -> bool:
    """Tell whether a tensor is an initializer."""
    return value is not None and value.is_initializer()


def is_weight(value: ir.Value) -> bool:
    """Tell whether an initializer is a weight: what training would change.

    Floating point, and read by a node as something else than a setting. A number without axes is
    taken for a constant of a formula (the 0.5 and the square root of 2 in a GELU written out).
    """
    tensor = value.const_value
    if tensor is None or tensor.dtype not in _FLOATS or not tensor.shape.rank():
        return False
    return any(position not in _SETTINGS.get(node.op_type, ()) for node, position in value.uses())


def constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Add an initializer to a graph."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def replace_uses(old: ir.Value, new: ir.Value) -> None:
    """Let all nodes that read a tensor, and the graph's outputs, read another one.

    The node that computes the other one from the first goes on reading it.
    """
    for node, position in tuple(old.uses()):
        if node is not new.producer():
            node.replace_input_with(position, new)
    graph = old.graph
    if graph is not None:
        for index, output in enumerate(graph.outputs):
            if output is old:
                graph.outputs[index] = new


# The operator that stands for a weight. Its input is the initializer, its output what nodes read.
WEIGHT = "Weight"


@dataclass(frozen=True)
class Marked:
    """A weight of the prepared graph.

    Attributes:
        name: Name of the initializer, or of the output of the Constant or DequantizeLinear node.
        node: Name of the node that stands for it.
        stored: The file stores it as it is; a dequantized weight is not.
    """

    name: str
    node: str
    stored: bool


def mark_weights(
    graph: ir.Graph, domain: str, stored: Container[str], dequantized: Container[str]
) -> tuple[Marked, ...]:
    """Put a node between each weight and the nodes that read it; changes the graph.

    All of a weight's readers share the node, so what is tied in the file is tied in torch: also
    where one of them reads it as a setting, since a changed value will reach that one too.

    Args:
        graph: The graph, with all constants as initializers.
        domain: Domain of the new nodes.
        stored: Names of the tensors that the file stores.
        dequantized: Names of the tensors that were dequantized. What is in neither was computed
            from constants and is no weight.
    """
    found, nodes = list[Marked](), list[ir.Node]()
    # In the order of their first use: that of `graph.initializers` is not always the same.
    read = (value for node in graph for value in node.inputs if value is not None)
    for value in [value for value in dict.fromkeys(read) if value.is_initializer()]:
        name = value.name or ""
        if not is_weight(value) or not (name in stored or name in dequantized):
            continue
        node = ir.node(WEIGHT, [value], domain=domain, name=f"weight_{len(nodes)}")
        node.outputs[0].name = f"{name} (weight)"
        node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
        replace_uses(value, node.outputs[0])
        nodes.append(node)
        found.append(Marked(name, node.name or "", name in stored))
    if nodes:
        graph.insert_before(graph[0], nodes)
    return tuple(found)


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


_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def is_quantized(model: ir.Model) -> bool:
    """Tell whether a graph has quantized weights or activations."""
    return any(node.op_type in _QUANTIZERS for node in model.graph)


def dequantize(model: ir.Model) -> frozenset[str]:
    """Make a graph with quantized weights and activations one of floats; changes the model.

    Returns:
        Names of the initializers that were dequantized; they bear the names of the outputs of
        their DequantizeLinear nodes.

    Raises:
        ConversionError: A scale is computed, or activations are not quantized to integers.
        InferenceError: ONNX Runtime cannot dequantize a weight.
    """
    weights = fold_dequantized(model)
    # Tensors that held integers, with their type then.
    floating: dict[ir.Value, ir.DataType | None] = {}
    for node in tuple(model.graph):
        held = [value for value in node.inputs if value is not None and value in floating]
        if node.op_type == "QuantizeLinear" and node.inputs[0] is not None:
            kind = node.outputs[0].dtype
            floating[_bound(model.graph, node, node.inputs[0])] = kind
        elif node.op_type == "DequantizeLinear" and held:
            replace_uses(node.outputs[0], held[0])
        elif held:
            _carry(node, floating, held[0])
    RemoveUnusedNodesPass()(model)
    return weights


def _carry(node: ir.Node, floating: dict[ir.Value, ir.DataType | None], source: ir.Value) -> None:
    """Let a node that moves integers about (Reshape, MaxPool, Concat) move floats."""
    for value in node.outputs:
        if value.dtype == floating[source]:
            floating[value] = value.dtype
            value.type = source.type


def _bound(graph: ir.Graph, node: ir.Node, value: ir.Value) -> ir.Value:
    """Put bounds in the place of a QuantizeLinear of a tensor; return the bounded tensor."""
    name = node.outputs[0].name or ""
    for operator, limit in zip(("Max", "Min"), _limits(node), strict=True):
        bound = constant(graph, f"{name} {operator}", limit)
        inner = ir.node(operator, [value, bound], name=f"{name} {operator}")
        inner.outputs[0].name = f"{name} {operator} (float)"
        inner.outputs[0].type = value.type
        inner.outputs[0].shape = node.outputs[0].shape
        graph.insert_before(node, inner)
        value = inner.outputs[0]
    replace_uses(node.outputs[0], value)
    return value


def _limits(node: ir.Node) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value that the integers of a QuantizeLinear can say.

    https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
    """
    scale, zero = _array(node, 1), _array(node, 2)
    dtype = zero.dtype if zero is not None else _default_type(node)
    if scale is None or dtype.kind not in "iu":
        raise ConversionError(
            f"the QuantizeLinear node {node.name!r} has a computed scale, or does not quantize to "
            "integers of 8 to 32 bits",
            "Give the model before quantization.",
        )
    offset = np.zeros((), dtype) if zero is None else zero
    source = node.inputs[0]
    shape = source.shape if source is not None else None
    if scale.ndim and shape is not None:  # one scale per channel
        axis = node.attributes.get_int("axis", 1)
        wide = [-1 if index == axis % len(shape) else 1 for index in range(len(shape))]
        scale, offset = scale.reshape(wide), offset.reshape(wide)
    kind = np.iinfo(dtype)
    low, high = (limit - offset.astype(np.float64) for limit in (kind.min, kind.max))
    return (low * scale).astype(scale.dtype), (high * scale).astype(scale.dtype)


def _default_type(node: ir.Node) -> np.dtype:
    named = node.attributes.get_int("output_dtype", 0)
    return np.dtype(ir.DataType(named).numpy() if named else np.uint8)


def _array(node: ir.Node, position: int) -> np.ndarray | None:
    value = node.inputs[position] if len(node.inputs) > position else None
    if value is None or not is_constant(value) or value.const_value is None:
        return None
    return value.const_value.numpy()


@dataclass(frozen=True, eq=False)
class Prepared:
    """A graph that onnx2torch can read.

    Attributes:
        model: The graph.
        reference: The same as plain ONNX, for ONNX Runtime: what the torch module has to compute.
        weights: Its weights.
        nodes: Operator and name, as in the file, of each node of `model`, by the name there.
        quantized: The given graph was quantized; `reference` is not.
    """

    model: onnx.ModelProto
    reference: ir.Model
    weights: tuple[Marked, ...]
    nodes: Mapping[str, str]
    quantized: bool


def prepare(
    part: ir.Model, stored: Container[str], own_domain: str, own_operators: Mapping[str, int]
) -> Prepared:
    """Prepare a graph.

    Args:
        part: The graph, without functions; stays as it is.
        stored: Names of the tensors that the file stores.
        own_domain: Domain of the operators that have a converter of ours for all revisions.
        own_operators: These operators, with the first revision that it covers.

    Raises:
        ConversionError: It is quantized in a way that cannot be undone.
        InferenceError: ONNX Runtime cannot compute a constant.
    """
    model = part.clone()
    RemoveInitializersFromInputsPass()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    quantized = is_quantized(model)
    dequantized = dequantize(model) if quantized else frozenset[str]()
    reference = model.clone() if quantized else part
    fold_constants(model)
    RemoveUnusedNodesPass()(model)
    graph = model.graph
    _separate_outputs(graph)
    names = {node: _describe(node, graph.opset_imports) for node in graph}
    _take_over(graph, own_domain, own_operators)
    weights = mark_weights(graph, own_domain, stored, dequantized)
    described = {}
    for index, (node, description) in enumerate(names.items()):
        node.name = f"{node.op_type}_{index}"
        described[node.name] = description
    graph.opset_imports[own_domain] = 1
    return Prepared(ir.to_proto(model), reference, weights, described, quantized)


def _describe(node: ir.Node, opsets: Mapping[str, int]) -> str:
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    opset = opsets.get(node.domain, "unknown")
    return f"{operator} (opset {opset}) of node {node.name or node.outputs[0].name!r}"


def _separate_outputs(graph: ir.Graph) -> None:
    """Give each output a node of its own.

    onnx2torch hands out all outputs of a node where one is asked for, and none that is an input.
    """
    for index, value in enumerate(tuple(graph.outputs)):
        node = ir.node("Identity", [value], name=f"output {value.name}")
        node.outputs[0].name = f"{value.name} (output {index})"
        node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
        graph.append(node)
        graph.outputs[index] = node.outputs[0]


def _take_over(graph: ir.Graph, domain: str, operators: Mapping[str, int]) -> None:
    """Move the operators that have a converter of ours into its domain."""
    opset = graph.opset_imports.get("", 0)
    for node in graph:
        since = operators.get(node.op_type)
        if since is None or node.domain not in ("", "ai.onnx"):
            continue
        schema = onnx.defs.get_schema(node.op_type, opset)
        if schema.since_version >= since:
            node.domain = domain
