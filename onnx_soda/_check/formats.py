"""Looks into model files of each kind; opens no framework and runs nothing.

Every function takes a part and tells the notes what it sees. Errors that it raises are those of a
part that is refused, or damaged.
"""

from __future__ import annotations

import ast
import re
import struct
from typing import Any, BinaryIO

from onnx_soda._check.notes import Notes, Part
from onnx_soda._check.pickles import Pickle, read_pickles
from onnx_soda._converters.protocol import MOST_HEADER
from onnx_soda._converters.refusals import damaged, false_sizes, parse_json, runs_code, walk
from onnx_soda._converters.state_dict import check_safetensors
from onnx_soda._errors import (
    DatasetFileError,
    SodaError,
    UnsafeSourceError,
    UnsupportedSourceError,
)
from onnx_soda._rules import (
    RULE_AMBIGUOUS,
    RULE_CODE,
    RULE_UNKNOWN_CODE,
    RULE_UNREAD,
)

_ADVICE = "Do not load this file."
# Names in one message.
_SHOWN = 5


def look_at_safetensors(part: Part, notes: Notes) -> None:
    """Check the header: sizes, places, names."""
    content = part.head(8)
    length = int.from_bytes(content, "little")
    tensors = check_safetensors(part.head(8 + min(length, MOST_HEADER)), part.size, part.shown)
    notes.know(part, f"safetensors, {tensors} tensors")


# --- pickles


def look_at_pickle(part: Part, notes: Notes, kind: str = "Python pickle") -> None:
    """Follow the pickles of a part, and judge by what they name."""
    part.stream.seek(0)
    judge_pickle(read_pickles(part.stream), part, notes)
    notes.know(part, kind)


def judge_pickle(found: Pickle, part: Part, notes: Notes, verb: str = "is") -> None:
    """Tell what a pickle names.

    Args:
        found: What was seen of it.
        part: Where it is.
        notes: Takes what is told.
        verb: What the part does: it is a pickle, or holds one.
    """
    what = f"{part.shown} {verb} a Python pickle"
    for name in found.dangerous:
        notes.add(RULE_CODE, f"{what} that would call {name} when it is loaded", part)
    if found.computed:
        notes.add(RULE_CODE, f"{what} that hides what it would call", part)
    if found.unknown:
        names = list(found.unknown)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        listed = ", ".join(names[:_SHOWN]) + more
        notes.add(RULE_UNKNOWN_CODE, f"{what} that would run code of {listed}", part)
    if found.problem:
        notes.add(RULE_UNREAD, f"{what}; {found.problem}", part)
    elif not (found.dangerous or found.unknown or found.computed):
        notes.harmless_pickles.append(part.shown)


def pickle_without_magic(part: Part) -> Pickle | None:
    """Return the pickle of protocol 0 or 1 that a part is; None where it is none.

    These begin with no magic bytes. So they have to name something and end as pickles do, or to
    name something dangerous.
    """
    part.stream.seek(0)
    found = read_pickles(part.stream, follow=False)
    part.stream.seek(0)
    whole = not found.problem and (found.names or found.calls)
    return found if whole or found.dangerous else None


# --- NumPy

_NPY_HEADER = 64 * 2**10


def look_at_npy(part: Part, notes: Notes) -> None:
    """Read the header; arrays of objects are pickles."""
    head = part.head(12)
    wide = head[6:7] >= b"\x02"
    length = int.from_bytes(head[8 : 12 if wide else 10], "little")
    start = (12 if wide else 10) + length
    if length > _NPY_HEADER or start > part.size:
        raise damaged(f"the header of {part.shown} has {length} bytes")
    text = part.head(start)[start - length :].decode("latin-1")
    try:
        header = ast.literal_eval(text.strip())
        kinds = list(_texts(header["descr"]))
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise damaged(f"the header of {part.shown} cannot be read") from error
    if any(re.fullmatch(r"[|<>=]?O\d*", kind) for kind in kinds):
        part.stream.seek(start)
        judge_pickle(read_pickles(part.stream), part, notes, "holds")
        notes.know(part, "NumPy array of objects")
    else:
        notes.know(part, "NumPy array")


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return (
        [text for one in value for text in _texts(one)] if isinstance(value, list | tuple) else []
    )


# --- GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

_GGUF_VERSIONS = (2, 3)
# Bytes of a value by its type's number: 8 is text, 9 a list.
_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_TEXT, _GGUF_LIST = 8, 9
# The least bytes of an entry and of a tensor's description.
_GGUF_ENTRY, _GGUF_TENSOR = 13, 24
_GGUF_AXES, _GGUF_NESTED = 8, 4
_GGUF_NAME = 2**16
# What templates of chats have no use for, and attacks on the programs that fill them in do.
_TEMPLATE = re.compile(
    r"__\w+__|\battr\s*\(|\bos\s*\.\s*\w+|\b(?:popen|subprocess|import_module|eval|exec)\b"
)


def look_at_gguf(part: Part, notes: Notes) -> None:
    """Check counts and places, and look into templates, which other programs run."""
    reader = _Gguf(part.stream, part.size, part.shown)
    part.stream.seek(4)
    version = reader.number("<I")
    if version not in _GGUF_VERSIONS:
        raise damaged(f"{part.shown} is of GGUF version {version}, which is not known")
    tensors, entries = reader.number("<Q"), reader.number("<Q")
    if tensors * _GGUF_TENSOR + entries * _GGUF_ENTRY > part.size:
        raise false_sizes(
            f"{part.shown} declares {tensors} tensors and {entries} entries, and has "
            f"{part.size} bytes"
        )
    for _ in range(entries):
        key = reader.text(_GGUF_NAME)
        value = reader.value(reader.number("<I"))
        if "template" in key and isinstance(value, str) and (seen := _TEMPLATE.search(value)):
            notes.add(
                RULE_CODE,
                f"the template {key[:80]!r} of {part.shown} holds {seen.group()[:80]!r}: a program "
                "that fills it in without care would run code",
                part,
            )
    for _ in range(tensors):
        reader.tensor()
    notes.know(part, f"GGUF version {version}, {tensors} tensors")


class _Gguf:
    """Reads numbers and texts within the file."""

    def __init__(self, stream: BinaryIO, size: int, shown: str) -> None:
        self._stream, self._size, self._shown = stream, size, shown

    def number(self, form: str) -> int:
        data = self._stream.read(struct.calcsize(form))
        try:
            return int(struct.unpack(form, data)[0])
        except struct.error as error:
            raise damaged(f"{self._shown} is cut short") from error

    def _pass(self, count: int) -> None:
        if self._stream.tell() + count > self._size:
            raise false_sizes(f"{self._shown} declares {count} bytes that it does not have")
        self._stream.seek(count, 1)

    def text(self, most: int | None = None) -> str:
        size = self.number("<Q")
        if self._stream.tell() + size > self._size or (most is not None and size > most):
            raise false_sizes(f"{self._shown} declares a text of {size} bytes")
        return self._stream.read(size).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> str | None:
        """Go behind a value; return it where it is a text."""
        if kind == _GGUF_TEXT:
            return self.text()
        if kind != _GGUF_LIST:
            self._pass(self._size_of(kind))
            return None
        inner, count = self.number("<I"), self.number("<Q")
        if depth > _GGUF_NESTED or count > self._size:
            raise false_sizes(f"{self._shown} declares a list of {count} values")
        if inner in (_GGUF_TEXT, _GGUF_LIST):
            for _ in range(count):
                self.value(inner, depth + 1)
        else:
            self._pass(count * self._size_of(inner))
        return None

    def _size_of(self, kind: int) -> int:
        if kind not in _GGUF_SIZES:
            raise damaged(f"{self._shown} has a value of the unknown type {kind}")
        return _GGUF_SIZES[kind]

    def tensor(self) -> None:
        """Go behind a tensor's description, and check that its data begins in the file."""
        name = self.text(_GGUF_NAME)
        axes = self.number("<I")
        if axes > _GGUF_AXES:
            raise false_sizes(f"the tensor {name[:80]!r} of {self._shown} has {axes} axes")
        for _ in range(axes):
            self.number("<Q")
        self.number("<I")  # its type
        if self.number("<Q") > self._size:
            raise false_sizes(f"the tensor {name[:80]!r} of {self._shown} lies outside the file")


# --- Keras, TensorFlow, TorchScript

# Operators of TensorFlow that reach files or run Python; tensorflow.org/api_docs/python/tf/raw_ops.
_FILE_OPERATORS = """
    ReadFile WriteFile MatchingFiles PyFunc PyFuncStateless EagerPyFunc PrintV2 LoadDataset
    SaveDataset TextLineDataset WholeFileReaderV2 ImmutableConst DebugIdentityV3
    """
_TENSORFLOW_DANGER = frozenset(_FILE_OPERATORS.split())
_SAVED_MODEL_BYTES = 2**28


def look_at_keras_config(part: Part, notes: Notes) -> None:
    """Look at the configuration that a Keras archive holds as a file."""
    notes.know(part, "Keras model")
    _look_at_config(part.content(), part, notes)


def _look_at_config(content: bytes | str, part: Part, notes: Notes) -> None:
    """Look for Lambda layers, and for classes that are not Keras's own.

    Args:
        content: The configuration.
        part: The file that it is of.
        notes: Takes what is seen.
    """
    from onnx_soda._converters.keras_model import check_config, without_training

    config = parse_json(content, f"the configuration of {part.shown}")
    for found in walk(config, part.shown):
        if found.get("class_name") in ("Lambda", "__lambda__"):
            raise runs_code(f"{part.shown} has a Lambda layer, which is a Python program", _ADVICE)
    try:
        check_config(without_training(config, part.shown), part.shown)
    except UnsafeSourceError as error:
        _tell_unknown(error, part, notes)


def look_at_hdf5(part: Part, notes: Notes) -> None:
    """Check that it reads no other file, and look at the model that it may hold."""
    from onnx_soda._data.hdf5 import is_refusal, open_checked

    part.stream.seek(0)
    try:
        with open_checked(part.stream, part.shown) as file:
            config = file.attrs.get("model_config")
    except DatasetFileError as error:
        rule = RULE_AMBIGUOUS if is_refusal(error) else RULE_UNREAD
        notes.add(rule, error.message, part)
        config = None
    if isinstance(config, str | bytes):
        _look_at_config(config, part, notes)
    notes.know(part, "Keras model (HDF5)" if config is not None else "HDF5 file")


def look_at_tflite(part: Part, notes: Notes) -> None:
    """Read which operators it has; custom ones come from a library of machine code."""
    from onnx_soda._converters.tflite_model import read_facts

    facts = read_facts(part.content(), part.shown)
    if facts.custom:
        shown = ", ".join(name[:80] for name in facts.custom[:_SHOWN])
        what = f"{part.shown} needs operators that are not built into TensorFlow Lite: {shown}"
        notes.add(RULE_UNKNOWN_CODE, what, part, "low")
    notes.know(part, "TensorFlow Lite model")


def look_at_saved_model(part: Part, notes: Notes) -> None:
    """Read which operators it has."""
    from onnx_soda._converters.saved_model import OPERATORS, SAVING, check_program, read_program

    if part.size > _SAVED_MODEL_BYTES:
        raise damaged(f"{part.shown} has {part.size} bytes")
    program = read_program(part.content(), part.shown)
    if not program.operators:
        notes.skip(part)
        return
    names = set().union(*program.operators.values())
    for name in sorted(names & _TENSORFLOW_DANGER):
        notes.add(RULE_CODE, f"{part.shown} uses the operator {name}, which reaches files", part)
    try:
        check_program(program, part.shown)
    except UnsafeSourceError as error:
        _tell_unknown(error, part, notes)
    except UnsupportedSourceError:  # of TensorFlow 1
        unknown = sorted(names - OPERATORS - SAVING - _TENSORFLOW_DANGER)
        if unknown:
            shown = ", ".join(name[:80] for name in unknown[:_SHOWN])
            what = f"{part.shown} uses operators on no list: {shown}"
            notes.add(RULE_UNKNOWN_CODE, what, part)
    notes.know(part, "TensorFlow SavedModel")


def look_at_torchscript(part: Part, notes: Notes) -> None:
    """Look at the text of a program: operators on no list, and methods that run at loading."""
    from onnx_soda._converters.torchscript import check_text

    try:
        check_text(part.content().decode("ascii"), part.shown)
    except UnicodeDecodeError as error:
        raise damaged(f"{part.shown} is no ASCII text") from error
    except UnsafeSourceError as error:
        _tell_unknown(error, part, notes)
    notes.know(part, "TorchScript program")


def look_at_program(part: Part, notes: Notes) -> None:
    """Look at the graph that torch.export saved: operators on no list, sizes that are programs."""
    from onnx_soda._converters.exported_program import check_graph

    try:
        check_graph(parse_json(part.content(), part.shown), part.shown)
    except UnsafeSourceError as error:
        _tell_unknown(error, part, notes)
    notes.know(part, "exported program (PyTorch)")


def look_at_skops(part: Part, notes: Notes) -> None:
    """Look at the types that scikit-learn objects saved by skops are made of."""
    from onnx_soda._converters.sklearn_model import check_object

    try:
        for found in walk(parse_json(part.content(), part.shown), part.shown):
            if "__loader__" in found or "__class__" in found:
                check_object(found, part.shown)
    except UnsafeSourceError as error:
        _tell_unknown(error, part, notes)
    notes.know(part, "scikit-learn objects (skops)")


def _tell_unknown(error: SodaError, part: Part, notes: Notes) -> None:
    """Tell what is on no list: a converter refuses it, and a look at the file only says so."""
    notes.add(RULE_UNKNOWN_CODE, error.message, part)
