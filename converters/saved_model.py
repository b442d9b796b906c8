"""TensorFlow SavedModel: a folder with `saved_model.pb` and `variables/`.

`tf.saved_model.load` runs functions of the file: what makes a resource runs at loading. So only
operators of classifiers are let in, and no resources and no assets. The functions that save and
load the variables are in every SavedModel; nothing else may call them. TensorFlow gets a copy of
the program and the variables alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from onnx_soda._answers import Conversion
from onnx_soda._errors import UnsupportedSourceError
from onnx_soda._options import ConvertOptions

from .refusals import bomb, damaged, explaining, misleading, runs_code

_OPERATORS = """
    Abs Add AddN AddV2 All Any ArgMax ArgMin AvgPool BatchMatMul BatchMatMulV2 BatchMatMulV3
    BatchToSpaceND BiasAdd BroadcastTo Cast Ceil ClipByValue Concat ConcatV2 Const Conv2D
    DepthToSpace DepthwiseConv2dNative Div DivNoNan Einsum Elu Equal Erf Exp ExpandDims Fill Floor
    FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 GatherV2 Greater GreaterEqual
    Identity IdentityN LeakyRelu Less LessEqual Log LogSoftmax LogicalAnd LogicalNot LogicalOr
    MatMul Max MaxPool MaxPoolV2 Maximum Mean Min Minimum MirrorPad Mul Neg NoOp NotEqual OnesLike
    Pack Pad PadV2 PartitionedCall Placeholder Pow Prod Range Rank ReadVariableOp RealDiv Reciprocal
    Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor ReverseV2 Round Rsqrt Select SelectV2
    Selu Shape Sigmoid Sign Size Slice Softmax Softplus Softsign SpaceToBatchND SpaceToDepth Split
    SplitV Sqrt Square SquaredDifference Squeeze StatefulPartitionedCall StopGradient StridedSlice
    Sub Sum Tanh Tile Transpose Unpack VarHandleOp Where ZerosLike DisableCopyOnRead
    AssignVariableOp VarIsInitializedOp
"""
OPERATORS = frozenset(_OPERATORS.split())
"""What classifiers compute with."""

_SAVING = """
    MergeV2Checkpoints RestoreV2 SaveV2 ShardedFilename StaticRegexFullMatch
    StringJoin
"""
SAVING = frozenset(_SAVING.split())
"""What the functions that save and restore variables need, in these alone."""


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


_PROGRAM, _VARIABLES, _ASSETS = "saved_model.pb", "variables", "assets"
_PROGRAM_BYTES = 2**28
_VARIABLES_BYTES = 2**31 - 1
_MOST_FILES = 100
_ADVICE = "Export the bare network, from images to scores, without preprocessing of files or texts."
_LOADS_NOT = "The file may be of another version of TensorFlow; convert it there with tf2onnx."


class SavedModelConverter:
    """Reads what `tf.saved_model.save` and `model.export` of Keras write."""

    name = "TensorFlow SavedModel"
    extra = "tensorflow"
    packages = ("tensorflow", "tf2onnx")

    def can_read(self, path: Path) -> bool:
        """See `Converter`."""
        return (path / _PROGRAM).exists()

    def precheck(self, path: Path) -> None:
        """See `Converter`."""
        with _checked_copy(path):
            pass

    def load(self) -> None:
        """See `Converter`."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import_module("onnx_soda._converters.tensorflow_run")

    def convert(self, path: Path, out: Path, options: ConvertOptions) -> Conversion:
        """See `Converter`."""
        with (
            _checked_copy(path) as copy,
            explaining(f"TensorFlow cannot convert {path.name}", _LOADS_NOT),
        ):
            from .tensorflow_run import convert_saved_model

            return convert_saved_model(self.name, path, copy, out, options)


@contextmanager
def _checked_copy(path: Path) -> Iterator[Path]:
    """Yield a folder with what TensorFlow may read of a SavedModel.

    Raises:
        UnsafeSourceError: It could run code or touch files, or is built to mislead.
        UnsupportedSourceError: It is of TensorFlow 1.
        ConvertError: It is damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model"
        (copy / _VARIABLES).mkdir(parents=True)
        if (path / _ASSETS).is_symlink() or any((path / _ASSETS).glob("*")):
            raise _reads_files(path.name)
        content = _plain(path / _PROGRAM, path.name, _PROGRAM_BYTES).read_bytes()
        check_program(read_program(content, path.name), path.name)
        (copy / _PROGRAM).write_bytes(content)
        _copy_variables(path, copy)
        yield copy


def check_program(program: Program, file: str) -> None:
    """Refuse a SavedModel that could do more than compute.

    Args:
        program: What it would run.
        file: Name to show.

    Raises:
        UnsafeSourceError: See above.
        UnsupportedSourceError: It is of TensorFlow 1, or holds several graphs.
    """
    if program.graphs != 1 or not program.has_objects:
        raise UnsupportedSourceError(
            f"{file} is of TensorFlow 1, or holds several graphs",
            "Load it in TensorFlow 2 and save it with tf.saved_model.save.",
        )
    functions = program.operators.keys() - {""}
    ambiguous = program.repeated | (functions & (OPERATORS | SAVING))
    if ambiguous:
        raise misleading(f"{file} defines the function {min(ambiguous)} twice")
    if program.has_assets:
        raise _reads_files(file)
    saving = {name for name in functions if program.operators[name] & SAVING}
    for name, operators in program.operators.items():
        refused = operators - OPERATORS - (SAVING if name in saving else set())
        if refused:
            raise runs_code(
                f"{file} uses the operator {min(refused)}, which no image classifier needs", _ADVICE
            )
    # The graph itself calls them too; that is not run at loading.
    called = {one for name in functions for one in program.calls[name]} | program.restored
    if saving & called:
        raise runs_code(f"{file} reads or writes files in {min(saving & called)}", _ADVICE)
    if program.has_resources:
        raise runs_code(f"{file} holds resources, which are made by running it", _ADVICE)


def _reads_files(file: str) -> Exception:
    return runs_code(f"{file} reads files of its own (assets)", _ADVICE)


def _copy_variables(path: Path, copy: Path) -> None:
    folder = path / _VARIABLES
    if folder.is_symlink():
        raise misleading(f"{path.name} has a link in place of {_VARIABLES}")
    names = sorted(folder.glob("variables.*"))
    if len(names) > _MOST_FILES:
        raise bomb(f"{path.name} has {len(names)} files of variables")
    left = _VARIABLES_BYTES
    for name in names:
        left -= _plain(name, path.name, left).stat().st_size
        shutil.copyfile(name, copy / _VARIABLES / name.name, follow_symlinks=False)


def _plain(path: Path, file: str, most: int) -> Path:
    """Return a path that is an ordinary file and not too large."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise misleading(f"{path.name} in {file} is no ordinary file")
    if not path.exists():
        raise damaged(f"{file} has no {path.name}")
    if path.stat().st_size > most:
        raise bomb(f"{path.name} in {file} has {path.stat().st_size} bytes")
    return path
