"""Looks at one file: what it is, by its content, and what speaks against it.

No framework is imported and nothing is run. ONNX files pass the same checks as before a scan, but
for what only asks whether ONNX Runtime here could run them.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from onnx_soda._answers import FileLook
from onnx_soda._check.containers import Containers
from onnx_soda._check.formats import (
    judge_pickle,
    look_at_gguf,
    look_at_hdf5,
    look_at_keras_config,
    look_at_npy,
    look_at_pickle,
    look_at_program,
    look_at_safetensors,
    look_at_saved_model,
    look_at_skops,
    look_at_tflite,
    look_at_torchscript,
    pickle_without_magic,
)
from onnx_soda._check.notes import Notes, Part
from onnx_soda._converters.protocol import PICKLE_STARTS, is_safetensors
from onnx_soda._errors import ExternalDataError, SodaError, explained, first_line
from onnx_soda._preflight.file import (
    HEAD_BYTES,
    check_regular,
    check_start,
    describe_foreign_file,
)
from onnx_soda._preflight.limits import DEFAULT_LIMITS
from onnx_soda._results import ScanFailure, failure_of, report_of_file
from onnx_soda._rules import RULE_AMBIGUOUS, RULE_EXTERNAL, RULE_UNREAD, UNSAFE

if TYPE_CHECKING:
    from onnx_soda._preflight.check import Passed

# Nothing is run here, so models that are no image classifiers may be as large as they are: language
# models have ten thousands of nodes, two outputs for each layer, and tens of gigabytes of weights.
_LIMITS = replace(
    DEFAULT_LIMITS,
    parts=2_000_000,
    nodes=100_000,
    graph_outputs=10_000,
    tensor_bytes=2**35,
    list_bytes=2**25,
    string_count=1_000_000,
    string_bytes=2**26,
)
_HASHED_BESIDE = 2**28
# Nodes of all graphs of a file whose decisions are told: classifiers have some hundreds to a few
# thousand, and 1,000 take 0.1 to 0.4 s. A graph made to take long takes 20 s.
_MOST_FOLLOWED = 4_000
# Operators that are counted where a graph is not followed, and letters of their names.
_KINDS, _KIND = 6, 40
# A file of another kind is not read whole.
_ANY_SIZE = replace(DEFAULT_LIMITS, file_bytes=2**62)
_ONNX = ".onnx"
# How a ModelProto may begin: the tags of its fields. Exporters write the version first.
_ONNX_TAGS = frozenset(b"\x08\x12\x1a\x22\x28\x32\x3a\x42\x72\xa2\xca")
_ONNX_START = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42\x72]")
_PICKLE_NAMES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".bin", ".dat"})
# What pickles without magic bytes begin with: a container, a name, a mark, a value.
_OLD_PICKLE = re.compile(rb"[c(\]}lditIVSKMJNFGX]")
_STREAMS = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz",
    b"\x78\x01": "zlib", b"\x78\x5e": "zlib", b"\x78\x9c": "zlib", b"\x78\xda": "zlib",
}  # fmt: skip
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
_USTAR = slice(257, 262)
# Where torch.export.save puts bare numbers, unless it pickles them.
_EXPORTED_WEIGHTS = re.compile(r"/data/(?:weights|constants)/\w+$")


def look_at(path: Path) -> FileLook:
    """Look at a file.

    Args:
        path: The file.

    Returns:
        A report; or why there is none: it cannot be read, or is of no known kind.
    """
    begin = time.perf_counter()
    try:
        size = check_regular(path, _ANY_SIZE)
        with path.open("rb") as stream:
            part = Part("", path.name, stream, size)
            digest = _Digest(path, size)
            notes = Notes()
            failure = _Inspector(path, notes).look_at_file(part)
    except OSError as error:
        told = f"{path.name} cannot be read: {error.strerror or error}"
        return FileLook(failure=ScanFailure(path.name, told, "Check its permissions.", None))
    except Exception as error:  # noqa: BLE001 - one file ends, not all; it is told
        return FileLook(failure=failure_of(path.name, error))
    if failure is not None:
        return FileLook(failure=failure)
    findings = notes.all_findings()
    if not notes.understood and not findings:
        return FileLook(skipped=True, what=_what(notes, path.name))
    return FileLook(
        report=report_of_file(
            path.name,
            digest.result(),
            notes.verdict,
            notes.reasons(),
            findings,
            time.perf_counter() - begin,
            {"files": notes.evidence()},
        )
    )


def _what(notes: Notes, name: str) -> str:
    """Return what a skipped file seems to be; "" where nobody knows."""
    if notes.skipped == [name] or not notes.skipped:
        return ""
    if len(notes.skipped) == 1 and notes.skipped[0].startswith(f"{name} ("):
        return notes.skipped[0].removeprefix(f"{name} (").removesuffix(")")
    return f"an archive without a model in it, {notes.passed_over} files"


def _not_followed(shown: str, nodes: int, kinds: Counter[str]) -> str:
    """Say of a graph that is too large what may decide in it."""
    counts = ", ".join(f"{count} {kind[:_KIND]}" for kind, count in kinds.most_common(_KINDS))
    more = sum(kinds.values()) - sum(count for _, count in kinds.most_common(_KINDS))
    others = f" and {more} others" if more else ""
    told = f" What may decide: {counts}{others}." if counts else ""
    return (
        f"What the graph of {shown} decides is not told: it has {nodes:,} nodes, and "
        f"{_MOST_FOLLOWED:,} of a file are followed.{told}"
    )


class _Digest:
    """The digest of a file; of an ordinary one computed beside the look at it.

    Hashing frees the interpreter. A large file may be of a kind that is skipped, so it is only
    read when its digest is asked for.

    Args:
        path: The file.
        size: Its bytes.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._found = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        if size <= _HASHED_BESIDE:
            self._thread.start()

    def _run(self) -> None:
        try:
            with self._path.open("rb") as stream:
                self._found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError:
            return

    def result(self) -> str:
        """Return the digest; "" where the file could not be read to its end."""
        if self._thread.ident is None:
            self._run()
        else:
            self._thread.join()
        return self._found


class _Inspector:
    """Looks at a file and at all that is in it.

    Args:
        path: The file.
        notes: Takes what is seen.
    """

    def __init__(self, path: Path, notes: Notes) -> None:
        self._path = path
        self._notes = notes
        self._containers = Containers(notes, self.look_at_part)

    def look_at_file(self, part: Part) -> ScanFailure | None:
        """Look at the file itself; return why it cannot be read, if its name says what it is."""
        try:
            self._look(part)
        except SodaError as error:
            if error.rule_id is None and not self._notes.findings:
                return failure_of(part.name, error)
            self._notes.add_error(error, part)
        return None

    def look_at_part(self, part: Part) -> None:
        """Look at a member of an archive; what goes wrong with it is told of it alone."""
        try:
            self._look(part)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - the other members are looked at, too
            self._notes.add_error(explained(error), part)

    def _look(self, part: Part) -> None:
        if not part.size:
            if PurePosixPath(part.name).suffix.lower() == _ONNX:
                check_start(b"", part.shown)
            self._notes.skip(part, "empty")
            return
        head = part.head(HEAD_BYTES)
        look = self._by_magic(part, head) or self._by_name(part)
        if not head.startswith(_ZIP_STARTS) and zipfile.is_zipfile(part.stream):
            self._look_at_tail(part, look is not None)
        if look is not None:
            look()
        elif part.framework == "PyTorch" and _EXPORTED_WEIGHTS.search(part.place):
            self._notes.know(part, "weights (PyTorch)")
        elif not self._is_onnx(part, head) and not self._is_old_pickle(part, head):
            foreign = describe_foreign_file(head)
            self._notes.skip(part, foreign.what.partition(",")[0] if foreign else "")

    def _look_at_tail(self, part: Part, known: bool) -> None:
        """Look at a zip archive that stands behind something else: Python opens it all the same."""
        if known:
            what = f"{part.shown} begins like one kind of file and ends like a zip archive"
            self._notes.add(RULE_AMBIGUOUS, f"{what}: two readers see two files", part)
        self._containers.walk_zip(part)

    def _by_magic(self, part: Part, head: bytes) -> Callable[[], None] | None:
        """Return what looks at a part, by its first bytes; None where they tell nothing."""
        notes, containers = self._notes, self._containers
        if head.startswith(_ZIP_STARTS):
            return partial(containers.walk_zip, part)
        if head[_USTAR] == b"ustar" or part.name.lower().endswith(".tar"):
            return partial(containers.walk_tar, part)
        for magic, kind in _STREAMS.items():
            if head.startswith(magic) and (kind != "zlib" or _packed_pickle(part)):
                return partial(containers.open_stream, part, kind)
        for tells, look in (
            (head.startswith(PICKLE_STARTS), look_at_pickle),
            (head.startswith(b"\x89HDF\r\n\x1a\n"), look_at_hdf5),
            (head.startswith(b"GGUF"), look_at_gguf),
            (head.startswith(b"\x93NUMPY"), look_at_npy),
            (head[4:8] == b"TFL3", look_at_tflite),
            (is_safetensors(head), look_at_safetensors),
        ):
            if tells:
                return partial(look, part, notes)
        return None

    def _by_name(self, part: Part) -> Callable[[], None] | None:
        """Return what looks at a part of a form that has no magic bytes."""
        notes = self._notes
        if part.name == "saved_model.pb":
            return partial(look_at_saved_model, part, notes)
        if part.framework == "Keras" and part.name == "config.json":
            return partial(look_at_keras_config, part, notes)
        if part.framework == "PyTorch" and part.name.endswith(".py"):
            return partial(look_at_torchscript, part, notes)
        if part.framework == "PyTorch" and part.place.endswith("/models/model.json"):
            return partial(look_at_program, part, notes)
        if part.framework == "scikit-learn" and part.name == "schema.json":
            return partial(look_at_skops, part, notes)
        return None

    def _is_onnx(self, part: Part, head: bytes) -> bool:
        """Look at a part as ONNX; tell whether it is."""
        named = PurePosixPath(part.name).suffix.lower() == _ONNX
        if not named and head[0] not in _ONNX_TAGS:
            return False
        if part.size > _LIMITS.file_bytes:  # which no protobuf message is
            if named:
                self._notes.add(RULE_UNREAD, f"{part.shown} is larger than ONNX files can be", part)
            return named
        try:
            self._look_at_onnx(part)
        except SodaError as error:
            sure = named or (error.rule_id in UNSAFE and _ONNX_START.match(head))
            if not sure:
                return False
            raise
        return True

    def _look_at_onnx(self, part: Part) -> None:
        from onnx_soda._preflight.check import check_model

        source = part.content() if part.depth else self._path
        try:
            passed = check_model(source, _LIMITS, runnable=False, name=part.shown)
        except ExternalDataError as error:
            if not part.depth or error.rule_id == RULE_EXTERNAL:
                raise
            what = f"{part.shown} has weights in other files, which were not looked at together"
            self._notes.add(RULE_UNREAD, what, part)
            self._notes.know(part, "ONNX model")
            return
        for finding in passed.findings:
            self._notes.add_file_finding(finding, part)
        self._notes.know(part, "ONNX model")
        self._tell_decisions(passed, part)

    def _tell_decisions(self, passed: Passed, part: Part) -> None:
        """Tell what a graph decides; that this fails changes nothing about the file."""
        try:
            self._follow(passed, part)
        except Exception as error:  # noqa: BLE001 - onnx's checker objects, onnx-ir, inference
            why = first_line(error)
            self._notes.untold.append(f"What the graph of {part.shown} decides is not told: {why}")

    def _follow(self, passed: Passed, part: Part) -> None:
        """Read a graph, where its operators can decide at all."""
        from onnx_soda._detect.graph_logic.operators import decides, may_decide
        from onnx_soda._preflight.definitions import check_functions
        from onnx_soda._preflight.inventory import take_inventory

        notes, inventory = self._notes, take_inventory(passed.proto)
        if not may_decide(inventory):
            return
        nodes = check_functions(passed.proto, part.shown, _LIMITS)
        if notes.nodes_followed + nodes > _MOST_FOLLOWED:
            kinds = Counter(node.op_type for node in inventory.nodes if decides(node))
            notes.untold.append(_not_followed(part.shown, nodes, kinds))
            return
        notes.nodes_followed += nodes
        # Half of a second to import, which files that decide nothing do not wait for.
        from onnx_soda._detect.graph_logic.telling import decisions_of_file

        told = decisions_of_file(passed.proto, passed.folder)
        if told.total:
            notes.decisions[part.shown] = told

    def _is_old_pickle(self, part: Part, head: bytes) -> bool:
        """Look at a part as a pickle without magic bytes; tell whether it is one."""
        if not _OLD_PICKLE.match(head):
            return False
        found = pickle_without_magic(part)
        if found is None:
            return False
        judge_pickle(found, part, self._notes)
        self._notes.know(part, "Python pickle (old protocol)")
        return True


def _packed_pickle(part: Part) -> bool:
    """Tell whether zlib's two bytes begin a stream: as joblib writes, under such a name."""
    return PurePosixPath(part.name).suffix.lower() in _PICKLE_NAMES | {".z", ".gz"}
