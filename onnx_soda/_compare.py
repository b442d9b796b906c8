"""Several detectors about one model, and their answers side by side, as one report.

Each scans by itself (`onnx_soda._batch.scan_one`), so that one that fails costs itself alone. What
decides is what decides a scan: the detectors of other authors, and the paper's statistic alone,
flag many clean models. Where one of them flags something and the scan does not, nothing is called
clean.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from onnx_soda._batch import scan_one
from onnx_soda._cache import Cache
from onnx_soda._detect.base import DETECTORS
from onnx_soda._errors import OptionError, SodaError
from onnx_soda._options import Progress, ScanRequest, no_progress
from onnx_soda._results import Cell, Column, Evidence, Finding, ScanReport, Table, Verdict
from onnx_soda._verdict import ALONE, ALWAYS, BESIDE, WITH_REFERENCES, in_order
from onnx_soda._words import pair_label

COMPARISON = "comparison"
"""Method of the report, and name of the evidence that has the table."""
_TITLE = "Detectors side by side"
_DECIDING = (WITH_REFERENCES, ALONE)
# Pairs of one detector that the table names.
_SHOWN_PAIRS = 3


@dataclass(frozen=True)
class Answer:
    """What one detector said.

    Attributes:
        method: Its name.
        report: Its scan; None where it could not scan.
        problem: Why it could not.
        seconds: How long it took.
    """

    method: str
    report: ScanReport | None
    problem: str = ""
    seconds: float = 0.0

    @property
    def evidence(self) -> Evidence | None:
        """What the detector itself saw."""
        return self.report.evidence.get(self.method) if self.report else None

    @property
    def outcome(self) -> str:
        """What it comes to, in a few words."""
        evidence = self.evidence
        if evidence is None:
            return f"failed: {self.problem}" if self.problem else "not run"
        return str(evidence.numbers.get("outcome", evidence.verdict))


def methods_of(given: str | None, references: bool) -> tuple[str, ...]:
    """Return the names of the detectors to compare.

    Args:
        given: Names with commas between them; None for all that there are.
        references: Whether there are reference models, for the second opinion.

    Raises:
        OptionError: There is none of a name, or none is named.
    """
    if given is None:
        apart = ALWAYS if references else (*ALWAYS, WITH_REFERENCES)
        return tuple(name for name in DETECTORS.names if name not in apart)
    names = tuple(dict.fromkeys(filter(None, map(str.strip, given.split(",")))))
    for name in names:
        DETECTORS.find(name)
    if not names:
        raise OptionError("no detector is named", f"Name some of {', '.join(DETECTORS.names)}.")
    return names


def compare(
    request: ScanRequest,
    methods: Sequence[str],
    cache: Cache | None = None,
    progress: Progress = no_progress,
) -> ScanReport:
    """Scan one model by one detector after the other.

    Args:
        request: What to scan, and how; its own method is not asked.
        methods: Names of detectors, see `methods_of`.
        cache: As for `scan_one`.
        progress: Called as each goes on.

    Raises:
        SodaError: None of them could scan it: the first one's error.
    """
    answers, errors = list[Answer](), list[SodaError]()
    for method in methods:
        asked = replace(request, options=replace(request.options, method=method))
        begin = time.perf_counter()
        try:
            report, _ = scan_one(asked, cache, partial(_within, method, progress))
        except SodaError as error:
            errors.append(error)
            answers.append(Answer(method, None, error.message))
            continue
        if report.verdict == "unsafe":
            return report
        answers.append(Answer(method, report, seconds=time.perf_counter() - begin))
        if report.stopped == "interrupt":
            break
    if all(answer.report is None for answer in answers):
        raise errors[0]
    return side_by_side(answers)


def _within(method: str, progress: Progress, stage: str, done: int, total: int) -> None:
    progress(f"{method}: {stage}", done, total)


def side_by_side(answers: Sequence[Answer]) -> ScanReport:
    """Put the answers of detectors together.

    Args:
        answers: At least one with a report.
    """
    scans = {answer.method: answer.report for answer in answers if answer.report}
    first = next((scans[name] for name in _DECIDING if name in scans), next(iter(scans.values())))
    comparison = _comparison(answers)
    own = {one.method: one.evidence for one in answers if one.evidence}
    others = {name: one for name, one in first.evidence.items() if name not in own}
    told = [report for name, report in scans.items() if name not in BESIDE] or [first]
    findings = dict.fromkeys(finding for report in told for finding in report.findings)
    return replace(
        first,
        method=COMPARISON,
        verdict=comparison.verdict,
        reasons=(*comparison.reasons, *_reasons(first)),
        findings=in_order(findings),
        evidence={COMPARISON: comparison, **own, **others},
        coverage=replace(
            first.coverage, passes=sum(report.coverage.passes for report in scans.values())
        ),
        timing={
            **{answer.method: answer.seconds for answer in answers},
            "total": sum(answer.seconds for answer in answers),
        },
        stopped=next((report.stopped for report in scans.values() if report.stopped), None),
    )


def _reasons(report: ScanReport) -> tuple[str, ...]:
    """Return why the deciding scan says what it says; the others' reasons are in the table."""
    return report.reasons if report.method in _DECIDING else ()


def _comparison(answers: Sequence[Answer]) -> Evidence:
    verdict = _verdict(answers)
    flagged = [answer for answer in answers if _named(answer)]
    names = ", ".join(answer.method for answer in flagged)
    reason = (
        f"{len(flagged)} of {len(answers)} detectors flag something: {names}."
        if flagged
        else f"None of {len(answers)} detectors flags anything."
    )
    return Evidence(
        detector=COMPARISON,
        title=_TITLE,
        verdict=verdict,
        reasons=(reason,),
        unexamined=tuple(
            f"The detector {answer.method} could not scan: {answer.problem}."
            for answer in answers
            if answer.problem
        ),
        tables=(_table(answers, flagged),),
    )


def _verdict(answers: Sequence[Answer]) -> Verdict:
    """Decide by those detectors that decide a scan; others only keep a model from being clean."""
    verdicts = [one.report.verdict for one in answers if one.report and one.method in _DECIDING]
    if "backdoor" in verdicts:
        return "backdoor"
    clean = "clean" in verdicts and not any(map(_named, answers))
    return "clean" if clean else "inconclusive"


def _named(answer: Answer) -> tuple[Finding, ...]:
    """Return what a detector itself flags."""
    return answer.evidence.findings if answer.evidence else ()


def _table(answers: Sequence[Answer], flagged: Sequence[Answer]) -> Table:
    return Table(
        _TITLE,
        "Each scanned by itself, with the same images. A score means something else for each. "
        "Passes are those of the whole scan, reading the clean images included.",
        (
            Column("detector"),
            Column("outcome"),
            Column("flags"),
            Column("score", "number"),
            Column("from", "number"),
            Column("passes", "count"),
            Column("seconds", "number"),
        ),
        tuple(_row(answer) for answer in answers),
        tuple(row for row, answer in enumerate(answers) if answer in flagged),
    )


def _row(answer: Answer) -> tuple[Cell, ...]:
    findings, report = _named(answer), answer.report
    return (
        answer.method,
        answer.outcome,
        ", ".join(_pairs(answer)),
        findings[0].score if findings else None,
        findings[0].threshold if findings else None,
        report.coverage.passes if report else None,
        answer.seconds,
    )


def _pairs(answer: Answer) -> Iterator[str]:
    assert answer.report is not None or not _named(answer)  # noqa: S101 - findings have a report
    data = answer.report.dataset if answer.report else None
    shown = _named(answer)[:_SHOWN_PAIRS]
    for finding in shown:
        if finding.target_class is not None:
            victim, target = finding.victim_class, finding.target_class
            yield pair_label(victim, target, data.class_names if data else None)
    if len(_named(answer)) > len(shown):
        yield f"and {len(_named(answer)) - len(shown)} more"
