"""Whether a file is of another framework, by its first bytes: all that a scan of ONNX waits for."""

from __future__ import annotations

from pathlib import Path

from .state_dict import is_safetensors

__all__ = ["PICKLE_STARTS", "may_be_source"]

PICKLE_STARTS = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
"""How pickles of protocols 2 to 5 begin."""


def may_be_source(path: Path) -> bool:
    """Tell by the first bytes whether a file is of another framework; nothing is parsed.

    A folder never is ONNX.
    """
    if path.is_dir():
        return True
    with path.open("rb") as stream:
        head = stream.read(64)
    known = head.startswith((b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", *PICKLE_STARTS))
    return known or head[4:8] == b"TFL3" or is_safetensors(head)
