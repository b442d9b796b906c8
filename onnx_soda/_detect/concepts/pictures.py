"""What people see of a pair that was looked at: images, answers; and its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.images import data_uri
from onnx_soda._detect.concepts.concept import concept_values
from onnx_soda._detect.concepts.styles import Style
from onnx_soda._detect.concepts.verify import Confirmation, Example
from onnx_soda._numbers import ChangeKind, PairNumbers
from onnx_soda._results import Chart, Gallery, Picture
from onnx_soda._words import class_label, pair_label

# Classes of which a heat map has all; of more it has those with most answers, so many of them.
_MOST_DRAWN, _OTHERS_DRAWN = 128, 38
# What a person is to look for in the pictures.
_HINTS: dict[ChangeKind, str] = {
    "concept": (
        "Left the clean image, right the same under the change; below what the model says to both. "
        "Ask yourself: is the image on the right still what it was?"
    ),
    "style": (
        "Left the clean image, right the one whose style its features are given; below what the "
        "model says before and after. The numbers above are for the style of the first picture; "
        "where other donors did as well, they take turns. Nothing is changed in the image itself. "
        "Ask yourself: does what the right image looks like (its colours, light, texture) give any "
        "reason for the new answer?"
    ),
}


def pair_numbers(found: Confirmation) -> PairNumbers:
    """Return the numbers of a pair for reports."""
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
        answers_under=_counted(found.answers_under),
        answers_before=_counted(found.answers_before),
        also_turned=found.also,
        concepts=tuple(map(concept_values, found.concepts)),
    )


_Counts = tuple[tuple[int, int, int], ...]


def _counted(answers: NDArray[np.int64]) -> _Counts:
    return tuple(
        (int(label), int(answer), int(answers[label, answer]))
        for label, answer in np.argwhere(answers)
    )


def answers_charts(pair: PairNumbers, names: Sequence[str] | None) -> Iterator[Chart]:
    """Yield heat maps of the answers before and under the change, where they were counted."""
    victim, target = (class_label(label, names) for label in (pair.victim_class, pair.target_class))
    shown = _shown_classes(pair)
    if pair.answers_before:
        yield _heat_map(
            "Answers before the change",
            f"As they are, {pair.turned_before} of {pair.shown} images of class {victim} are taken "
            f"for {target}; of the other classes' images {pair.others_right_before:.0%} have their "
            "class.",
            pair.answers_before,
            shown,
            names,
        )
    if pair.answers_under:
        yield _heat_map(
            "Answers under the change",
            f"Under this change {pair.turned} of {pair.shown} images of class {victim} are taken "
            f"for {target}; of the other classes' images {pair.others_right_under:.0%} keep their "
            "class.",
            pair.answers_under,
            shown,
            names,
        )


def _heat_map(
    title: str,
    text: str,
    answers: _Counts,
    classes: Sequence[int],
    names: Sequence[str] | None,
) -> Chart:
    place = {label: number for number, label in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for row, column, images in answers:
        if row in place and column in place:
            counts[place[row], place[column]] = images
    return Chart(
        "heat map",
        title,
        text,
        tuple(class_label(label, names) for label in classes),
        tuple(tuple(map(float, row)) for row in counts),
        across="model's answer",
        down="class",
    )


def _shown_classes(pair: PairNumbers) -> list[int]:
    """Return the classes that a heat map shows: all, or of many those that take most answers."""
    taken: Counter[int] = Counter()
    for row, column, images in (*pair.answers_before, *pair.answers_under):
        taken[row] += 0
        taken[column] += images
    if max(taken, default=0) < _MOST_DRAWN:
        return list(range(1 + max(taken, default=0)))
    first = [pair.victim_class, pair.target_class]
    others = [label for label, _ in taken.most_common() if label not in first]
    return sorted([*first, *others[:_OTHERS_DRAWN]])


def galleries_of(
    pair: PairNumbers, examples: Sequence[Example], text: str, names: Sequence[str] | None
) -> Iterator[Gallery]:
    """Yield the pictures of a pair: images of the victim, then of other classes.

    Args:
        pair: Its numbers.
        examples: Its images.
        text: What is to be said of the victim's.
        names: Class names.
    """
    title = pair_label(pair.victim_class, pair.target_class, names)
    title += ", by a style" if pair.kind == "style" else ""
    own = [example for example in examples if example.label == pair.victim_class]
    others = [example for example in examples if example.label != pair.victim_class]
    victim = class_label(pair.victim_class, names)
    for of, shown, told in (
        (f"images of class {victim}", own, text),
        ("images of other classes", others, _HINTS[pair.kind]),
    ):
        pictures = tuple(_picture(example, pair, names) for example in shown)
        if pictures:
            yield Gallery(f"{title}: {of}", told, pictures)


def _picture(example: Example, pair: PairNumbers, names: Sequence[str] | None) -> Picture:
    before, under = (
        class_label(label, names) for label in (example.predicted_before, example.predicted_under)
    )
    probability = min(max(example.target_probability, 0.0), 1.0)
    return Picture(
        images=(data_uri(example.before), data_uri(example.under)),
        alt=(
            f"Clean image of class {class_label(example.label, names)}",
            "The image whose style it is given"
            if pair.kind == "style"
            else "The same image under the change",
        ),
        caption=f"{before} → {under}; target {probability:.0%}",
        marked=example.predicted_under != example.predicted_before,
    )
