"""Everything in a parsed model that checks look at, found by one walk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

__all__ = ["Inventory", "take_inventory", "walk"]


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
