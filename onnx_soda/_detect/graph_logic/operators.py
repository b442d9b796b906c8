"""Which operators decide, and which make a decision together, told by their names alone.

Neither onnx-ir nor a runtime is imported: a look at a file alone asks here whether its graph has to
be read at all (`may_decide`).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_soda._preflight.inventory import Inventory

# --- steps that are written as such

COMPARISONS = frozenset({
    "And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Xor",
})  # fmt: skip
EXACT = frozenset({
    "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Equal", "Mod", "Unique",
})  # fmt: skip
"""Operations that ask for one value among many."""
_OTHERS = frozenset({
    "ArgMax", "ArgMin", "Bernoulli", "Binarizer", "Hardmax", "IsInf", "IsNaN", "NonMaxSuppression",
    "NonZero", "OneHot", "Shrink", "Sign",
})  # fmt: skip
DISCRETE = COMPARISONS | EXACT | _OTHERS
"""Operations that leave few values."""
ROUNDING = frozenset({"Ceil", "Floor", "Round"})
NARROWING = (COMPARISONS - {"And", "Not", "Or", "Xor"}) | {"ArgMax", "ArgMin", "Mod", "Sign"}
"""After these there are fewer values than before, so it is these that are forced."""
INDEX_OUTPUT = {"MaxPool": 1, "TopK": 1}
"""Outputs from this on are indices."""
CASTS = frozenset({"Cast", "CastLike"})
WHOLE = frozenset({
    "BOOL", "INT4", "INT8", "INT16", "INT32", "INT64", "UINT4", "UINT8", "UINT16", "UINT32",
    "UINT64",
})  # fmt: skip
"""Names of the types of whole numbers."""
BRANCHES = frozenset({"If", "Loop", "Scan"})
"""Operations with bodies."""

# --- steps that are chains: a large factor, and what is flat on both sides

LEAST_STEEP = 16.0
"""Steps over less than a sixteenth of the usual range of a tensor are decisions. Factors of
activations are at most 1, those of normalised pixels about 5, of trained gates below 10."""
LARGEST_TRAINED = 100.0
"""A matrix with a larger entry is a factor, not a trained layer."""
FACTOR_ELEMENTS = 4096
"""Numbers of a matrix that may be a factor."""
MATRICES = frozenset({"Conv", "Gemm", "MatMul"})
SATURATING = {"Sigmoid": 0.25, "Tanh": 1.0, "Erf": 1.128, "Softsign": 1.0, "HardSigmoid": 0.2}
"""Flat on both sides, with their slope at zero."""
# Steep by their own numbers.
_STEEP_ALONE = frozenset({"Clip", "HardSigmoid"})
_FACTORS = frozenset({"Div", "Mul", "Pow"})
TABLES = frozenset({"Gather", "GatherElements", "GatherND", "ArrayFeatureExtractor"})
"""Read a table at places that they are told."""
# What stored numbers may go through and still be such.
_CARRIERS = frozenset({
    "Cast", "CastLike", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze",
})  # fmt: skip


def may_decide(inventory: Inventory) -> bool:
    """Tell whether a graph can hold a decision, by its operators: most networks cannot.

    True where in doubt.

    Args:
        inventory: The parts of the model.
    """
    nodes = inventory.nodes
    if any(map(decides, nodes)):
        return True
    operators, functions = {node.op_type for node in nodes}, bool(inventory.model.functions)
    # What is stored may be handed to a function.
    if operators & _STEEP_ALONE or (functions and operators & (_FACTORS | TABLES)):
        return True
    names = _stored(inventory.graphs)
    weights = (tensor for graph in inventory.graphs for tensor in graph.initializer)
    return any(_is_told(node, names) for node in nodes) or any(map(_is_factor, weights))


def decides(node: onnx.NodeProto) -> bool:
    """Tell whether a node decides by itself."""
    op = node.op_type
    if op in BRANCHES or op in DISCRETE or op in ROUNDING or op in ("Where", "CastLike"):
        return True
    if op in INDEX_OUTPUT:
        return any(node.output[INDEX_OUTPUT[op] :])
    if op != "Cast":
        return False
    return any(_type_name(one.i) in WHOLE for one in node.attribute if one.name == "to")


def _type_name(number: int) -> str:
    return TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else ""


def _stored(graphs: Iterable[onnx.GraphProto]) -> set[str]:
    """Return the names of what the file stores, also reshaped.

    Args:
        graphs: Graphs before those inside them, nodes in the order of their work.
    """
    names = set[str]()
    for graph in graphs:
        names.update(tensor.name for tensor in graph.initializer)
        for node in graph.node:
            carried = node.op_type in _CARRIERS and names.issuperset(node.input[:1])
            if node.op_type == "Constant" or carried:
                names.update(node.output)
    return names


def _is_told(node: onnx.NodeProto, stored: set[str]) -> bool:
    """Tell whether a node multiplies by what is stored, or reads a table where it is told."""
    if node.op_type in _FACTORS:
        return not stored.isdisjoint(node.input)
    return node.op_type in TABLES and not stored.issuperset(node.input[1:2])


def _is_factor(tensor: onnx.TensorProto) -> bool:
    """Tell whether a matrix has a larger entry than training leaves."""
    if len(tensor.dims) < 2 or prod(tensor.dims) > FACTOR_ELEMENTS:
        return False
    if tensor.data_location == TensorProto.EXTERNAL:
        return True
    values = numpy_helper.to_array(tensor)
    return values.dtype.kind == "f" and bool(np.any(np.abs(values) > LARGEST_TRAINED))
