"""Models of other frameworks where ONNX is wanted: converted first, into a private folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from onnx_soda.converters.first_look import may_be_source
from onnx_soda.converters.protocol import Conversion, ConvertOptions
from onnx_soda.options import Progress, no_progress
from onnx_soda.preflight.bytes_in import check_regular
from onnx_soda.report.schema import ScanReport
from onnx_soda.sandbox.files import convert_file
from onnx_soda.sandbox.limits import Limits
from onnx_soda.sandbox.process import private_folder

__all__ = ["as_onnx", "with_origin"]


@contextmanager
def as_onnx(
    model: Path,
    options: ConvertOptions,
    limits: Limits | None,
    progress: Progress = no_progress,
) -> Iterator[tuple[Path, Conversion | None]]:
    """Yield an ONNX file for a model of any kind, and how it was made.

    The file has the source's name, by which reports call it; it is removed afterwards.

    Args:
        model: The model.
        options: See `ConvertOptions`.
        limits: What the child process may take that converts it; None does without a child.
        progress: Called as the conversion goes on.

    Raises:
        ConvertError: It is of another framework and cannot be converted.
        SodaError: See `convert_file`.
    """
    if not os.path.isdir(model):  # noqa: PTH112 - which says no of impossible names, too
        check_regular(model)
    if not may_be_source(model):
        yield model, None
        return
    with private_folder() as folder:
        made = folder / model.name
        conversion = convert_file(model, made, options, limits=limits, progress=progress)
        yield made, conversion


def with_origin(report: ScanReport, conversion: Conversion | None) -> ScanReport:
    """Return a report that says what the model was converted from."""
    if conversion is None:
        return report
    note = (
        f"Converted to ONNX first, by the route {conversion.converter}: on random images the two "
        f"differ by {conversion.difference:.1e} of the largest score at most. The sha256 of the "
        f"file given is {conversion.sha256}; the model's is that of the ONNX file."
    )
    return replace(report, reasons=(*report.reasons, note, *conversion.notes))
