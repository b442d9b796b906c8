"""Files that are made to be looked at; the dangerous ones are never loaded."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from fixtures.graphs import build

MODEL = build("gemm").SerializeToString()


class Payload:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def evil(protocol: int = 4) -> bytes:
    return pickle.dumps({"weights": Payload()}, protocol)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def tarred(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def tar_of(**members: bytes) -> bytes:
    return tarred((tarfile.TarInfo(name), content) for name, content in members.items())


def tar_link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return tarred([(member, b"")])


def npy(array: np.ndarray[Any, Any]) -> bytes:
    packed = io.BytesIO()
    np.save(packed, array, allow_pickle=True)
    return packed.getvalue()


def safetensors(header: dict[str, Any] | str, weights: bytes = bytes(16)) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + weights


def entry(begin: int, end: int, shape: tuple[int, ...] = (2,), kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}


def gguf(entries: dict[str, str], tensors: int = 0, declared: int | None = None) -> bytes:
    def text(value: str) -> bytes:
        return len(value.encode()).to_bytes(8, "little") + value.encode()

    whole = b"GGUF" + (3).to_bytes(4, "little") + tensors.to_bytes(8, "little")
    whole += (len(entries) if declared is None else declared).to_bytes(8, "little")
    for key, value in entries.items():
        whole += text(key) + (8).to_bytes(4, "little") + text(value)
    return whole


def nested(depth: int) -> bytes:
    content = MODEL
    for number in range(depth):
        content = zipped({f"{number}.zip" if number else "m.onnx": content})
    return content


ZEROS = bytes(32 * 2**20)
STREAMS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "z": zlib.compress}
