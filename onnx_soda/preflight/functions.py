"""A model's own functions: no two of a name, none in place of an operator, none that multiply.

A few kilobytes of functions that each call another one ten times make billions of nodes. They are
counted here without being put in.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Iterable, Iterator

import onnx

from onnx_soda.errors import ModelFileError
from onnx_soda.preflight.limits import Limits
from onnx_soda.preflight.refusal import ambiguous, over_limit

__all__ = ["STANDARD_DOMAINS", "check_functions"]

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operator sets that ONNX Runtime implements. com.microsoft holds its own operators, which its
quantization and transformer tools write."""

_Key = tuple[str, str, str]


def check_functions(model: onnx.ModelProto, file: str, limits: Limits) -> None:
    """Check a model's functions, and how many nodes it has once they are put in.

    Raises:
        ModelFileError: A function is there twice, calls itself, or hides a standard operator.
        UnsupportedModelError: There would be too many nodes, or calls nest too deep.
    """
    keys = [(f.domain, f.name, f.overload) for f in model.functions]
    _check_names(keys, file)
    bodies = {key: _calls(f.node) for key, f in zip(keys, model.functions, strict=True)}
    order = _callees_first(bodies, file)
    sizes: dict[_Key, int] = {}
    depths: dict[_Key, int] = {}
    for key in order:
        sizes[key] = _total(bodies[key], sizes, limits.nodes)
        depths[key] = 1 + max((depths.get(one, 0) for one in bodies[key]), default=0)
    if max(depths.values(), default=0) > limits.call_depth:
        raise over_limit(f"{file} has functions that call functions too deep", limits.call_depth)
    nodes = _total(_calls(model.graph.node), sizes, limits.nodes)
    if nodes > limits.nodes:
        what = "once its functions are put in" if model.functions else "in its graphs"
        raise over_limit(f"{file} has too many nodes {what}", limits.nodes)


def _check_names(keys: list[_Key], file: str) -> None:
    for (domain, name, _), count in Counter(keys).items():
        if count > 1:
            raise ambiguous(f"{file} defines the function {domain}::{name} {count} times")
        if domain in STANDARD_DOMAINS:
            raise ambiguous(
                f"{file} defines the function {domain or 'ai.onnx'}::{name}, in place of a "
                "standard operator"
            )


def _calls(nodes: Iterable[onnx.NodeProto]) -> Counter[_Key]:
    """Count the operators of some nodes, those in their subgraphs too."""
    return Counter((n.domain, n.op_type, n.overload) for n in _with_inner(nodes))


def _with_inner(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    stack = list(nodes)
    while stack:
        node = stack.pop()
        yield node
        for attribute in node.attribute:
            stack.extend(attribute.g.node)
            for graph in attribute.graphs:
                stack.extend(graph.node)


def _callees_first(bodies: dict[_Key, Counter[_Key]], file: str) -> list[_Key]:
    called = {key: [one for one in body if one in bodies] for key, body in bodies.items()}
    try:
        return list(graphlib.TopologicalSorter(called).static_order())
    except graphlib.CycleError as error:
        domain, name, _ = error.args[1][0]
        raise ModelFileError(
            f"{file} is not valid ONNX: its function {domain}::{name} calls itself",
            "Export it again.",
        ) from error


def _total(calls: Counter[_Key], sizes: dict[_Key, int], most: int) -> int:
    """Return the number of nodes; one more than the most where there are more."""
    total = sum(count * sizes.get(key, 1) for key, count in calls.items())
    return min(total, most + 1)
