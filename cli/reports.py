"""Where reports go, several in one run: `--format text --format sarif=FILE`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import typer

from onnx_soda._answers import RepairSummary
from onnx_soda._batch import Ended
from onnx_soda._errors import OptionError, OutputError
from onnx_soda._registry import Registry
from onnx_soda._report.formats import FORMATS, Context, Format, Scanned, form_of_ending
from onnx_soda._results import Outcome, ScanFailure, ScanReport
from onnx_soda._rules import Severity
from onnx_soda._system import as_utc, check_writable
from onnx_soda._words import printable

from .options import USUAL_FORM, PlainFormat, in_flags
from .output import complain, deliver, report_in_flags

# Seconds since 1970, up to the year 5138.
_EPOCH = re.compile("[0-9]{1,11}")


@dataclass(frozen=True)
class _Target:
    form: Format
    file: Path | None


@dataclass(frozen=True)
class Targets:
    """Where reports go.

    Attributes:
        targets: Forms and files.
        fail_on: Findings of this severity or a worse one are failures.
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
            target.form.require()
            if not target.form.many and not single:
                raise OutputError(
                    f"a report in the form {target.form.name} is of one model",
                    "Scan that model alone.",
                )
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
        scanned = [Scanned(_in_flags(report), _relative(place), str(place))]
        for target in self.targets:
            self._deliver(target, scanned, True)

    def tell_failure(self, failure: ScanFailure, place: Path) -> None:
        """Write that a model could not be scanned in the forms that have words for it.

        A file of another form goes: it would tell of an earlier scan.
        """
        scanned = [Scanned(_in_flags(failure), _relative(place), str(place))]
        for target in self.targets:
            if target.form.failures:
                self._deliver(target, scanned, True)
            elif target.file is not None and target.file.is_file():
                target.file.unlink()

    def tell_outcome(self, ended: Ended) -> None:
        """Write what one file came to; say on stderr why it could not be read."""
        if isinstance(ended.outcome, ScanReport):
            self.tell(ended.outcome, ended.model)
            return
        self.tell_failure(ended.outcome, ended.model)
        complain(in_flags(ended.outcome.message), in_flags(ended.outcome.advice))

    def tell_many(self, ended: Sequence[Ended], skipped: Sequence[str] = ()) -> None:
        """Write the scans of many models in every form.

        Args:
            ended: The scans.
            skipped: Files that were not looked at.

        Raises:
            OutputError: A file cannot be written.
        """
        scanned = [
            Scanned(
                _in_flags(one.outcome),
                _relative(one.model),
                str(one.model),
                one.seconds,
                one.cached,
            )
            for one in ended
        ]
        for target in self.targets:
            self._deliver(target, scanned, False, tuple(skipped))

    def _deliver(
        self,
        target: _Target,
        scanned: Sequence[Scanned],
        single: bool,
        skipped: tuple[str, ...] = (),
    ) -> None:
        context = Context(single, self.fail_on, self.command, skipped)
        deliver(target.form.render(scanned, context), target.file)


def _in_flags(outcome: Outcome) -> Outcome:
    if isinstance(outcome, ScanReport):
        return dated(report_in_flags(outcome))
    return replace(outcome, message=in_flags(outcome.message), advice=in_flags(outcome.advice))


_Dated = TypeVar("_Dated", ScanReport, RepairSummary)


def dated(report: _Dated) -> _Dated:
    """Return a report with the date that SOURCE_DATE_EPOCH sets, where it is set.

    So the same scan gives the same bytes: https://reproducible-builds.org/specs/source-date-epoch
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return replace(report, created=as_utc(int(epoch))) if _EPOCH.fullmatch(epoch) else report


def read_targets(
    formats: Sequence[str] | None, output: Path | None, fail_on: Severity, command: str
) -> Targets:
    """Read what --format and --output say.

    Args:
        formats: Forms, each with a file behind "=" or without; None where the output tells it.
        output: File of the form that has none.
        fail_on: See `Targets`.
        command: See `Targets`.

    Raises:
        BadParameter: A form is unknown, or two would be written to one place.
    """
    named = formats or [form_for(None, output, FORMATS)]
    targets = tuple(_target(text, output) for text in named)
    files = [target.file and target.file.resolve() for target in targets]
    if len(set(files)) < len(files):
        where = "stdout" if files.count(None) > 1 else "one file"
        raise typer.BadParameter(f"two reports would go to {where}; say --format FORM=FILE")
    if output is not None and output.resolve() not in files:
        raise typer.BadParameter("--output is for the form without a file, and there is none")
    return Targets(targets, fail_on, command)


def _target(text: str, output: Path | None) -> _Target:
    name, equals, file = text.partition("=")
    if equals and not file:
        raise typer.BadParameter(f"{text!r} names no file", param_hint="--format")
    return _Target(_form(name), Path(file) if equals else output)


def form_for(given: str | None, output: Path | None, forms: Registry[Any] | None = None) -> str:
    """Return the name of the form to write a report in.

    Args:
        given: What the command line says; None where it says nothing.
        output: The file that the report goes to; its ending tells the form where nothing else does.
        forms: Those that there are; text and JSON where not given.
    """
    if given is not None or output is None:
        return given or USUAL_FORM
    name = form_of_ending(output)
    try:
        if forms is not None:
            forms.find(name)
        elif name not in get_args(PlainFormat):
            raise OptionError(name)
    except OptionError:
        if output.is_file() or not output.exists():  # /dev/stdout and pipes have no endings
            line = (
                f"{output.name} is written as text: its ending names no form, and no --format does"
            )
            print(f"onnx-soda: {printable(line)}", file=sys.stderr)
        return USUAL_FORM
    return name


def _form(name: str) -> Format:
    try:
        return FORMATS.load(name.lower())()
    except OptionError as error:
        raise typer.BadParameter(f"{error.message}. {error.advice}", param_hint="--format") from (
            error
        )


def _relative(place: Path) -> str:
    """Return a path relative to the present folder, where it is below it."""
    absolute = place.absolute()
    here = Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else place.name)
