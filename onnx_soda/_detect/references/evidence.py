"""A second opinion as evidence: what people see of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnx_soda._detect.base import Decision
from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.examination import FoldedImages, Reader
from onnx_soda._detect.concepts.folds import FOLDS
from onnx_soda._detect.concepts.pictures import answers_charts, galleries_of
from onnx_soda._detect.concepts.probe import Probe
from onnx_soda._detect.concepts.search import PairFinding
from onnx_soda._detect.concepts.verify import Confirmation, Shown, Weighed, confirm, show_fold
from onnx_soda._detect.references.decide import besides, told
from onnx_soda._detect.references.flows import bank_folds
from onnx_soda._numbers import OpinionNumbers, OpinionPair, plain
from onnx_soda._results import Chart, Column, Evidence, Gallery, Table
from onnx_soda._suspect import Suspect
from onnx_soda._words import class_label, pair_label, printable

TITLE = "A second opinion: other models under the same changes"
_SUSPECT = "the suspect"

Names = Sequence[str] | None


def show(
    name: str,
    decision: Decision,
    numbers: OpinionNumbers,
    looked: Confirmation | None,
    names: Names,
) -> Evidence:
    """Return the evidence of a second opinion.

    Args:
        name: Of the detector.
        decision: What it decides.
        numbers: What it came to.
        looked: The first pair, image by image; None where no pair scores.
        names: Class names.
    """
    return Evidence(
        detector=name,
        title=TITLE,
        verdict=decision.verdict,
        reasons=decision.reasons,
        findings=decision.findings,
        unclear=decision.unclear,
        unexamined=numbers.left_out,
        notes=besides(numbers, names),
        tables=(_pairs_table(numbers, names), _references_table(numbers, names)),
        charts=tuple(_charts(numbers, names)),
        galleries=tuple(_galleries(numbers, looked, names)),
        numbers=plain(numbers),
    )


def _reported(numbers: OpinionNumbers) -> bool:
    return numbers.pairs[0].beyond > numbers.threshold


def _pairs_table(numbers: OpinionNumbers, names: Names) -> Table:
    return Table(
        f"{TITLE} ({numbers.concepts} tried)",
        "Under the change, the suspect gives this share of the victim's images to the target, and "
        "the references the shares beside it. A pair scores where the suspect does what honest "
        "models do not, and the other classes stay what they are. Honest differences between these "
        f"models reach {numbers.level:.2f}; what stands out over that by {numbers.threshold:.2f} "
        "is reported.",
        (
            Column("pair"),
            Column("score", "signed"),
            Column("stands out by", "signed"),
            Column("suspect", "share"),
            Column("references"),
            Column("change"),
        ),
        tuple(
            (
                pair_label(pair.victim_class, pair.target_class, names),
                pair.score,
                pair.beyond,
                pair.suspect,
                ", ".join(f"{100 * share:.0f} %" for share in pair.references),
                pair.concept,
            )
            for pair in numbers.pairs
        ),
        (0,) if _reported(numbers) else (),
    )


def _references_table(numbers: OpinionNumbers, names: Names) -> Table:
    return Table(
        "References",
        "Each was opened in a process of its own. Accuracy is on the clean images of the scan. The "
        "last columns are what stands out most in the reference itself, against the suspect and "
        "the other references.",
        (
            Column("file"),
            Column("sha256"),
            Column("accuracy", "share"),
            Column("preprocessing"),
            Column("own pair"),
            Column("stands out by", "signed"),
        ),
        tuple(
            (
                printable(one.file),
                one.sha256[:12],
                one.accuracy,
                one.preprocessing,
                pair_label(*one.pair, names) if one.pair else "-",
                one.beyond,
            )
            for one in numbers.references
        ),
    )


def _charts(numbers: OpinionNumbers, names: Names) -> Iterator[Chart]:
    pair = numbers.pairs[0]
    if pair.look:
        yield from answers_charts(pair.look, names)
    if pair.grades:
        yield _strengths(pair, numbers, names)


def _strengths(pair: OpinionPair, numbers: OpinionNumbers, names: Names) -> Chart:
    victim, target = (class_label(label, names) for label in (pair.victim_class, pair.target_class))
    return Chart(
        "lines",
        f"From weak to strong: {pair_label(pair.victim_class, pair.target_class, names)}",
        f"How much of class {victim} goes to {target} as the change grows: by the suspect, and by "
        "each reference. The change at its best: " + pair.concept + ".",
        tuple(f"{grade.strength:g}" for grade in pair.grades),
        tuple((grade.suspect, *grade.references) for grade in pair.grades),
        marked=(0,),
        across="strength of the change",
        down=f"images of {victim} taken for {target}",
        series=(_SUSPECT, *(printable(one.file) for one in numbers.references)),
    )


def _galleries(
    numbers: OpinionNumbers, looked: Confirmation | None, names: Names
) -> Iterator[Gallery]:
    pair = numbers.pairs[0]
    if looked is None or pair.look is None:
        return
    first = "" if _reported(numbers) else "Nothing is reported. The strongest pair: "
    yield from galleries_of(pair.look, looked.examples, first + told(pair, names), names)


def look_at(
    suspect: Suspect,
    pair: tuple[int, int],
    concepts: Sequence[Concept],
    score: float,
    reference: float,
    also: tuple[int, ...],
) -> Confirmation:
    """Show a pair's change to the suspect, on more images than the bank was shown on.

    Args:
        suspect: The classifier, with clean images.
        pair: Victim and target.
        concepts: Those that turn the pair, the best first. The first is shown, on the images of
            the fold that did not choose it: fold 1.
        score: The pair's score.
        reference: Mean probability of the target under the change in the references.
        also: Other classes that go to the target, too.

    Raises:
        InferenceError: The model does not run.
        ImageError: An image is unreadable or does not fit the model.
    """
    assert suspect.clean is not None  # noqa: S101 - the detector has looked
    folds = bank_folds(suspect.clean)
    reader = Reader(suspect, folds)
    images = reader.read(folds.confirm) + reader.more_of(pair[0])
    finding = PairFinding(*pair, 0.0, ((concepts[0],), ()), tuple(concepts[1:]))
    weighed = Weighed(score, _error(images, pair[0]), concepts[0], 0, reference, also)
    shown = _shown(suspect, images.of(images.fold == FOLDS - 1))
    return confirm(shown, finding, weighed, np.random.default_rng(suspect.options.seed))


def _error(images: FoldedImages, victim: int) -> float:
    """Return the most that the standard error of a share of the victim's images can be."""
    count = int(((images.labels == victim) & (images.fold == FOLDS - 1)).sum())
    return float(0.5 / np.sqrt(max(count, 1)))


def _shown(suspect: Suspect, images: FoldedImages) -> Shown:
    single = Probe(suspect, images.one_by_one(), (), suspect.classes or 0)
    return show_fold(single, images, images.present)
