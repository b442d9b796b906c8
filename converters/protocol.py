"""What a converter is, what can be asked of it, and what it answers; imports no framework."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from onnx_soda._answers import Conversion
from onnx_soda._options import ConvertOptions

PICKLE_STARTS = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
"""How pickles of protocols 2 to 5 begin."""


MOST_HEADER = 100_000_000
"""The most bytes of a safetensors header, as the safetensors package itself has it."""


def is_safetensors(head: bytes) -> bool:
    """Tell whether a file begins like safetensors: length of the header, then a JSON object."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= MOST_HEADER


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


class Converter(Protocol):
    """Reads one kind of file."""

    @property
    def name(self) -> str:
        """What it reads, for people."""

    @property
    def extra(self) -> str:
        """The extra of the package that it needs."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Modules that must be importable for it."""

    def can_read(self, path: Path) -> bool:
        """Tell by the content whether a file is of this kind; opens no framework."""

    def precheck(self, path: Path) -> None:
        """Look at a file without any framework.

        Raises:
            UnsafeSourceError: Opening it could run code, or it is built to mislead.
            UnsupportedSourceError: It is of a form that cannot be converted.
            ConvertError: It is damaged.
        """

    def load(self) -> None:
        """Import the framework, before memory is limited and with no file open."""

    def convert(self, path: Path, out: Path, options: ConvertOptions) -> Conversion:
        """Convert a file that passed `precheck`, and check the result.

        Args:
            path: The source.
            out: File to write the model to.
            options: See `ConvertOptions`.

        Raises:
            ConvertError: The framework cannot read or convert it, or the result computes
                something else than the source.
            ModelError: The result is over a limit of what can be scanned.
        """
