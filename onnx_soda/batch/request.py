"""What is asked for: a model, clean images, and how to scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from onnx_soda.converters.protocol import ConvertOptions
from onnx_soda.options import ScanOptions
from onnx_soda.sandbox.limits import Limits

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """A scan of a model file of any kind.

    Attributes:
        model: The model.
        data: The clean set.
        split: Part of it.
        options: See `ScanOptions`.
        convert: How models of other frameworks are converted.
        limits: What a child process may take; None does without a child.
    """

    model: Path
    data: Path | None = None
    split: str = "auto"
    options: ScanOptions = field(default_factory=ScanOptions)
    convert: ConvertOptions = field(default_factory=ConvertOptions)
    limits: Limits | None = field(default_factory=Limits)
