"""The report for people, as rich renderables; printing them is the command line's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnx_soda._answers import RepairAnswer
from onnx_soda._report.formats import (
    Context,
    RepairFormat,
    Scanned,
    class_names,
    evidence_in_order,
    pair_text,
    skipped_text,
    worst_finding,
)
from onnx_soda._report.guidance import score_sentences
from onnx_soda._report.repair_text import render_repair
from onnx_soda._report.tables import (
    SEVERITY_STYLES,
    evidence_table,
    fact_table,
    finding_table,
    indented,
    known_text,
    place_text,
    shape_text,
)
from onnx_soda._results import (
    FILES,
    DatasetInfo,
    Finding,
    ModelInfo,
    ScanFailure,
    ScanReport,
)
from onnx_soda._words import pair_label, printable

_COLOURS = {
    "clean": "green", "backdoor": "red", "inconclusive": "yellow", "unsafe": "red",
    "no finding": "default",
}  # fmt: skip
_BATCH_STYLES = {**_COLOURS, "backdoor": "bold red", "unsafe": "bold red"}


class TextFormat(RepairFormat):
    """The report for people at a terminal: one model in full, or a row for each of many."""

    name: ClassVar[str] = "text"
    failures: ClassVar[bool] = False

    def render(self, scanned: Sequence[Scanned], context: Context) -> RenderableType:
        """See `Format.render`."""
        outcome = scanned[0].outcome
        if context.single and isinstance(outcome, ScanReport):
            return render_report(outcome)
        lines = (_file_summary(scanned), skipped_text(context.skipped))
        return Group(batch_table(scanned), *(Text(printable(line)) for line in lines if line))

    def render_repair(
        self, answer: RepairAnswer, written: str | None, context: Context
    ) -> RenderableType:
        """See `RepairFormat.render_repair`."""
        del context
        return render_repair(answer.summary, answer.model.file, answer.class_names, written)


def _file_summary(scanned: Sequence[Scanned]) -> str:
    """Say in how many files nothing was found, where files were looked at and not scanned."""
    reports = [one.outcome for one in scanned if isinstance(one.outcome, ScanReport)]
    if not reports or any(FILES not in report.evidence for report in reports):
        return ""
    passed = sum(report.verdict == "no finding" for report in reports)
    return (
        f"No finding in {passed} of {len(scanned)} files. This looks at files alone; it does not "
        "look for backdoors."
    )


def batch_table(scanned: Sequence[Scanned]) -> Table:
    """Return a row for each model."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("model", "verdict", "finding", "pair", "seconds"):
        table.add_column(name, overflow="fold", justify="right" if name == "seconds" else "left")
    for one in scanned:
        failed = isinstance(one.outcome, ScanFailure)
        verdict = "failed" if isinstance(one.outcome, ScanFailure) else one.outcome.verdict
        table.add_row(
            Text(printable(one.given)),
            Text(verdict, "bold magenta" if failed else _BATCH_STYLES[verdict]),
            *_worst(one),
            "cached" if one.cached else f"{one.seconds:.1f}",
        )
    return table


def _worst(one: Scanned) -> tuple[Text, Text]:
    """Return the most severe finding of a model and its pair, or why it could not be scanned."""
    outcome = one.outcome
    if isinstance(outcome, ScanFailure):
        rule = f"{outcome.rule_id}: " if outcome.rule_id else ""
        return Text(printable(rule + outcome.message)), Text()
    worst = worst_finding(outcome)
    if worst is None:
        return Text(), Text()
    known = ", accepted" if worst.accepted else ""
    why = f": {worst.message}" if outcome.method == FILES and worst.severity != "info" else ""
    return (
        Text(printable(f"{worst.rule_id} {worst.severity}{known}{why}")),
        Text(printable(pair_text(outcome, worst))),
    )


def render_report(report: ScanReport) -> RenderableType:
    """Return a report as something that a rich console can print."""
    parts: list[RenderableType] = [_headline(report), Text()]
    if report.method == FILES:
        parts.append(fact_table([("sha256", report.model.sha256)]))
    else:
        parts.append(_examined(report.model, report.dataset, report.created))
    for evidence in evidence_in_order(report):
        for table in evidence.tables:
            if table.rows:
                parts.extend([Text(), evidence_table(table)])
        parts.extend(
            indented(Text(printable(f"{drawing.title}: {drawing.text}")))
            for drawing in evidence.drawings
        )
    others = [finding for finding in report.findings if finding.message not in report.reasons]
    if others:
        parts.extend([Text(), finding_table(others, "Other findings")])
    # Last, where a terminal shows it: what it comes to.
    parts.extend([Text(), Text(f"Why {report.verdict}", style="bold")])
    parts.extend(indented(_reason(reason, report.findings)) for reason in report.reasons)
    parts.extend(indented(Text(told, style="dim")) for told in score_sentences(report))
    if report.findings:
        parts.append(Text("`onnx-soda explain ID` says what a rule means.", style="dim"))
    return Group(*parts)


def _reason(reason: str, findings: Sequence[Finding]) -> Text:
    """Return a reason, behind the rules of the findings that it is the message of."""
    found = [finding for finding in findings if finding.message == reason]
    if not found:
        return Text(printable(reason))
    rules = " ".join(dict.fromkeys(finding.rule_id for finding in found))
    severity = found[0].severity
    style = SEVERITY_STYLES[severity]
    return Text.assemble(
        (f"{rules} {severity} ", style),
        printable(known_text(found[0]) + reason + place_text(found[0])),
    )


def _headline(report: ScanReport) -> Text:
    names = class_names(report)
    line = Text.assemble(
        (printable(report.model.file), "bold"),
        ": ",
        (report.verdict.upper(), f"bold {_COLOURS[report.verdict]}"),
    )
    pairs = ((finding.victim_class, finding.target_class) for finding in report.findings)
    for victim, target in dict.fromkeys(pairs):
        if target is not None:
            line.append(f"\n  {printable(pair_label(victim, target, names))}", "bold")
    return line


def _examined(model: ModelInfo, dataset: DatasetInfo | None, created: str) -> Table:
    rows = [
        ("model", f"{model.parameters:,} parameters, opset {model.opset}, {model.producer or '?'}"),
        ("sha256", model.sha256),
        *([("scanned", created)] if created else []),
        ("input", f"{model.input.name} {shape_text(model.input.shape)} {model.input.dtype}"),
        ("logits", model.logits),
        ("layer", model.penultimate or "none"),
    ]
    if dataset is None:
        return fact_table([*rows, ("clean set", "none given")])
    rows.append(
        (
            "clean set",
            f"{dataset.file}: {dataset.samples} images of {dataset.classes} classes, "
            f"accuracy {dataset.accuracy:.1%}",
        )
    )
    rows.append(("preprocessing", _preprocessing(dataset)))
    rows.extend(("", note) for note in dataset.notes)
    return fact_table(rows)


def _preprocessing(dataset: DatasetInfo) -> str:
    chosen = dataset.preprocessing
    size = chosen.get("size")
    sized = f", {size[0]} x {size[1]} pixels" if size else ""
    if not chosen["inferred"]:
        return f"{chosen['name']} (given){sized}"
    trial = chosen["trial"]
    text = (
        f"{chosen['name']} (inferred: accuracy {trial['accuracy']:.1%} on {trial['images']} images"
    )
    if trial["runner_up"]:
        text += f"; next {trial['runner_up']} {trial['runner_up_accuracy']:.1%}"
    return f"{text}){sized}"
