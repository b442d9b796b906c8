"""Reads of a `saved_model.pb` what it would run, without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .refusals import bomb, damaged

__all__ = ["Program", "read_program"]

_MOST_MESSAGES = 2_000_000
_LONGEST_VARINT = 10
# Numbers of fields, as in TensorFlow's saved_model.proto, meta_graph.proto, graph.proto,
# function.proto, node_def.proto, attr_value.proto and saved_object_graph.proto.
_META_GRAPH, _GRAPH, _ASSET_FILES, _OBJECTS = 2, 2, 6, 7
_NODES, _LIBRARY, _FUNCTIONS = 1, 2, 1
_SIGNATURE, _FUNCTION_NODES, _NAME = 1, 3, 1
_OP, _ATTRIBUTES, _VALUE, _VALUE_LIST, _FUNCTION_VALUE, _LISTED_FUNCTION = 2, 5, 2, 1, 10, 9
_OBJECT, _CONCRETE, _KEY = 1, 2, 1
_OBJECT_ASSET, _OBJECT_RESOURCE = 5, 10


@dataclass
class Program:
    """What a SavedModel would run.

    Attributes:
        graphs: Number of its graphs with their signatures.
        operators: By function, with "" for the graph itself: the operators in it.
        calls: By function: the functions that it names.
        repeated: Functions that are defined more than once.
        restored: Functions that loading makes callable.
        has_objects: Whether there is an object graph, as of TensorFlow 2.
        has_assets: Whether it names files to be read.
        has_resources: Whether objects are made by functions that run at loading.
    """

    graphs: int = 0
    operators: dict[str, set[str]] = field(default_factory=dict)
    calls: dict[str, set[str]] = field(default_factory=dict)
    repeated: set[str] = field(default_factory=set)
    restored: set[str] = field(default_factory=set)
    has_objects: bool = False
    has_assets: bool = False
    has_resources: bool = False


def read_program(content: bytes, file: str) -> Program:
    """Read what a `saved_model.pb` would run.

    Raises:
        ConvertError: It is cut short or of another form.
        UnsafeSourceError: It has more parts than any classifier.
    """
    reader, program = _Reader(file), Program()
    try:
        for meta_graph in reader.all(content, _META_GRAPH):
            program.graphs += 1
            _read_graph(reader, meta_graph, program)
    except (IndexError, ValueError):
        raise damaged(f"saved_model.pb of {file} cannot be read") from None
    return program


class _Reader:
    """Takes messages apart, and counts their fields."""

    def __init__(self, file: str) -> None:
        self.file, self.count = file, 0

    def all(self, content: bytes, wanted: int) -> Iterator[bytes]:
        """Yield the contents of the fields of one number."""
        for number, value in self.fields(content):
            if number == wanted:
                yield value

    def text(self, content: bytes, wanted: int) -> str:
        """Return a text; the last one counts, as for protobuf."""
        texts = list(self.all(content, wanted))
        return texts[-1].decode() if texts else ""

    def fields(self, content: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield number and content of the fields that have a length.

        Raises:
            ValueError: The bytes are no message.
            IndexError: They end too early.
        """
        position = 0
        while position < len(content):
            self.count += 1
            if self.count > _MOST_MESSAGES:
                raise bomb(f"saved_model.pb of {self.file} has over {_MOST_MESSAGES} parts")
            tag, position = _number(content, position)
            number, wire = tag >> 3, tag & 7
            if wire == 0:
                position = _number(content, position)[1]
                continue
            if wire == 2:
                size, position = _number(content, position)
            else:
                size = {1: 8, 5: 4}.get(wire, len(content))
            if number == 0 or position + size > len(content):
                raise ValueError
            if wire == 2:
                yield number, content[position : position + size]
            position += size


def _number(content: bytes, position: int) -> tuple[int, int]:
    value = 0
    for place in range(_LONGEST_VARINT):
        byte = content[position + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, position + place + 1
    raise ValueError


def _read_graph(reader: _Reader, meta_graph: bytes, program: Program) -> None:
    for number, value in reader.fields(meta_graph):
        if number == _GRAPH:
            _read_nodes(reader, "", reader.all(value, _NODES), program)
            for library in reader.all(value, _LIBRARY):
                for function in reader.all(library, _FUNCTIONS):
                    _read_function(reader, function, program)
        elif number == _OBJECTS:
            program.has_objects = True
            _read_objects(reader, value, program)
        program.has_assets |= number == _ASSET_FILES


def _read_function(reader: _Reader, function: bytes, program: Program) -> None:
    # A message that stands there twice is merged: the last name counts.
    names = [reader.text(one, _NAME) for one in reader.all(function, _SIGNATURE)]
    if len(names) != 1 or not names[0]:
        raise ValueError
    if names[0] in program.operators:
        program.repeated.add(names[0])
    _read_nodes(reader, names[0], reader.all(function, _FUNCTION_NODES), program)


def _read_nodes(reader: _Reader, owner: str, nodes: Iterator[bytes], program: Program) -> None:
    operators = program.operators.setdefault(owner, set())
    calls = program.calls.setdefault(owner, set())
    for node in nodes:
        operators.add(reader.text(node, _OP))
        for attribute in reader.all(node, _ATTRIBUTES):
            for value in reader.all(attribute, _VALUE):
                calls.update(_called(reader, value))


def _called(reader: _Reader, value: bytes) -> Iterator[str]:
    """Yield the functions that an attribute names."""
    for number, content in reader.fields(value):
        if number == _FUNCTION_VALUE:
            yield reader.text(content, _NAME)
        elif number == _VALUE_LIST:
            for one in reader.all(content, _LISTED_FUNCTION):
                yield reader.text(one, _NAME)


def _read_objects(reader: _Reader, objects: bytes, program: Program) -> None:
    for number, value in reader.fields(objects):
        if number == _CONCRETE:
            program.restored.add(reader.text(value, _KEY))
        elif number == _OBJECT:
            for kind, _ in reader.fields(value):
                program.has_assets |= kind == _OBJECT_ASSET
                program.has_resources |= kind == _OBJECT_RESOURCE
