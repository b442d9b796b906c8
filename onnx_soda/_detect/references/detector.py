"""The second opinion as a detector: which pairs the suspect turns and its references do not.

It decides nothing yet: no threshold has been calibrated. The report shows it as evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from onnx_soda._detect.base import Detector, Need
from onnx_soda._detect.concepts.experiment import why_not_tried
from onnx_soda._detect.references.bank import concept_bank
from onnx_soda._detect.references.flows import Flows, bank_flows, hear
from onnx_soda._detect.references.score import SecondOpinion, second_opinion
from onnx_soda._errors import SodaError
from onnx_soda._model.load import OnnxModel
from onnx_soda._numbers import OpinionNumbers, OpinionPair, ReferenceUsed, plain
from onnx_soda._options import Progress, ReferenceFlows
from onnx_soda._results import Column, Evidence, Table
from onnx_soda._suspect import Suspect
from onnx_soda._words import pair_label, printable

_TITLE = "A second opinion: other models under the same changes"
_UNDECIDED = "A second opinion decides nothing yet: no threshold has been calibrated."
# The most pairs shown, of those that score.
_SHOWN = 5
# A reference may be worse than the suspect by so much clean accuracy. One that knows the images
# badly sends them anywhere.
_WORSE = 0.2


@dataclass(frozen=True, eq=False)
class _Voice:
    """A reference that was heard."""

    used: ReferenceUsed
    flows: Flows


class SecondOpinionDetector(Detector):
    """Compares what the suspect makes of a bank of concepts with what references make of it."""

    name: ClassVar[str] = "second-opinion"
    needs: ClassVar[frozenset[Need]] = frozenset({"clean images"})

    def run(self, suspect: Suspect, progress: Progress) -> Evidence:
        """Ask every reference, and rank the pairs; see `Detector.run`."""
        untried = why_not_tried(suspect.clean, suspect.classes or 0)
        if untried is not None or not suspect.references:
            return _nothing(self.name, untried or "No reference models were given.")
        own = bank_flows(suspect, lambda done, of: progress("concepts of the bank", done, of))
        voices, left_out = _hear(suspect, own, progress)
        if not voices:
            nothing = _nothing(self.name, "No reference can be used.")
            return replace(nothing, reasons=(*nothing.reasons, *left_out), notes=tuple(left_out))
        opinion = second_opinion(own, [voice.flows for voice in voices])
        numbers = _numbers(suspect, own, voices, left_out, opinion)
        return Evidence(
            detector=self.name,
            title=_TITLE,
            verdict="inconclusive",
            reasons=(_UNDECIDED, *left_out),
            unexamined=tuple(left_out),
            notes=tuple(left_out),
            tables=(_pairs_table(numbers, _names(suspect)), _references_table(numbers)),
            numbers=plain(numbers),
        )


def _nothing(name: str, reason: str) -> Evidence:
    return Evidence(name, _TITLE, "inconclusive", (reason,), unexamined=(reason,))


def _hear(suspect: Suspect, own: Flows, progress: Progress) -> tuple[list[_Voice], list[str]]:
    """Ask the references; return what they say, and why some are left out."""
    voices: list[_Voice] = []
    left_out: list[str] = []
    for done, reference in enumerate(suspect.references):
        heard = reference if isinstance(reference, ReferenceFlows) else _ask(suspect, reference)
        answer = _admit(suspect, own, heard)
        if isinstance(answer, str):
            left_out.append(f"The reference {printable(heard.file)} is left out: {answer}.")
        else:
            voices.append(answer)
        progress("references", done + 1, len(suspect.references))
    return voices, left_out


def _ask(suspect: Suspect, model: OnnxModel) -> ReferenceFlows:
    """Ask a model in this process."""
    assert suspect.clean is not None  # noqa: S101 - the detector needs clean images
    try:
        return hear(model, suspect.clean, suspect.options)
    except SodaError as error:
        return ReferenceFlows(model.file, problem=error.message)


def _admit(suspect: Suspect, own: Flows, heard: ReferenceFlows) -> _Voice | str:
    """Return a reference that can be compared with, or why it cannot."""
    if heard.problem:
        return heard.problem
    if heard.sha256 == suspect.model.sha256:
        return "it is the suspect itself"
    if heard.shape[3] != suspect.classes:
        return f"it has {heard.shape[3]} classes and the suspect {suspect.classes}"
    mine = suspect.examined.accuracy or 0.0
    # Written so that an accuracy that is no number is left out, too.
    if not heard.accuracy >= max(mine - _WORSE, suspect.options.min_accuracy):
        return (
            f"it gives {heard.accuracy:.1%} of the clean images their label, the suspect "
            f"{mine:.1%}; its classes may be in another order"
        )
    used = ReferenceUsed(heard.file, heard.sha256, heard.accuracy, heard.preprocessing)
    try:
        flows = Flows.of(heard)
    except ValueError as error:
        return str(error)
    if not own.comparable(flows):
        return "it was shown other images, or another bank of concepts"
    return _Voice(used, flows)


def _numbers(
    suspect: Suspect,
    own: Flows,
    voices: Sequence[_Voice],
    left_out: Sequence[str],
    opinion: SecondOpinion,
) -> OpinionNumbers:
    assert suspect.clean is not None  # noqa: S101 - the detector needs clean images
    bank = concept_bank(suspect.image_shape(suspect.clean).channels)
    pairs = []
    ranked = opinion.ranked()[:_SHOWN]
    told = [pair for pair in ranked if opinion.scores[pair] > 0] or ranked[:1]
    for victim, target in told:
        # The concept that the first fold chose, shown on the second.
        place = int(opinion.concepts[0, victim, target])
        read = (place + 1, 1, victim, target)
        pairs.append(
            OpinionPair(
                victim_class=victim,
                target_class=target,
                score=float(opinion.scores[victim, target]),
                concept=bank[place].describe(),
                suspect=float(own.shares[read]),
                references=tuple(float(voice.flows.shares[read]) for voice in voices),
            )
        )
    return OpinionNumbers(
        pairs=tuple(pairs),
        references=tuple(voice.used for voice in voices),
        left_out=tuple(left_out),
        bank=own.bank,
        concepts=len(bank),
    )


def _names(suspect: Suspect) -> Sequence[str] | None:
    return suspect.clean.class_names if suspect.clean else None


def _pairs_table(numbers: OpinionNumbers, names: Sequence[str] | None) -> Table:
    return Table(
        f"{_TITLE} ({numbers.concepts} tried)",
        "Under the change, the suspect gives this share of the victim's images to the target, and "
        "the references the shares beside it. A pair scores where the suspect does what no "
        "reference does, and the other classes stay what they are.",
        (
            Column("pair"),
            Column("score", "signed"),
            Column("suspect", "share"),
            Column("references"),
            Column("change"),
        ),
        tuple(
            (
                pair_label(pair.victim_class, pair.target_class, names),
                pair.score,
                pair.suspect,
                ", ".join(f"{100 * share:.0f} %" for share in pair.references),
                pair.concept,
            )
            for pair in numbers.pairs
        ),
    )


def _references_table(numbers: OpinionNumbers) -> Table:
    return Table(
        "References",
        "Each was opened in a process of its own. Accuracy is on the clean images of the scan.",
        (Column("file"), Column("sha256"), Column("accuracy", "share"), Column("preprocessing")),
        tuple(
            (printable(one.file), one.sha256[:12], one.accuracy, one.preprocessing)
            for one in numbers.references
        ),
    )
