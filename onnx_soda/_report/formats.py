"""What a report form is, and which there are.

A new form is one file with a subclass of `Format`, and one line in `FORMATS`; in another
package, the subclass and an entry point of the group "onnx_soda.formats". `--format` takes its
name. Evidence is data, so a form shows detectors that it has never heard of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from onnx_soda._answers import RepairAnswer
from onnx_soda._registry import Registry
from onnx_soda._results import Cell, ColumnKind, Evidence, Finding, Outcome, ScanReport
from onnx_soda._rules import SEVERITIES, Severity
from onnx_soda._system import require_modules
from onnx_soda._words import pair_label

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Scanned:
    """A model that was scanned, or could not be.

    Attributes:
        outcome: The report, or why there is none.
        place: Path of the model, relative to the present folder.
        given: The same as it was given.
        seconds: How long it took.
        cached: It was remembered, not made anew.
    """

    outcome: Outcome
    place: str
    given: str
    seconds: float = 0.0
    cached: bool = False


@dataclass(frozen=True)
class Context:
    """What a form knows beside the outcomes.

    Attributes:
        single: One model was asked for by its own path, not many.
        fail_on: Findings of this severity or a worse one are failures.
        command: How to repeat the run, for people.
        skipped: Names of files that were not looked at, since they are of no known kind.
    """

    single: bool = True
    fail_on: Severity = "high"
    command: str = ""
    skipped: tuple[str, ...] = ()


class Format(ABC):
    """A form of the report of scans.

    Attributes:
        name: By which `--format` calls it.
        modules: Modules that it needs.
        extra: The extra of this package that brings them.
        many: It can show several models.
        failures: It has words for a model that could not be scanned, where that is the only one.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    many: ClassVar[bool] = True
    failures: ClassVar[bool] = True

    @abstractmethod
    def render(self, scanned: Sequence[Scanned], context: Context) -> str | RenderableType:
        """Return the report: text, or something that a rich console prints.

        Args:
            scanned: The models, at least one.
            context: What is known beside them.
        """

    @classmethod
    def require(cls) -> None:
        """Make sure that its modules are installed.

        Raises:
            MissingExtraError: They are not.
        """
        require_modules(f"reports in the form {cls.name} need", cls.modules, cls.extra)


class RepairFormat(Format):
    """A form of the report of scans that repairs have too."""

    @abstractmethod
    def render_repair(
        self, answer: RepairAnswer, written: str | None, context: Context
    ) -> str | RenderableType:
        """Return the report of a repair.

        Args:
            answer: The repair.
            written: Name of the file that was written; None where none was.
            context: What is known beside it.
        """


_JSON = "onnx_soda._report.json:JsonFormat"
_TEXT = "onnx_soda._report.text:TextFormat"
_HTML = "onnx_soda._report.html:HtmlFormat"

FORMATS: Registry[type[Format]] = Registry(
    "report form",
    "onnx_soda.formats",
    {
        "text": _TEXT,
        "json": _JSON,
        "html": _HTML,
        "sarif": "onnx_soda._report.sarif:SarifFormat",
        "markdown": "onnx_soda._report.markdown:MarkdownFormat",
        "junit": "onnx_soda._report.junit:JunitFormat",
        "bom": "onnx_soda._report.bom:BomFormat",
    },
)
_ENDINGS = {
    ".txt": "text",
    ".log": "text",
    ".htm": "html",
    ".md": "markdown",
    ".xml": "junit",
    ".cdx.json": "bom",
    ".bom.json": "bom",
    ".sarif.json": "sarif",
}
"""Forms by the endings of files that are not the form's own name."""


def form_of_ending(file: Path) -> str:
    """Return the name of the form that the ending of a file tells; it may be one of no form."""
    double = "".join(file.suffixes[-2:]).lower()
    single = file.suffix.lower()
    return _ENDINGS.get(double) or _ENDINGS.get(single) or single.removeprefix(".")


REPAIR_FORMATS: Registry[type[RepairFormat]] = Registry(
    "form of a repair's report",
    "onnx_soda.repair_formats",
    {"text": _TEXT, "json": _JSON, "html": _HTML},
)


# Names in a sentence.
_SHOWN_NAMES = 10


def skipped_text(names: Sequence[str]) -> str:
    """Return a sentence that counts and names skipped files; "" where there are none."""
    if not names:
        return ""
    more = len(names) - _SHOWN_NAMES
    shown = ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
    return f"{len(names)} file{'s' if len(names) > 1 else ''} skipped: {shown}."


def cell_text(value: Cell, kind: ColumnKind = "text") -> str:
    """Return a cell as people read it; "" for an empty one."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return {
        "text": f"{value:g}",
        "count": f"{value:,.0f}",
        "number": f"{value:.3f}",
        "signed": f"{value:+.2f}",
        "share": f"{100 * value:.0f} %",
    }[kind]


def class_names(report: ScanReport) -> Sequence[str] | None:
    """Return the names of a report's classes, where known."""
    return report.dataset.class_names if report.dataset else None


def pair_text(report: ScanReport, finding: Finding, arrow: str = " -> ") -> str:
    """Return the classes of a finding as people read them; "" where it names no target."""
    if finding.target_class is None:
        return ""
    return pair_label(finding.victim_class, finding.target_class, class_names(report), arrow)


def worst_finding(report: ScanReport) -> Finding | None:
    """Return the most severe finding; accepted ones come last, None where there is none."""
    return min(
        report.findings,
        key=lambda one: (one.accepted is not None, SEVERITIES.index(one.severity)),
        default=None,
    )


def evidence_in_order(report: ScanReport) -> list[Evidence]:
    """Return the evidence, that of the detector which decided first."""
    own = report.evidence.get(report.method)
    others = [one for name, one in report.evidence.items() if name != report.method]
    return [own, *others] if own else others
