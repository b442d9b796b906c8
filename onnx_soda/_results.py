"""What a scan reports. The JSON report is these classes, field by field.

`scan-report.schema.json` in `_report` describes the JSON form. A change of meaning raises
`SCHEMA_VERSION`. Files appear by name, never by path.

A detector gives one `Evidence`. Its tables, charts and galleries are data, so every report form can
show a detector that it has never heard of. Its `numbers` are for programs (`onnx_soda._numbers`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal, TypeVar

from onnx_soda._errors import explained
from onnx_soda._rules import Severity
from onnx_soda._system import read_plain

SCHEMA_VERSION = "2.1"

Verdict = Literal["clean", "backdoor", "inconclusive", "unsafe", "no finding"]
FILES = "files"
"""The method of reports on what was looked at as a file, and not run."""
Cell = str | int | float | None
"""A cell of a table."""
ColumnKind = Literal["text", "count", "number", "signed", "share"]
"""How people read a column: words, whole numbers, "0.123", "+0.12", "12 %"."""


@dataclass(frozen=True)
class ToolInfo:
    """The program that wrote the report."""

    name: str
    version: str


@dataclass(frozen=True)
class InputInfo:
    """The image input: its name, declared shape (None for free sizes), dtype and layout."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str
    layout: str


@dataclass(frozen=True)
class ExternalDataInfo:
    """A file beside the model that holds weights."""

    file: str
    sha256: str


@dataclass(frozen=True)
class ModelInfo:
    """The model that was scanned, and the tensors picked in it; "" where none could be.

    Of a file that was refused, only name and digest are known; numbers are 0.
    """

    file: str
    sha256: str
    external_data: tuple[ExternalDataInfo, ...]
    opset: int
    ir_version: int
    producer: str
    parameters: int
    input: InputInfo
    logits: str
    penultimate: str


@dataclass(frozen=True)
class DatasetInfo:
    """The clean set, what was taken of it, and how well the model does on that.

    Attributes:
        file: Name of the file or folder.
        sha256: Its digest.
        classes: Number of classes with images.
        samples: Number of images used.
        samples_per_class: The most of one class.
        accuracy: Share of the images used whose label the model gives.
        preprocessing: How pixels were turned into input; where it was inferred, with the accuracy
            and the runner-up.
        class_names: Names of the classes, where known.
        notes: Sentences about how the file was read.
        suggested_class_map: Where the model has the classes in another order than the labels, as
            its answers show: the class of the model for each label, as `class_map` takes it. None
            in place of a class where the class map that was given leaves the label out.
    """

    file: str
    sha256: str
    classes: int
    samples: int
    samples_per_class: int
    accuracy: float
    preprocessing: Mapping[str, Any]
    class_names: tuple[str, ...] | None
    notes: tuple[str, ...]
    suggested_class_map: Mapping[str, int | None] | None = None


@dataclass(frozen=True)
class Acceptance:
    """A finding that is known; see `onnx_soda._baseline`.

    Attributes:
        reason: Why it is accepted.
        expires: The last day on which it is, as YYYY-MM-DD.
    """

    reason: str
    expires: str


@dataclass(frozen=True)
class Finding:
    """Something that speaks against the model.

    Attributes:
        rule_id: Stable identifier of the rule, see `onnx_soda._rules`.
        severity: "high" where it is reason enough not to use the model, "medium" where a person
            should look at it, "low" and "info" where it is merely unusual.
        victim_class: Class whose images are turned; None where it cannot be told, or for rules
            that are not about classes.
        target_class: Class they are turned into; None as above.
        score: Value of the statistic; larger is more abnormal. For concepts the bound that it is
            above. None for rules without one.
        threshold: The score over which the rule reports.
        message: What was found, in one sentence.
        location: Where: names of nodes, tensors or files; empty where it is the model's behaviour.
        advice: What to do about it: the rule's, see `onnx_soda._rules`.
        accepted: Why it does not count; None where it does.
    """

    rule_id: str
    severity: Severity
    victim_class: int | None
    target_class: int | None
    score: float | None
    threshold: float | None
    message: str
    location: tuple[str, ...] = ()
    advice: str = ""
    accepted: Acceptance | None = None


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and how people read what is in it."""

    name: str
    kind: ColumnKind = "text"


@dataclass(frozen=True)
class Table:
    """A table of evidence.

    Attributes:
        title: Heading.
        text: What it says, for people; may be empty.
        columns: Headings, with the kind of their cells.
        rows: Cells, as many as columns; None for an empty one.
        marked: Numbers of the rows that stand out.
    """

    title: str
    text: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chart:
    """Numbers to draw.

    Attributes:
        kind: "bars" draws a bar for each name; "heat map" draws a row of cells for each; "lines"
            draws a line for each of `series` over the names, which stand on the axis.
        title: Heading.
        text: What is to be seen, in words.
        names: Of the bars, or of rows and columns.
        values: A row per name: one number for bars, a count per name for a heat map, a share from 0
            to 1 per series for lines.
        marked: Numbers of the bars that stand out.
        limit: A line across all bars; None without one.
        across: What the columns of a heat map are, or the names on the axis.
        down: What its rows are, or what lines show.
        series: Names of the lines; `marked` are numbers of these.
    """

    kind: Literal["bars", "heat map", "lines"]
    title: str
    text: str
    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    marked: tuple[int, ...] = ()
    limit: float | None = None
    across: str = ""
    down: str = ""
    series: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """One image or several side by side.

    Attributes:
        images: PNG data URIs, left to right.
        alt: What each shows, for people who do not see it.
        caption: What the model says, or what there is to see.
        marked: Whether the picture stands out.
    """

    images: tuple[str, ...]
    alt: tuple[str, ...]
    caption: str
    marked: bool = False


@dataclass(frozen=True)
class Gallery:
    """Pictures with a heading, and what to look for in them."""

    title: str
    text: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Box:
    """A box of a drawing.

    Attributes:
        name: What it stands for: the name of a node, or words.
        kind: Its operator, or what else it is.
        row: Its place from the top.
        column: Its place from the left.
        marked: Whether it stands out.
    """

    name: str
    kind: str
    row: int
    column: int = 0
    marked: bool = False


@dataclass(frozen=True)
class Drawing:
    """A part of the graph to draw, downwards.

    Attributes:
        title: Heading.
        text: The main way through it, in one line.
        boxes: What it consists of.
        arrows: Numbers of the boxes that each arrow leads from and to.
    """

    title: str
    text: str
    boxes: tuple[Box, ...]
    arrows: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Evidence:
    """What one detector saw.

    Attributes:
        detector: Name of the detector.
        title: What it examines, as a heading.
        verdict: What this detector alone says.
        reasons: Why, in sentences; the first one is the main one.
        findings: What speaks for a backdoor, the strongest first.
        unclear: Something lies between what is clean and what is reported.
        unexamined: Sentences about what it did not examine.
        notes: Sentences for a verdict that another detector decides.
        tables: Numbers for people.
        charts: Numbers to draw.
        galleries: Pictures for people to judge.
        drawings: Parts of the graph to draw.
        numbers: The same for programs; see `onnx_soda._numbers` for the detectors of this package.
    """

    detector: str
    title: str
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    unclear: bool = False
    unexamined: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)


StopCause = Literal["time limit", "aim", "interrupt"]
"""Why a scan ended before it was complete: the time that its process may take was over, or the
time that it aims at, or it was interrupted."""


class Halted(BaseException):
    """A scan is to end early; raised by what it calls as it goes on.

    What is done by then is reported. It is no `Exception`: what goes on after an error must not
    take it for one.

    Attributes:
        why: The cause.
        evidence: What the detector at work has seen by then; None where that is nothing.
    """

    def __init__(self, why: StopCause, evidence: Evidence | None = None) -> None:
        super().__init__(why)
        self.why: StopCause = why
        self.evidence = evidence


@dataclass(frozen=True)
class Coverage:
    """What was examined.

    Attributes:
        classes: Number of source classes.
        samples: Number of images.
        passes: Images that went through the model, changed or not, each as often as it did. What
            went through a part of it counts as this part's share of the multiplications.
    """

    classes: int
    samples: int
    passes: int = 0


@dataclass(frozen=True)
class SandboxInfo:
    """What confined the process that opened the model.

    Attributes:
        active: It was a child process made for this; otherwise the caller's own, unconfined.
        files: It could read nothing but the program and its inputs, and write nowhere else.
        network: It had no network and could start no program.
        memory: Bytes that it could take; None without a limit.
        seconds: Time that it could take; None without a limit.
        gaps: What could not be confined, in words.
    """

    active: bool
    files: bool
    network: bool
    memory: int | None
    seconds: float | None
    gaps: tuple[str, ...]


NO_SANDBOX = SandboxInfo(
    False, False, False, None, None, ("the model was opened in the caller's own process",)
)


@dataclass(frozen=True)
class Environment:
    """Where the scan ran, and what confined it there."""

    versions: Mapping[str, str]
    providers: tuple[str, ...]
    seed: int
    threads: int
    sandbox: SandboxInfo = NO_SANDBOX


@dataclass(frozen=True)
class ScanReport:
    """Result of a scan.

    Attributes:
        schema_version: Version of this form.
        tool: The program.
        model: The model.
        dataset: The clean set; None without one.
        method: The detector that decided about the model's behaviour; "files" where only the file
            was looked at.
        verdict: "clean", "backdoor", "inconclusive", or "unsafe": the file was refused since
            something in it is dangerous, and was not scanned. A look at the file alone says
            "no finding" where it found nothing as severe as "medium".
        reasons: Why, in sentences; the first one is the main one.
        findings: What speaks for a backdoor, the strongest first.
        evidence: What each detector saw, by its name.
        coverage: What was examined.
        environment: Where the scan ran.
        timing: Seconds per stage, and in all.
        stopped: Why the scan ended before it was complete; None where it did not. The reasons say
            what was not examined, and the verdict is never "clean".
        created: When the report was made, as 2026-01-31T12:00:00Z: in UTC. Empty in reports of
            older versions.
    """

    schema_version: str
    tool: ToolInfo
    model: ModelInfo
    dataset: DatasetInfo | None
    method: str
    verdict: Verdict
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]
    evidence: Mapping[str, Evidence]
    coverage: Coverage
    environment: Environment
    timing: Mapping[str, float]
    stopped: StopCause | None = None
    created: str = ""


Numbers = TypeVar("Numbers")


def numbers_of(report: ScanReport, detector: str, kind: type[Numbers]) -> Numbers | None:
    """Return a detector's numbers as a class; None where it did not run or has none.

    Args:
        report: The scan.
        detector: Name of the detector.
        kind: Class of its numbers, see `onnx_soda._numbers`.

    Raises:
        msgspec.ValidationError: The report holds something else.
    """
    evidence = report.evidence.get(detector)
    if evidence is None or not evidence.numbers:
        return None
    numbers: Numbers = read_plain(evidence.numbers, kind)
    return numbers


def named_pairs(report: ScanReport) -> Iterator[tuple[int, int]]:
    """Yield the pairs of victim and target class that a report names, the strongest first.

    Only a report with the verdict "backdoor" names any.
    """
    if report.verdict != "backdoor":
        return
    for finding in report.findings:
        if finding.victim_class is not None and finding.target_class is not None:
            yield finding.victim_class, finding.target_class


@dataclass(frozen=True)
class ScanFailure:
    """A model that could not be scanned.

    Attributes:
        file: Name of the file, without its folder.
        message: Why not, in one sentence.
        advice: What to do about it; may be empty.
        rule_id: The rule by which the file was refused, as "SODA303"; None where none applies.
    """

    file: str
    message: str
    advice: str
    rule_id: str | None


Outcome = ScanReport | ScanFailure

_NO_INPUT = InputInfo("", (), "", "")


def report_of_file(
    file: str,
    sha256: str,
    verdict: Verdict,
    reasons: tuple[str, ...],
    findings: tuple[Finding, ...],
    seconds: float,
    evidence: Mapping[str, Evidence] | None = None,
    sandbox: SandboxInfo = NO_SANDBOX,
) -> ScanReport:
    """Return a report on a file that was looked at and not run.

    Args:
        file: Its name.
        sha256: Its digest; "" where it has none, as a folder.
        verdict: What it comes to.
        reasons: Why.
        findings: What was found in the file.
        seconds: Time taken.
        evidence: What was seen in it.
        sandbox: What confined the process that looked.
    """
    return ScanReport(
        schema_version=SCHEMA_VERSION,
        tool=ToolInfo("onnx-soda", version("onnx-soda")),
        model=ModelInfo(file, sha256, (), 0, 0, "", 0, _NO_INPUT, "", ""),
        dataset=None,
        method=FILES,
        verdict=verdict,
        reasons=reasons,
        findings=findings,
        evidence=evidence or {},
        coverage=Coverage(0, 0),
        environment=Environment({}, (), 0, 1, sandbox),
        timing={"total": seconds},
    )


def failure_of(file: str, error: Exception) -> ScanFailure:
    """Return what is reported of an error that ended a scan."""
    told = explained(error)
    return ScanFailure(file, told.message, told.advice, told.rule_id)
