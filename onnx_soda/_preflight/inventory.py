"""Everything in a parsed model, found by one walk, and whether it contradicts itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from math import prod

import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from onnx import TensorProto

from onnx_soda._errors import UnsupportedModelError
from onnx_soda._preflight.limits import FileLimits, ambiguous, false_size, over_limit


@dataclass(frozen=True, eq=False)
class Inventory:
    """The parts of a model by kind, wherever they are: functions, subgraphs, attributes, training.

    Attributes:
        model: The model.
        graphs: All graphs.
        nodes: All nodes.
        tensors: All tensors, the parts of sparse ones too.
        sparse: Whether there are sparse tensors.
    """

    model: onnx.ModelProto
    graphs: tuple[onnx.GraphProto, ...]
    nodes: tuple[onnx.NodeProto, ...]
    tensors: tuple[onnx.TensorProto, ...]
    sparse: bool

    @property
    def external(self) -> list[onnx.TensorProto]:
        """The tensors that are stored outside."""
        return [t for t in self.tensors if t.data_location == onnx.TensorProto.EXTERNAL]


def take_inventory(model: onnx.ModelProto) -> Inventory:
    """Return the parts of a model."""
    found: dict[str, list[Message]] = {}
    for message in walk(model):
        found.setdefault(message.DESCRIPTOR.name, []).append(message)

    def of(kind: str) -> tuple[Message, ...]:
        return tuple(found.get(kind, ()))

    return Inventory(
        model,
        of("GraphProto"),
        of("NodeProto"),
        of("TensorProto"),
        bool(of("SparseTensorProto")),
    )


def walk(message: Message) -> Iterator[Message]:
    """Yield a message and every message inside it, each once."""
    stack = [message]
    while stack:
        current = stack.pop()
        yield current
        for name, repeated in _inner(current.DESCRIPTOR):
            if repeated:
                stack.extend(getattr(current, name))
            elif current.HasField(name):
                stack.append(getattr(current, name))


@cache
def _inner(kind: Descriptor) -> tuple[tuple[str, bool], ...]:
    """Return the names of the fields that hold messages, and whether they hold many."""
    inner = (field for field in kind.fields if field.type == FieldDescriptor.TYPE_MESSAGE)
    return tuple((field.name, field.is_repeated) for field in inner)


def node_label(node: onnx.NodeProto) -> str:
    """Return a node's operator and name, or its first output where it has no name."""
    return f"{node.op_type} {(node.name or next(iter(node.output), ''))[:80]!r}"


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


def check_outputs(inventory: Inventory, file: str, limits: FileLimits) -> None:
    """Refuse a model with more outputs than models have.

    Raises:
        UnsupportedModelError: Of a graph or a node there are too many.
    """
    if max(len(graph.output) for graph in inventory.graphs) > limits.graph_outputs:
        raise over_limit(f"{file} has too many outputs of a graph", limits.graph_outputs)
    if max((len(node.output) for node in inventory.nodes), default=0) > limits.node_outputs:
        raise over_limit(f"{file} has too many outputs of a node", limits.node_outputs)


# Larger than any file; numbers of thousands of digits cannot even be printed.
_TOO_LARGE = 2**64
# Field of a tensor's data, where it is not raw bytes, and bits of an element that one entry of
# the field holds: as in the comments of onnx.proto. Elements of 4 bits or fewer are packed.
_TYPED: dict[int, tuple[str, int]] = {
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.COMPLEX64), ("float_data", 32)),
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.COMPLEX128), ("double_data", 64)),
    TensorProto.INT64: ("int64_data", 64),
    **dict.fromkeys((TensorProto.UINT32, TensorProto.UINT64), ("uint64_data", 0)),
    TensorProto.STRING: ("string_data", 0),
}
# Bits of an element, as in the comments of onnx.proto; those under 8 are packed. onnx-ir has the
# same table and takes half a second to import, which a look at the file alone does not wait for.
_BITS = {
    kind: bits
    for bits, names in (
        (2, "UINT2 INT2"),
        (4, "UINT4 INT4 FLOAT4E2M1"),
        (6, "FLOAT6E2M3 FLOAT6E3M2"),
        (8, "UINT8 INT8 BOOL FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ FLOAT8E8M0"),
        (16, "UINT16 INT16 FLOAT16 BFLOAT16"),
        (32, "FLOAT INT32 UINT32"),
        (64, "DOUBLE INT64 UINT64 COMPLEX64"),
        (128, "COMPLEX128"),
    )
    for name in names.split()
    if (kind := getattr(TensorProto, name, None)) is not None
}
DATA_FIELDS = ("float_data", "double_data", "int64_data", "uint64_data", "int32_data")
"""Fields of a tensor's numbers, where they are not raw bytes."""


def declared_bytes(tensor: onnx.TensorProto) -> int:
    """Return the size that a tensor's dimensions and type declare; 0 for text and unknown types."""
    elements: int = prod(tensor.dims)
    return min((_bits(tensor) * elements + 7) // 8, _TOO_LARGE)


def check_tensors(inventory: Inventory, file: str, limits: FileLimits) -> None:
    """Check the dimensions of all stored tensors, and the data of those inside the file.

    Raises:
        ModelFileError: Dimensions and data do not fit.
        UnsupportedModelError: Too many axes, bytes or strings, or sparse tensors.
    """
    if inventory.sparse:
        raise UnsupportedModelError(
            f"{file} holds sparse tensors, which cannot be read here",
            "Export the model with dense weights.",
        )
    for tensor in inventory.tensors:
        _check_dims(tensor, limits)
        if tensor.data_location != TensorProto.EXTERNAL:
            _check_data(tensor)
    total = sum(declared_bytes(tensor) for tensor in inventory.tensors)
    if total > limits.tensor_bytes:
        raise over_limit(f"the tensors of {file} have {total} bytes", limits.tensor_bytes)
    _check_strings(inventory, file, limits)


def _check_dims(tensor: onnx.TensorProto, limits: FileLimits) -> None:
    if len(tensor.dims) > limits.rank:
        raise over_limit(f"tensor {_name(tensor)} has {len(tensor.dims)} axes", limits.rank)
    if any(size < 0 for size in tensor.dims):
        raise false_size(f"tensor {_name(tensor)} has a negative dimension: {list(tensor.dims)}")


def _check_data(tensor: onnx.TensorProto) -> None:
    elements = prod(tensor.dims)
    if tensor.HasField("raw_data"):
        held, needed, unit = len(tensor.raw_data), declared_bytes(tensor), "bytes"
    else:
        field, bits_held = _TYPED.get(tensor.data_type, ("int32_data", 0))
        held, unit = len(getattr(tensor, field)), "numbers"
        bits = _bits(tensor)
        # Complex numbers take two entries, packed ones share an entry of 8 bits.
        per_entry = bits_held or (8 if 0 < bits < 8 else bits)
        needed = -(-elements * bits // per_entry) if per_entry else elements
    known = tensor.data_type == TensorProto.STRING or _bits(tensor)
    if known and held != needed:
        raise false_size(
            f"tensor {_name(tensor)} of dimensions {list(tensor.dims)} needs "
            f"{min(needed, _TOO_LARGE)} {unit} and has {held}"
        )
    others = [name for name in DATA_FIELDS if len(getattr(tensor, name))]
    if len(others) + tensor.HasField("raw_data") > 1:
        raise false_size(f"tensor {_name(tensor)} has two kinds of data")


def _check_strings(inventory: Inventory, file: str, limits: FileLimits) -> None:
    texts = [text for tensor in inventory.tensors for text in tensor.string_data]
    if len(texts) > limits.string_count:
        raise over_limit(f"{file} has {len(texts)} strings in tensors", limits.string_count)
    size = sum(map(len, texts))
    if size > limits.string_bytes:
        raise over_limit(f"the strings in tensors of {file} have {size} bytes", limits.string_bytes)


def _bits(tensor: onnx.TensorProto) -> int:
    """Return the size of an element; 0 for text and unknown types."""
    return _BITS.get(tensor.data_type, 0)


def _name(tensor: onnx.TensorProto) -> str:
    return repr(tensor.name[:80])
