"""The forms of a scan's report, several in one run: `--format text --format sarif=FILE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from onnx_soda._batch import Ended
from onnx_soda._errors import OutputError
from onnx_soda._report.json import batch_report, batch_table, check_writable, to_json
from onnx_soda._report.text import render_report
from onnx_soda._results import Outcome, ScanFailure, ScanReport
from onnx_soda._rules import Severity
from onnx_soda._system import require_modules

from .output import deliver, deliver_renderable


class ReportFormat(StrEnum):
    """Forms of a scan's report."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"
    SARIF = "sarif"
    MARKDOWN = "markdown"
    JUNIT = "junit"
    BOM = "bom"


# Modules that a form needs, and the extra that brings them.
_NEEDS = {
    ReportFormat.HTML: ("html", ("jinja2", "matplotlib")),
    ReportFormat.BOM: ("bom", ("cyclonedx",)),
}
# Forms that a model which could not be scanned has too.
_OF_FAILURES = frozenset({ReportFormat.SARIF, ReportFormat.MARKDOWN, ReportFormat.JUNIT})
_NAMES = ", ".join(ReportFormat)

FormatsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        "-f",
        metavar="FORM[=FILE]",
        help=f"Form of the report: {_NAMES}; several with files.  [default: text]",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class _Target:
    form: ReportFormat
    file: Path | None


@dataclass(frozen=True)
class Targets:
    """Where reports go.

    Attributes:
        targets: Forms and files.
        fail_on: Findings of this severity or a graver one are failures.
        command: How to repeat the scan, for people.
    """

    targets: tuple[_Target, ...]
    fail_on: Severity
    command: str

    def check(self, single: bool, inputs: Sequence[Path | None]) -> None:
        """Make sure that all of it can be written, before the work for it begins.

        Args:
            single: One model is scanned, not many.
            inputs: Files that the scan reads; None stands for nothing.

        Raises:
            OutputError: A file cannot be written, or a form is of one model alone.
            MissingExtraError: A form needs packages that are not installed.
        """
        for target in self.targets:
            check_packages(target.form)
            if target.form is ReportFormat.HTML and not single:
                raise OutputError("an HTML report is of one model", "Scan that model alone.")
            if target.file is not None:
                check_writable(target.file, *inputs)

    def tell(self, report: ScanReport, place: Path) -> None:
        """Write the scan of one model in every form.

        Args:
            report: The scan.
            place: The model's path as given.

        Raises:
            OutputError: A file cannot be written.
        """
        for target in self.targets:
            if target.form is ReportFormat.TEXT:
                deliver_renderable(render_report(report), target.file)
            elif target.form is ReportFormat.JSON:
                deliver(to_json(report), target.file)
            elif target.form is ReportFormat.HTML:
                from onnx_soda._report.html import to_html

                deliver(to_html(report, self.command), target.file)
            else:
                deliver(self._together(target.form, [report], [place]), target.file)

    def tell_failure(self, failure: ScanFailure, place: Path) -> None:
        """Write that a model could not be scanned in the forms that have words for it.

        A file of another form goes: it would tell of an earlier scan.
        """
        for target in self.targets:
            if target.form in _OF_FAILURES:
                deliver(self._together(target.form, [failure], [place]), target.file)
            elif target.file is not None and target.file.is_file():
                target.file.unlink()

    def tell_many(self, ended: Sequence[Ended]) -> None:
        """Write the scans of many models in every form.

        Raises:
            OutputError: A file cannot be written.
        """
        outcomes = [one.outcome for one in ended]
        places = [one.model for one in ended]
        for target in self.targets:
            if target.form is ReportFormat.TEXT:
                times = ["cached" if one.cached else f"{one.seconds:.1f}" for one in ended]
                table = batch_table(outcomes, [str(place) for place in places], times)
                deliver_renderable(table, target.file)
            elif target.form is ReportFormat.JSON:
                report = batch_report(outcomes, [_relative(place) for place in places])
                deliver(to_json(report), target.file)
            else:
                deliver(self._together(target.form, outcomes, places), target.file)

    def _together(
        self, form: ReportFormat, outcomes: Sequence[Outcome], places: Sequence[Path]
    ) -> str:
        named = [_relative(place) for place in places]
        if form is ReportFormat.SARIF:
            from onnx_soda._report.sarif import to_sarif

            return to_sarif(outcomes, named)
        if form is ReportFormat.MARKDOWN:
            from onnx_soda._report.markdown import to_markdown

            return to_markdown(outcomes, named)
        if form is ReportFormat.JUNIT:
            from onnx_soda._report.junit import to_junit

            return to_junit(outcomes, named, self.fail_on)
        from onnx_soda._report.bom import to_bom

        return to_bom(outcomes)


def read_targets(
    formats: Sequence[str] | None, output: Path | None, fail_on: Severity, command: str
) -> Targets:
    """Read what --format and --output say.

    Args:
        formats: Forms, each with a file behind "=" or without.
        output: File of the form that has none.
        fail_on: See `Targets`.
        command: See `Targets`.

    Raises:
        BadParameter: A form is unknown, or two would be written to one place.
    """
    targets = tuple(_target(text, output) for text in formats or ["text"])
    files = [target.file and target.file.resolve() for target in targets]
    if len(set(files)) < len(files):
        where = "stdout" if files.count(None) > 1 else "one file"
        raise typer.BadParameter(f"two reports would go to {where}; say --format FORM=FILE")
    if output is not None and output.resolve() not in files:
        raise typer.BadParameter("--output is for the form without a file, and there is none")
    return Targets(targets, fail_on, command)


def _target(text: str, output: Path | None) -> _Target:
    name, equals, file = text.partition("=")
    if name.lower() not in list(ReportFormat):
        raise typer.BadParameter(f"{name!r} is none of {_NAMES}", param_hint="--format")
    if equals and not file:
        raise typer.BadParameter(f"{text!r} names no file", param_hint="--format")
    return _Target(ReportFormat(name.lower()), Path(file) if equals else output)


def check_packages(form: ReportFormat) -> None:
    """Make sure that a form can be made.

    Raises:
        MissingExtraError: It needs packages that are not installed.
    """
    extra, modules = _NEEDS.get(form, ("", ()))
    require_modules(f"reports in the form {form} need", modules, extra)


def _relative(place: Path) -> str:
    """Return a path relative to the present folder, where it is below it."""
    absolute = place.absolute()
    here = Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else place.name)
