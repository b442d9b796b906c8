"""What a converter is, what can be asked of it, and what it answers; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Conversion", "ConvertOptions", "Converter"]


@dataclass(frozen=True)
class ConvertOptions:
    """What a caller can choose about a conversion.

    Attributes:
        arch: Architecture to put bare weights into, as "torchvision:resnet18" or "timm:NAME".
        opset: Version of the `ai.onnx` operator set; the converter's usual one where None.
        size: Height and width of the images where the file does not tell; the architecture's
            usual one where None.
        seed: For the images on which source and result are compared.
    """

    arch: str | None = None
    opset: int | None = None
    size: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Conversion:
    """What a conversion came to.

    Attributes:
        converter: Name of the converter.
        file: Name of the source, without folders.
        sha256: Its digest, hexadecimal.
        versions: Versions of the packages that took part, by name.
        opset: Version of the `ai.onnx` operator set of the result.
        input_shape: Shape of one batch as the source takes it; None for the free batch.
        layout: "NCHW", "NHWC", "flat" or "other".
        batches: Numbers of images that were tried at once.
        free_batch: Whether the result takes any number of images.
        difference: Largest difference between source and result on random images, as a share of
            the largest score.
        notes: Sentences about choices made.
    """

    converter: str
    file: str
    sha256: str
    versions: dict[str, str]
    opset: int
    input_shape: tuple[int | None, ...]
    layout: str
    batches: tuple[int, ...]
    free_batch: bool
    difference: float
    notes: tuple[str, ...] = ()


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
