"""Names what a file is when it is not ONNX, from its first bytes, for a message that helps."""

from __future__ import annotations

__all__ = ["describe_foreign_file"]

# Offset, magic bytes, what the file is. Sources: the formats' own specifications.
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive, as PyTorch (.pt) and Keras (.keras) write"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras (.h5) and data sets use"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"GGUF", "a GGUF model"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the model itself"),
)
# Protocols 2 to 5 of the pickle format start with PROTO and the protocol number.
_PICKLE_STARTS = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))


def describe_foreign_file(head: bytes) -> str | None:
    """Say what a file is, from its first 64 bytes or more; None where it is not known."""
    for offset, magic, description in _SIGNATURES:
        if head[offset : offset + len(magic)] == magic:
            return description
    if head.startswith(_PICKLE_STARTS):
        return "a Python pickle, which can run code when it is opened"
    # safetensors: little-endian header length in 8 bytes, then a JSON object.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "a safetensors file: weights without a graph"
    return None
