"""The report for people, as rich renderables; printing them is the command line's."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onnx_soda._report.words import class_label, printable
from onnx_soda._results import (
    ConceptReport,
    DatasetInfo,
    Finding,
    ModelInfo,
    ScanReport,
    SodaEvidence,
)

_COLOURS = {"clean": "green", "backdoor": "red", "inconclusive": "yellow"}
_SEVERITY_STYLES = {"high": "bold red", "medium": "yellow", "low": "", "info": "dim"}
# Of a finding's nodes or tensors; JSON has all.
_SHOWN_PLACES = 6
# With more classes than this only the most abnormal ones are shown; JSON has all.
_SHOWN_CLASSES = 12


def render_report(report: ScanReport) -> RenderableType:
    """Return a report as something that a rich console can print."""
    parts: list[RenderableType] = [_headline(report), Text()]
    parts.append(_examined(report.model, report.dataset))
    if report.evidence.concepts is not None:
        parts.extend([Text(), _concepts(report, report.evidence.concepts)])
    if report.evidence.soda is not None:
        parts.extend([Text(), _evidence(report, report.evidence.soda)])
        parts.append(_explanation(report.evidence.soda))
    others = [finding for finding in report.findings if finding.message not in report.reasons]
    if others:
        parts.extend([Text(), finding_table(others, "Other findings")])
    # Last, where a terminal shows it: what it comes to.
    parts.extend([Text(), Text(f"Why {report.verdict}", style="bold")])
    parts.extend(_indented(_reason(reason, report.findings)) for reason in report.reasons)
    if report.findings:
        parts.append(Text("`onnx-soda explain ID` says what a rule means.", style="dim"))
    return Group(*parts)


def _reason(reason: str, findings: Sequence[Finding]) -> Text:
    """Return a reason, behind the rules of the findings that it is the message of."""
    found = [finding for finding in findings if finding.message == reason]
    if not found:
        return Text(printable(reason))
    rules = " ".join(finding.rule_id for finding in found)
    gravest = found[0].severity
    style = _SEVERITY_STYLES[gravest]
    return Text.assemble(
        (f"{rules} {gravest} ", style), printable(_known(found[0]) + reason + _place(found[0]))
    )


def _known(finding: Finding) -> str:
    """Return that a finding is accepted, and why; nothing where it is not."""
    known = finding.accepted
    return f"(accepted until {known.expires}: {known.reason}) " if known else ""


def _place(finding: Finding) -> str:
    """Return where a finding is, in brackets; nothing where it is no place in the file."""
    if not finding.location:
        return ""
    more = len(finding.location) - _SHOWN_PLACES
    shown = ", ".join(finding.location[:_SHOWN_PLACES])
    return f" [{shown} and {more} more]" if more > 0 else f" [{shown}]"


def _headline(report: ScanReport) -> Text:
    names = report.dataset.class_names if report.dataset else None
    line = Text.assemble(
        (printable(report.model.file), "bold"),
        ": ",
        (report.verdict.upper(), f"bold {_COLOURS[report.verdict]}"),
    )
    pairs = ((finding.victim_class, finding.target_class) for finding in report.findings)
    for victim, target in dict.fromkeys(pairs):
        if target is not None:
            line.append(f"\n  {_label(victim, names)} -> {_label(target, names)}", "bold")
    return line


def _label(number: int | None, names: Sequence[str] | None) -> str:
    return "?" if number is None else printable(class_label(number, names))


def fact_table(rows: Sequence[tuple[str, str]]) -> Table:
    """Return a table of names and values."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(printable(value)))
    return table


def finding_table(findings: Sequence[Finding], title: str) -> Table:
    """Return a table of findings: rule, severity, message and place."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        show_header=False,
        pad_edge=False,
        padding=(0, 2),
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        severity = Text(finding.severity, _SEVERITY_STYLES[finding.severity])
        text = Text(printable(_known(finding) + finding.message + _place(finding)))
        table.add_row(finding.rule_id, severity, text)
    return table


def _examined(model: ModelInfo, dataset: DatasetInfo | None) -> Table:
    rows = [
        ("model", f"{model.parameters:,} parameters, opset {model.opset}, {model.producer or '?'}"),
        ("sha256", model.sha256),
        ("input", f"{model.input.name} {shape_text(model.input.shape)} {model.input.dtype}"),
        ("logits", model.logits),
        ("layer", model.penultimate),
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


def shape_text(shape: Sequence[int | str | None] | None) -> str:
    """Return a shape as people write it, with "?" for free sizes."""
    if shape is None:
        return "(...)"
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"


def _preprocessing(dataset: DatasetInfo) -> str:
    chosen = dataset.preprocessing
    if not chosen["inferred"]:
        return f"{chosen['name']} (given)"
    trial = chosen["trial"]
    text = (
        f"{chosen['name']} (inferred: accuracy {trial['accuracy']:.1%} on {trial['images']} images"
    )
    if trial["runner_up"]:
        text += f"; next {trial['runner_up']} {trial['runner_up_accuracy']:.1%}"
    return text + ")"


def _concepts(report: ScanReport, evidence: ConceptReport) -> RenderableType:
    names = report.dataset.class_names if report.dataset else None
    title = f"Changes of images and of features ({evidence.concepts} tried)"
    table = Table(title=title, title_justify="left", title_style="bold", box=None)
    table.add_column("pair", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("90 % interval", justify="right", no_wrap=True)
    table.add_column("surely over", justify="right", no_wrap=True)
    table.add_column("turned", justify="right", no_wrap=True)
    table.add_column("others right", justify="right", no_wrap=True)
    table.add_column("change", overflow="fold")
    for pair in evidence.pairs:
        classes = (pair.victim_class, pair.target_class)
        victim, target = (printable(class_label(number, names)) for number in classes)
        table.add_row(
            Text(f"{victim} -> {target}"),
            Text(f"{pair.score:+.2f}", "bold red" if pair.bound > evidence.threshold else ""),
            f"{pair.low:+.2f} to {pair.high:+.2f}",
            f"{pair.bound:+.2f}",
            f"{pair.turned} of {pair.shown}",
            f"{pair.others_right_under:.0%}",
            Text(printable(pair.concept)),
        )
    text = Text(
        f"A pair scores where a change of the image, or another image's style half way through "
        f"the network, turns clean images of one class into the other, a reference fitted to "
        f"clean images alone does not follow, and the other classes stay what they are. Reported "
        f"where it is surely over {evidence.threshold:g}: with 95 % confidence for all pairs of "
        f"classes together. Tried on {evidence.probe_images} images; reference fitted to "
        f"{evidence.fit_images}.",
        style="dim",
    )
    return Group(table, _indented(text))


def _evidence(report: ScanReport, evidence: SodaEvidence) -> Table:
    names = report.dataset.class_names if report.dataset else None
    targets = list(evidence.target_logit_by_source)
    table = Table(
        title="Causal analysis of the last layer (SODA)",
        title_justify="left",
        title_style="bold",
        box=None,
    )
    table.add_column("class", justify="right")
    table.add_column("PCC", justify="right")
    table.add_column("anomaly index", justify="right")
    for target in targets:
        table.add_column(Text(printable(f"mean logit of {target}")), justify="right")
    order = sorted(range(len(evidence.pcc)), key=evidence.anomaly_index.__getitem__)
    shown = range(len(order)) if len(order) <= _SHOWN_CLASSES else order[:_SHOWN_CLASSES]
    for number in shown:
        index = evidence.anomaly_index[number]
        logits = (evidence.target_logit_by_source[t].get(str(number)) for t in targets)
        table.add_row(
            Text(printable(class_label(number, names))),
            f"{evidence.pcc[number]:.3f}",
            Text(f"{index:+.2f}", "bold red" if index < -evidence.threshold else ""),
            *("" if logit is None else f"{logit:+.2f}" for logit in logits),
        )
    return table


def _explanation(evidence: SodaEvidence) -> RenderableType:
    hidden = len(evidence.pcc) - _SHOWN_CLASSES
    more = (
        f" {hidden} less abnormal classes are left out here; JSON has them." if hidden > 0 else ""
    )
    text = Text(
        f"do(x = {_formula(evidence.a, evidence.b)}) on {evidence.neurons} neurons, "
        f"{printable(evidence.method)}. A class whose anomaly index is under "
        f"-{evidence.threshold:g} is reached through neurons that serve no other class.{more}",
        style="dim",
    )
    return _indented(text)


def _indented(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 2))


def _formula(a: float, b: float) -> str:
    """Return "a x + b" as people write it."""
    scaled = "x" if a == 1 else f"{a:g} x"
    return f"{scaled} {'-' if b < 0 else '+'} {abs(b):g}"
