"""Repair: model, clean set and pair in; repaired model and proof out (paper, section 3.3).

Nothing but the clean set teaches it: one part is trained on, one chooses the settings, one
measures the result, in ONNX Runtime, on the model as it is written. Real trigger images, where
given, are looked at when all is decided.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import onnx

from onnx_soda._answers import RepairSummary
from onnx_soda._bridge.bridge import require_torch
from onnx_soda._data.datasets import CleanSet
from onnx_soda._detect.concepts.concept import concept_of
from onnx_soda._errors import RepairError
from onnx_soda._model.load import OnnxModel
from onnx_soda._numbers import ConceptNumbers, OpinionNumbers, PairNumbers
from onnx_soda._options import Progress, ReferenceFlows, RepairOptions, no_progress
from onnx_soda._repair.preparation import Task
from onnx_soda._repair.teachers import Teachers, teachers_of
from onnx_soda._results import ScanReport, named_pairs, numbers_of
from onnx_soda._scan import scan_suspect
from onnx_soda._suspect import Suspect
from onnx_soda._system import Clock, as_utc

if TYPE_CHECKING:  # it imports torch
    from onnx_soda._repair.work import Result


@dataclass(frozen=True, eq=False)
class RepairReport:
    """A repair with all that belongs to it.

    Attributes:
        summary: What was done and what it came to.
        scan: The scan that found the pair; None where the pair was given.
        model: The repaired model; None where nothing was repaired.
    """

    summary: RepairSummary
    scan: ScanReport | None
    model: onnx.ModelProto | None = field(repr=False)


def repair(
    model: OnnxModel,
    clean: CleanSet,
    report: ScanReport | None = None,
    *,
    pair: tuple[int, int] | None = None,
    also: Sequence[int] = (),
    options: RepairOptions | None = None,
    triggers: CleanSet | None = None,
    progress: Progress = no_progress,
    references: Sequence[OnnxModel | ReferenceFlows] = (),
) -> RepairReport:
    """Remove a semantic backdoor from a classifier, in this process.

    Args:
        model: The model, from `load_model`.
        clean: Clean labelled images, from `load_dataset`.
        report: A scan of the model; made where neither it nor a pair is given. The pair, the other
            classes that turn, and the concepts that turn them are taken from it.
        pair: Victim and target class, whatever a scan says; not with `options.whole`.
        also: Other classes that go to the target under the same changes; from the scan where the
            pair is.
        options: See `RepairOptions`.
        triggers: Real trigger images; the success rate of the attack on them is reported, and
            nothing else is done with them.
        progress: Called as the repair goes on.
        references: Other models of the same classes, for the scan before and after, and to teach
            what changed images should be; see `scan`.

    Raises:
        MissingExtraError: torch or onnx2torch is not installed.
        SodaError: The model cannot be repaired, or the clean set does not fit it.
    """
    require_torch()
    from onnx_soda._repair.work import remove_backdoor  # imports torch

    options, clock = options or RepairOptions(), Clock()
    if options.whole and (pair is not None or report is not None):
        raise RepairError(
            "a repair of what stands out most finds the pair itself",
            "Leave out the pair and the report.",
        )
    suspect = Suspect(model, clean, options.scan, progress, references=tuple(references))
    if report is not None:
        _check_same(model, report)
    if pair is None and report is None and not options.whole:
        with clock.stage("scan"):
            report = scan_suspect(suspect)
    task = Task(pair, tuple(also)) if pair else None
    if task is None and report is not None:
        task = task_of(report)
    if task is None and report is not None:
        return RepairReport(_ended(_nothing(report, options), clock), report, None)
    with clock.stage("references"):
        teachers, left_out = teachers_of(suspect, progress)
    task = task or _whole(teachers, left_out)
    result = remove_backdoor(suspect, task, options, triggers, clock, teachers)
    if result.suspect is not None and options.rescan:
        result = _scanned_again(result, result.suspect, clock)
    summary = replace(result.summary, notes=(*left_out, *result.summary.notes))
    return RepairReport(_ended(summary, clock), report, result.model)


def _whole(teachers: Teachers | None, left_out: Sequence[str]) -> Task:
    """Return what stands out most against the references, named or not."""
    if teachers is None:
        raise RepairError(
            " ".join(("a repair without a named pair needs references", *left_out)),
            "Give other models of the same classes as `references`.",
        )
    return Task(*teachers.most_outstanding())


def _ended(summary: RepairSummary, clock: Clock) -> RepairSummary:
    return replace(summary, seconds=clock.seconds, created=as_utc(time.time()))


def task_of(report: ScanReport) -> Task | None:
    """Return what a scan gives to repair: its strongest pair; None where it names none."""
    pair = next(named_pairs(report), None)
    if pair is None:
        return None
    own = [one for one in _pairs(report) if (one.victim_class, one.target_class) == pair]
    also = tuple(dict.fromkeys(label for one in own for label in one.also_turned))
    concepts = next((one.concepts for one in own if one.concepts), ())
    return Task(pair, also, tuple(map(concept_of, concepts)))


def _pairs(report: ScanReport) -> tuple[PairNumbers, ...]:
    """Return the pairs that the deciding detector looked at image by image."""
    opinion = numbers_of(report, "second-opinion", OpinionNumbers)
    if opinion is not None and report.method == "second-opinion":
        return tuple(pair.look for pair in opinion.pairs if pair.look)
    numbers = numbers_of(report, "concepts", ConceptNumbers)
    return numbers.pairs if numbers else ()


def _scanned_again(result: Result, repaired: Suspect, clock: Clock) -> Result:
    with clock.stage("new scan"):
        again = scan_suspect(repaired)
    pairs = tuple(named_pairs(again))
    summary = replace(result.summary, rescan=again.verdict, rescan_pairs=pairs)
    if again.verdict == "backdoor":
        summary = replace(
            summary, outcome="partly repaired", notes=(*summary.notes, _still(again, pairs))
        )
    return replace(result, summary=summary)


def _still(again: ScanReport, pairs: Sequence[tuple[int, int]]) -> str:
    named = ", ".join(f"{victim} -> {target}" for victim, target in pairs)
    return f"The new scan finds a backdoor in the repaired model: {named or again.reasons[0]}."


def _check_same(model: OnnxModel, report: ScanReport) -> None:
    if report.model.sha256 != model.sha256:
        raise RepairError(
            f"the report is about another file than {model.file}", "Scan this model first."
        )


def _nothing(report: ScanReport, options: RepairOptions) -> RepairSummary:
    clear = report.verdict == "clean"
    reason = (
        "The scan found no backdoor; the model is left as it is."
        if clear
        else "The scan cannot tell which class is turned into which; name them to repair anyway."
    )
    return RepairSummary(
        "nothing to repair" if clear else "inconclusive",
        reason,
        None,
        None,
        options.scope,
        options.reconstruction,
        options.method,
    )
