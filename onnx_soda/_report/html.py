"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from onnx_soda._answers import RepairAnswer
from onnx_soda._errors import OutputError
from onnx_soda._report.formats import Context, RepairFormat, Scanned
from onnx_soda._results import ScanReport


class HtmlFormat(RepairFormat):
    """The report as a page, of one model."""

    name: ClassVar[str] = "html"
    modules: ClassVar[tuple[str, ...]] = ("jinja2", "matplotlib")
    extra: ClassVar[str] = "html"
    many: ClassVar[bool] = False
    failures: ClassVar[bool] = False

    def render(self, scanned: Sequence[Scanned], context: Context) -> str:
        """See `Format.render`."""
        from onnx_soda._report.page import to_html

        outcome = scanned[0].outcome
        if not isinstance(outcome, ScanReport):
            raise OutputError("an HTML report is of a scan", "Scan the model again.")
        return to_html(outcome, context.command)

    def render_repair(self, answer: RepairAnswer, written: str | None, context: Context) -> str:
        """See `RepairFormat.render_repair`."""
        from onnx_soda._report.page import repair_to_html

        return repair_to_html(answer, written, context.command)
