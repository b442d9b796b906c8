"""What the model builds on: operator sets, operators and its own functions.

The newest opset and IR version that the installed ONNX Runtime accepts are found by trying them. It
has no call that tells these numbers, so a one-node model is stamped with a version and offered to
it. A try takes about a millisecond, and only models newer than what every supported runtime accepts
need one.

Of a model's own functions no two have one name, none is in place of an operator, and none multiply.
A few kilobytes of functions that each call another one ten times make billions of nodes. They are
counted here without being put in.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache

import onnx
from onnx import TensorProto, helper

from onnx_soda._errors import ModelFileError, UnsupportedModelError
from onnx_soda._preflight.inventory import Inventory
from onnx_soda._preflight.limits import FileLimits, ambiguous, over_limit
from onnx_soda._rules import RULE_OPERATORS

# ONNX Runtime 1.31, the oldest that pyproject.toml admits, takes at least these (measured).
_ALWAYS_ACCEPTED_OPSET = 23
_ALWAYS_ACCEPTED_IR = 11


def _accepted(opset: int, ir_version: int) -> bool:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [output])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )
    import onnxruntime as ort  # which a look at the file alone does not wait for

    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - ONNX Runtime's exceptions share no public base class
        return False
    return True


@cache
def newest_opset() -> int:
    """Return the newest `ai.onnx` opset that the installed ONNX Runtime accepts."""
    opset = _ALWAYS_ACCEPTED_OPSET
    while _accepted(opset + 1, 8):
        opset += 1
    return opset


@cache
def newest_ir_version() -> int:
    """Return the newest IR version that the installed ONNX Runtime accepts."""
    version = _ALWAYS_ACCEPTED_IR
    while _accepted(17, version + 1):
        version += 1
    return version


def check_versions(model: onnx.ModelProto, opset: int, file: str) -> None:
    """Refuse a model that is newer than the installed ONNX Runtime.

    Raises:
        UnsupportedModelError: Names the model's number and the runtime's.
    """
    newer = []
    if opset > _ALWAYS_ACCEPTED_OPSET and opset > newest_opset():
        newer.append(f"opset {opset} (newest supported: {newest_opset()})")
    if model.ir_version > _ALWAYS_ACCEPTED_IR and model.ir_version > newest_ir_version():
        newer.append(f"IR version {model.ir_version} (newest supported: {newest_ir_version()})")
    if newer:
        import onnxruntime as ort

        raise UnsupportedModelError(
            f"{file} is newer than ONNX Runtime {ort.__version__}: {' and '.join(newer)}",
            "Upgrade ONNX Runtime, or export the model for an older opset.",
        )


def check_operators(inventory: Inventory, file: str) -> None:
    """Refuse operators that ONNX Runtime does not implement and the model does not define.

    Looks into subgraphs and functions too.

    Raises:
        UnsupportedModelError: Names the operators and their domains.
    """
    own = {(f.domain, f.name, f.overload) for f in inventory.model.functions}
    foreign = sorted(
        {
            f"{node.domain}::{node.op_type}"[:80]
            for node in inventory.nodes
            if node.domain not in STANDARD_DOMAINS
            and (node.domain, node.op_type, node.overload) not in own
        }
    )
    if foreign:
        raise UnsupportedModelError(
            f"{file} uses unknown operators: {', '.join(foreign[:5])}",
            "onnx-soda never loads custom operator libraries; export with standard operators.",
            rule_id=RULE_OPERATORS,
        )


RUNTIME_DOMAINS = frozenset({"com.microsoft", "com.microsoft.nchwc"})
"""Operator sets of ONNX Runtime's own. Its quantization and transformer tools write the first one;
a model saved after all optimizations has convolutions of the second one."""
STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"}) | RUNTIME_DOMAINS
"""Operator sets that ONNX Runtime implements."""

_Key = tuple[str, str, str]


def check_functions(model: onnx.ModelProto, file: str, limits: FileLimits) -> int:
    """Check a model's functions, and return how many nodes it has once they are put in.

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
    return nodes


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
