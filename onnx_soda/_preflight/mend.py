"""What ONNX Runtime loads though it is not quite valid ONNX: mended in memory, and told.

onnx's own checker and shape inference are stricter than the runtime that people use. What the
runtime understands without a doubt is brought here into the form that the standard asks for, as the
runtime itself reads it. The file stays as it is. What two readers may understand differently is
left alone, and refused by the checks that come after.

Mending comes before those checks: they take the nodes of a graph in their order, so an order that
is none would hide from them what a node makes of its arguments.

What is mended was seen in files of onnxruntime's float16 converter (nodes behind those that read
them), its quantizers (operator sets not imported) and exporters of 2018 (IR version 3). Which of
two versions ONNX Runtime takes was measured with Softmax, whose axes differ before opset 13.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator

import onnx
from onnx import helper

from onnx_soda._errors import ModelFileError
from onnx_soda._preflight.definitions import STANDARD_DOMAINS, newest_opset
from onnx_soda._preflight.inventory import Inventory, node_label, walk
from onnx_soda._preflight.limits import FileFinding
from onnx_soda._rules import RULE_MENDED

# From this version on weights need not be listed as inputs.
# https://github.com/onnx/onnx/blob/main/docs/Versioning.md
_UNLISTED_WEIGHTS_IR = 4


_Mended = Iterator[tuple[str, str]]
"""What was mended, in one sentence, and where."""


def mend(
    inventory: Inventory, file: str, newest: Callable[[], int] = newest_opset
) -> tuple[FileFinding, ...]:
    """Mend a model in place, as ONNX Runtime reads it.

    Args:
        inventory: The parsed model with its parts; the model is changed, and the parts are then no
            longer its own where anything is returned.
        file: File name to show.
        newest: Tells the version of the standard's operators where the model does not.

    Returns:
        What was mended.

    Raises:
        ModelFileError: A node reads what nothing makes, or waits for its own result; an input or
            output lacks what ONNX Runtime cannot do without.
    """
    proto = inventory.model
    _check_types(proto.graph, file)
    _use_short_domain(inventory)
    mended = (
        *_merge_imports(proto),
        *_import_missing(inventory, newest),
        *_use_one_version(proto),
        *_raise_ir_version(proto),
        *_drop_unnamed(proto.graph),
        *_name_graphs(inventory),
        *_merge_metadata(proto),
        *_sort_nodes(proto.graph, file),
        *_inputs_without_shape(proto.graph),
        *_without_shape(proto.graph),
    )
    return tuple(FileFinding(RULE_MENDED, "info", what, place) for what, place in mended)


def _check_types(graph: onnx.GraphProto, file: str) -> None:
    """Refuse an input without a type, and tensors without an element type, by name."""
    untyped = [value for value in graph.input if value.type.WhichOneof("value") is None]
    untyped += [
        value
        for value in (*graph.input, *graph.output)
        if value.type.HasField("tensor_type") and not value.type.tensor_type.elem_type
    ]
    if untyped:
        raise ModelFileError(
            f"{file} is not valid ONNX: it does not say the type of {untyped[0].name[:80]!r}",
            "Export it again.",
        )


def _use_short_domain(inventory: Inventory) -> None:
    """Write the standard's domain in one way: "" and "ai.onnx" are the same by definition."""
    proto = inventory.model
    imports = (entry for body in (proto, *proto.functions) for entry in body.opset_import)
    for entry in (*inventory.nodes, *imports):
        if entry.domain == "ai.onnx":
            entry.domain = ""


def _merge_imports(proto: onnx.ModelProto) -> _Mended:
    """Keep the last import of each operator set, as ONNX Runtime does."""
    imports = [(entry.domain, entry.version) for entry in proto.opset_import]
    kept = dict(imports)
    if len(kept) == len(imports):
        return
    _import_only(proto, kept)
    again = next(name for name, count in Counter(name for name, _ in imports).items() if count > 1)
    versions = dict.fromkeys(version for name, version in imports if name == again)
    which = (
        f"in the versions {' and '.join(map(str, versions))}; the last one counts"
        if len(versions) > 1
        else "in the same version"
    )
    yield f"an operator set was imported twice, {which}", again or "ai.onnx"


def _import_only(body: onnx.ModelProto | onnx.FunctionProto, versions: dict[str, int]) -> None:
    del body.opset_import[:]
    for domain, version in versions.items():
        body.opset_import.add(domain=domain, version=version)


def _import_missing(inventory: Inventory, newest: Callable[[], int]) -> _Mended:
    """Import operator sets that nodes use, in the version that ONNX Runtime then takes.

    A model that imports none at all is refused by it, and by the checks that follow.
    """
    proto = inventory.model
    absent = STANDARD_DOMAINS - {entry.domain for entry in proto.opset_import}
    if not proto.opset_import or not any(node.domain in absent for node in inventory.nodes):
        return
    missing: dict[str, str] = {}
    for message in walk(proto.graph):  # functions have imports of their own
        if isinstance(message, onnx.NodeProto) and message.domain in absent:
            missing[message.domain] = node_label(message)  # the last ones come first
    for domain, node in missing.items():
        proto.opset_import.add(domain=domain, version=_assumed_version(domain, newest))
        yield f"the operator set {domain or 'ai.onnx'} was used and not imported", node


def _assumed_version(domain: str, newest: Callable[[], int]) -> int:
    """Return the newest version; ONNX Runtime has only one of its own operators."""
    if not domain:
        return newest()
    schemas = onnx.defs.get_all_schemas_with_history()
    versions = (schema.since_version for schema in schemas if schema.domain == domain)
    return max(versions, default=1)


def _use_one_version(proto: onnx.ModelProto) -> _Mended:
    """Let functions import what the model does: ONNX Runtime reads their nodes by its versions."""
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    versions = {name: number for name, number in versions.items() if name in STANDARD_DOMAINS}
    for function in proto.functions:
        own = {entry.domain: entry.version for entry in function.opset_import}
        common = own | {name: versions[name] for name in own.keys() & versions.keys()}
        if common != own:
            _import_only(function, common)
            name = next(name for name in own if own[name] != common[name])
            yield (
                f"a function imported version {own[name]} of an operator set; ONNX Runtime reads "
                f"it by the model's, {common[name]}",
                f"{function.domain}::{function.name}"[:80],
            )


def _raise_ir_version(proto: onnx.ModelProto) -> _Mended:
    """Let weights stand alone where an old version of the format wants them to be inputs, too."""
    if proto.ir_version >= _UNLISTED_WEIGHTS_IR:
        return
    listed = {value.name for value in proto.graph.input}
    alone = [weight.name for weight in proto.graph.initializer if weight.name not in listed]
    if alone:
        old, proto.ir_version = proto.ir_version, _UNLISTED_WEIGHTS_IR
        yield (
            f"{len(alone)} weights were not listed as inputs, as IR version {old} asks; "
            f"the file is read as version {_UNLISTED_WEIGHTS_IR}",
            alone[0],
        )


def _drop_unnamed(graph: onnx.GraphProto) -> _Mended:
    """Drop weights that nothing can name."""
    nameless = [place for place, weight in enumerate(graph.initializer) if not weight.name]
    for place in reversed(nameless):
        del graph.initializer[place]
    if nameless:
        yield f"{len(nameless)} weights without a name were left out: nothing can read them", ""


def _name_graphs(inventory: Inventory) -> _Mended:
    nameless = [graph for graph in inventory.graphs if not graph.name]
    for graph in nameless:
        graph.name = "graph"
    if nameless:
        yield f"{len(nameless)} graphs had no name", ""


def _merge_metadata(proto: onnx.ModelProto) -> _Mended:
    """Keep the last value of a key, as ONNX Runtime does."""
    values = {entry.key: entry.value for entry in proto.metadata_props}
    if len(values) == len(proto.metadata_props):
        return
    (key, _), *_ = Counter(entry.key for entry in proto.metadata_props).most_common(1)
    helper.set_model_props(proto, values)
    yield "a key stood twice in the metadata; the last value was kept", key


# Leave each value in its place, and the axes as they are.
_IN_PLACE = frozenset({
    "Abs", "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "DequantizeLinear", "Div",
    "Dropout", "Identity", "InstanceNormalization", "MaxPool", "Mul", "Neg", "Pad",
    "QuantizeLinear", "Relu", "Sub",
})  # fmt: skip
# What stands between a stored weight and the layer that it belongs to.
_STORING = frozenset({"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"})
# Layers whose input has a known number of axes, and which of their inputs is the weight.
_KERNELS = {"Conv": 1, "ConvInteger": 1, "FusedConv": 1, "QLinearConv": 3}
_MATRICES = {"Gemm": 1, "MatMul": 1}
_Sizes = tuple[int, ...]


def _inputs_without_shape(graph: onnx.GraphProto) -> _Mended:
    """Give an input the shape that the first layer behind it asks for.

    Where that leaves a doubt the input stays as it is, and is refused later.
    """
    weights = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    for value in graph.input:
        if value.name in weights or not is_silent(value):
            continue
        sizes = _asked_for(graph, value.name, weights)
        if not all(0 <= size < _MOST_SIZE for size in sizes):
            continue
        for size in sizes:
            value.type.tensor_type.shape.dim.add(**({"dim_value": size} if size else {}))
        if sizes:
            yield "an input does not say its shape, which the first layer tells", value.name


# Of an axis: what counts weights has no more.
_MOST_SIZE = 2**31


def _asked_for(graph: onnx.GraphProto, name: str, weights: dict[str, _Sizes]) -> _Sizes:
    """Return the shape that the first layer needs, 0 for a free size; empty where none tells."""
    known, order = dict(weights), {name: "as it is"}
    for node in graph.node:
        first, made = (node.input or [""])[0], (node.output or [""])[0]
        if node.op_type == "Constant":
            known[made] = tuple(_attribute(node, "value").t.dims)
        elif node.op_type in _STORING and first in known:
            known[made] = known[first]
        elif first in order and node.op_type in _KERNELS | _MATRICES:
            return _sizes_before(node, order[first], known)
        elif first in order:
            order[made] = _order_behind(node, order[first], first == name)
    return ()


def _order_behind(node: onnx.NodeProto, order: str, first: bool) -> str:
    """Return what became of the axes of the image behind a node that is no layer."""
    if node.op_type in _IN_PLACE:
        return order
    turned = list(_attribute(node, "perm").ints) == [0, 3, 1, 2]
    if node.op_type == "Transpose" and turned and order == "as it is":
        return "channels last"
    axis = _attribute(node, "axis")
    flat = node.op_type == "Flatten" and (axis.i == 1 or not axis.name)
    return "flat" if flat and first else "not known"


def _sizes_before(node: onnx.NodeProto, order: str, known: dict[str, _Sizes]) -> _Sizes:
    """Return the shape of the image that a layer takes; empty where it leaves a doubt."""
    place = (_KERNELS | _MATRICES)[node.op_type]
    weight = known.get(node.input[place], ()) if len(node.input) > place else ()
    if node.op_type in _KERNELS and len(weight) == len("NCHW"):
        channels = weight[1] * max(1, _attribute(node, "group").i)
        return {"as it is": (0, channels, 0, 0), "channels last": (0, 0, 0, channels)}.get(
            order, ()
        )
    # A matrix product takes any number of axes, and Gemm two.
    sure = order == "flat" or (node.op_type == "Gemm" and order == "as it is")
    if sure and node.op_type in _MATRICES and len(weight) == len("NC"):
        return 0, weight[1 if _attribute(node, "transB").i else 0]
    return ()


def _attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    """Return an attribute; an empty one where the node has none of this name."""
    return next((one for one in node.attribute if one.name == name), onnx.AttributeProto())


def _without_shape(graph: onnx.GraphProto) -> _Mended:
    """Tell of outputs that do not say their type or shape: inference finds these."""
    for output in filter(is_silent, graph.output):
        yield "an output does not say its shape, which was inferred", output.name


def is_silent(value: onnx.ValueInfoProto) -> bool:
    """Tell whether an input or output does not say its type, or not its shape."""
    kind = value.type.WhichOneof("value")
    return kind is None or (kind == "tensor_type" and not value.type.tensor_type.HasField("shape"))


# --- the order of nodes


def _sort_nodes(graph: onnx.GraphProto, file: str) -> _Mended:
    """Put nodes behind what they read, those that may come in any order as they were.

    Nodes of inner graphs and functions are left alone: ONNX Runtime refuses them out of order.
    """
    given = {value.name for value in graph.input} | {weight.name for weight in graph.initializer}
    given |= {weight.values.name for weight in graph.sparse_initializer} | {""}
    waiting = [_names_read(node) - given for node in graph.node]
    late = _first_late(graph, waiting)
    if late is None:
        return
    order = _order(graph, waiting, file)
    nodes = onnx.GraphProto(node=[graph.node[place] for place in order])
    yield "nodes stood behind others that read their results; they were put in order", late
    del graph.node[:]
    graph.node.extend(nodes.node)


def _first_late(graph: onnx.GraphProto, waiting: list[set[str]]) -> str | None:
    """Name the first node that reads what no node before it makes; None where none does."""
    made = set[str]()
    for node, names in zip(graph.node, waiting, strict=True):
        if not names <= made:
            return node_label(node)
        made.update(node.output)
    return None


def _order(graph: onnx.GraphProto, waiting: list[set[str]], file: str) -> list[int]:
    """Return the places of the nodes, each behind what it waits for (Kahn's algorithm).

    Args:
        graph: The graph.
        waiting: Names of the tensors that each node reads from other nodes.
        file: File name to show.
    """
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output}
    readers: dict[int, list[int]] = {}
    for place, names in enumerate(waiting):
        for name in names:
            if name not in makers:
                raise _unmade(file, graph.node[place], name)
            readers.setdefault(makers[name], []).append(place)
    left = [len(names) for names in waiting]
    ready = [place for place, count in enumerate(left) if not count]
    order = []
    while ready:
        place = heapq.heappop(ready)
        order.append(place)
        for reader in readers.get(place, ()):
            left[reader] -= 1
            if not left[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(left):
        stuck = next(place for place, count in enumerate(left) if count)
        raise ModelFileError(
            f"{file} is not valid ONNX: its {node_label(graph.node[stuck])} waits for its own "
            "result",
            "Export it again.",
        )
    return order


def _unmade(file: str, node: onnx.NodeProto, name: str) -> ModelFileError:
    return ModelFileError(
        f"{file} is not valid ONNX: its {node_label(node)} reads the tensor {name[:80]!r}, which "
        "nothing makes",
        "Export it again.",
    )


def _names_read(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node reads, those that its inner graphs take from outside too."""
    names = set(node.input)
    stack = [graph for a in node.attribute for graph in ((a.g,) if a.HasField("g") else a.graphs)]
    for graph in stack:
        read = {value.name for value in graph.output}
        read.update(*(_names_read(inner) for inner in graph.node))
        own = {value.name for value in graph.input} | {w.name for w in graph.initializer}
        own.update(*(inner.output for inner in graph.node))
        names |= read - own
    return names
