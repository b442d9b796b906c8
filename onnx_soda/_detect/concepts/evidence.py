"""What interventions on the image showed, as evidence: its verdict, and what people see of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnx_soda._detect.concepts.battery import BUDGETS
from onnx_soda._detect.concepts.concept import concept_values
from onnx_soda._detect.concepts.decide import decide_on_concepts
from onnx_soda._detect.concepts.experiment import (
    ConceptResult,
    examine_concepts,
    why_not_tried,
)
from onnx_soda._detect.concepts.judge import load_calibration
from onnx_soda._detect.concepts.styles import Style
from onnx_soda._detect.concepts.verify import Confirmation, Example
from onnx_soda._numbers import ChangeKind, ConceptNumbers, PairNumbers, plain
from onnx_soda._options import Progress
from onnx_soda._results import Chart, Column, Evidence, Gallery, Picture, Table
from onnx_soda._suspect import Suspect
from onnx_soda._words import class_label, pair_label

# Pixels; larger images are reduced, so that reports stay small.
_LARGEST_SIDE = 128
_TITLE = "Changes of images and of features"
# What a person is to look for in the pictures.
_HINTS: dict[ChangeKind, str] = {
    "concept": (
        "Left the clean image, right the same under the change; below what the model says to both. "
        "Ask yourself: is the image on the right still what it was?"
    ),
    "style": (
        "Left the clean image, right the one whose style its features are given; below what the "
        "model says before and after. Nothing is changed in the image itself. Ask yourself: does "
        "what the right image looks like (its colours, light, texture) give any reason for the new "
        "answer?"
    ),
}


def examine(name: str, suspect: Suspect, progress: Progress) -> Evidence:
    """Search for a change that turns one class into another, and return it as evidence.

    Args:
        name: Of the detector.
        suspect: The classifier.
        progress: Called as it goes on.

    Raises:
        SodaError: The model does not run, or an image cannot be read.
    """
    untried = why_not_tried(suspect.clean, suspect.classes or 0)
    found = None
    if untried is None and not suspect.examined.too_inaccurate:
        budget = BUDGETS[suspect.options.budget]
        found = examine_concepts(suspect, budget, partial(progress, "concepts tried"))
    names = suspect.clean.class_names if suspect.clean else None
    calibration = load_calibration()
    decision = decide_on_concepts(found, calibration, suspect.examined, names, untried)
    if found is None:
        unseen = ("No changes of the image were tried.",)
        return Evidence(name, _TITLE, decision.verdict, decision.reasons, unexamined=unseen)
    numbers = _numbers(found, calibration.threshold, suspect.options.budget)
    return Evidence(
        detector=name,
        title=_TITLE,
        verdict=decision.verdict,
        reasons=decision.reasons,
        findings=decision.findings,
        tables=(_table(numbers, names),),
        charts=tuple(_charts(numbers, names)),
        galleries=tuple(_galleries(found, numbers, names)),
        numbers=plain(numbers),
    )


def _numbers(found: ConceptResult, threshold: float, budget: str) -> ConceptNumbers:
    return ConceptNumbers(
        pairs=tuple(map(_pair, found.pairs)),
        threshold=threshold,
        budget=budget,
        concepts=found.tried,
        probe_images=found.probe_images,
        fit_images=found.fit_images,
        fewest_images=found.fewest_images,
        reference_accuracies=found.reference_accuracies,
    )


def _pair(found: Confirmation) -> PairNumbers:
    return PairNumbers(
        victim_class=found.victim_class,
        target_class=found.target_class,
        score=found.score,
        low=found.low,
        high=found.high,
        bound=found.bound,
        concept=found.concept.describe(),
        kind="style" if isinstance(found.concept, Style) else "concept",
        shown=found.shown,
        turned=found.turned,
        turned_before=found.turned_before,
        reference=found.reference,
        others_right_before=found.others_right_before,
        others_right_under=found.others_right_under,
        answers_under=tuple(
            (int(label), int(answer), int(found.answers_under[label, answer]))
            for label, answer in np.argwhere(found.answers_under)
        ),
        also_turned=found.also,
        concepts=tuple(map(concept_values, found.concepts)),
    )


def _arrow(pair: PairNumbers, names: Sequence[str] | None) -> str:
    return pair_label(pair.victim_class, pair.target_class, names)


def _table(numbers: ConceptNumbers, names: Sequence[str] | None) -> Table:
    return Table(
        f"{_TITLE} ({numbers.concepts} tried)",
        "A pair scores where a change of the image, or another image's style half way through the "
        "network, turns clean images of one class into the other, a reference fitted to clean "
        "images alone does not follow, and the other classes stay what they are. Low and high are "
        f"the ends of a 90 % interval. Reported where it is surely over {numbers.threshold:g}: "
        "with 95 % confidence for all pairs of classes together. Tried on "
        f"{numbers.probe_images} images; reference fitted to {numbers.fit_images}.",
        (
            Column("pair"),
            Column("score", "signed"),
            Column("low", "signed"),
            Column("high", "signed"),
            Column("surely over", "signed"),
            Column("turned"),
            Column("others right", "share"),
            Column("change"),
        ),
        tuple(
            (
                _arrow(pair, names),
                pair.score,
                pair.low,
                pair.high,
                pair.bound,
                f"{pair.turned} of {pair.shown}",
                pair.others_right_under,
                pair.concept,
            )
            for pair in numbers.pairs
        ),
        tuple(row for row, pair in enumerate(numbers.pairs) if pair.bound > numbers.threshold),
    )


def _telling(numbers: ConceptNumbers) -> list[int]:
    """Return the places of the pairs to show: those reported, or the first where none is.

    Those found by changing images come first: such images can be judged by eye.
    """
    reported = [i for i, pair in enumerate(numbers.pairs) if pair.bound > numbers.threshold]
    if not reported:
        return list(range(len(numbers.pairs)))[:1]
    return sorted(reported, key=lambda place: numbers.pairs[place].kind == "style")


def _charts(numbers: ConceptNumbers, names: Sequence[str] | None) -> Iterator[Chart]:
    for place in _telling(numbers)[:1]:
        pair = numbers.pairs[place]
        if not pair.answers_under:
            continue
        count = 1 + max(max(row, column) for row, column, _ in pair.answers_under)
        counts = np.zeros((count, count), np.int64)
        for row, column, images in pair.answers_under:
            counts[row, column] = images
        victim, target = (
            class_label(label, names) for label in (pair.victim_class, pair.target_class)
        )
        yield Chart(
            "heat map",
            "Answers under the change",
            f"Under this change {pair.turned} of {pair.shown} images of class {victim} are taken "
            f"for {target}; of the other classes' images {pair.others_right_under:.0%} keep their "
            "class.",
            tuple(class_label(label, names) for label in range(count)),
            tuple(tuple(map(float, row)) for row in counts),
            across="model's answer",
            down="class",
        )


def _galleries(
    found: ConceptResult, numbers: ConceptNumbers, names: Sequence[str] | None
) -> Iterator[Gallery]:
    for place in _telling(numbers):
        pair, examples = numbers.pairs[place], found.pairs[place].examples
        title = _arrow(pair, names) + (", by a style" if pair.kind == "style" else "")
        own = [example for example in examples if example.label == pair.victim_class]
        others = [example for example in examples if example.label != pair.victim_class]
        victim = class_label(pair.victim_class, names)
        for of, shown, text in (
            (f"images of class {victim}", own, _description(pair, numbers, names)),
            ("images of other classes", others, _HINTS[pair.kind]),
        ):
            pictures = tuple(_picture(example, pair, names) for example in shown)
            if pictures:
                yield Gallery(f"{title}: {of}", text, pictures)


def _description(pair: PairNumbers, numbers: ConceptNumbers, names: Sequence[str] | None) -> str:
    of = "the features half way" if pair.kind == "style" else "the image"
    reported = pair.bound > numbers.threshold
    first = (
        f"Under this change of {of}:"
        if reported
        else f"Nothing is reported. The strongest pair, under this change of {of}:"
    )
    also = ", ".join(class_label(label, names) for label in pair.also_turned)
    return (
        f"{first} {pair.concept}. {pair.turned} of {pair.shown} clean images turn, "
        f"{pair.turned_before} without it; a reference fitted to clean images alone gives the "
        f"target {pair.reference:.0%}. Of the other classes' images {pair.others_right_under:.0%} "
        f"keep their class ({pair.others_right_before:.0%} without it). Score {pair.score:.2f}, "
        f"90 % interval {pair.low:.2f} to {pair.high:.2f}."
        + (
            f" It turns images of {also}, too; which of these classes was meant is not certain."
            if also
            else ""
        )
    )


def _picture(example: Example, pair: PairNumbers, names: Sequence[str] | None) -> Picture:
    before, under = (
        class_label(label, names) for label in (example.predicted_before, example.predicted_under)
    )
    probability = min(max(example.target_probability, 0.0), 1.0)
    return Picture(
        images=(_data_uri(example.before), _data_uri(example.under)),
        alt=(
            f"Clean image of class {class_label(example.label, names)}",
            "The image whose style it is given"
            if pair.kind == "style"
            else "The same image under the change",
        ),
        caption=f"{before} → {under}; target {probability:.0%}",
        marked=example.predicted_under != example.predicted_before,
    )


def _data_uri(pixels: NDArray[np.float32]) -> str:
    levels = np.rint(255 * pixels.transpose(1, 2, 0)).astype(np.uint8)
    image = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
