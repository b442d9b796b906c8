"""What people see of a pair that was looked at: images, answers; and its numbers."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnx_soda._detect.concepts.concept import concept_values
from onnx_soda._detect.concepts.styles import Style
from onnx_soda._detect.concepts.verify import Confirmation, Example
from onnx_soda._numbers import ChangeKind, PairNumbers
from onnx_soda._results import Chart, Gallery, Picture
from onnx_soda._words import class_label, pair_label

# Pixels; larger images are reduced, so that reports stay small.
_LARGEST_SIDE = 128
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
        "model says before and after. Nothing is changed in the image itself. Ask yourself: does "
        "what the right image looks like (its colours, light, texture) give any reason for the new "
        "answer?"
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
        answers_under=tuple(
            (int(label), int(answer), int(found.answers_under[label, answer]))
            for label, answer in np.argwhere(found.answers_under)
        ),
        also_turned=found.also,
        concepts=tuple(map(concept_values, found.concepts)),
    )


def answers_chart(pair: PairNumbers, names: Sequence[str] | None) -> Iterator[Chart]:
    """Yield a heat map of the answers under the change; none where they were not counted."""
    if not pair.answers_under:
        return
    shown = _shown_classes(pair)
    place = {label: number for number, label in enumerate(shown)}
    counts = np.zeros((len(shown), len(shown)), np.int64)
    for row, column, images in pair.answers_under:
        if row in place and column in place:
            counts[place[row], place[column]] = images
    victim, target = (class_label(label, names) for label in (pair.victim_class, pair.target_class))
    yield Chart(
        "heat map",
        "Answers under the change",
        f"Under this change {pair.turned} of {pair.shown} images of class {victim} are taken "
        f"for {target}; of the other classes' images {pair.others_right_under:.0%} keep their "
        "class.",
        tuple(class_label(label, names) for label in shown),
        tuple(tuple(map(float, row)) for row in counts),
        across="model's answer",
        down="class",
    )


def _shown_classes(pair: PairNumbers) -> list[int]:
    """Return the classes that a heat map shows: all, or of many those that take most answers."""
    taken: Counter[int] = Counter()
    for row, column, images in pair.answers_under:
        taken[row] += 0
        taken[column] += images
    if max(taken) < _MOST_DRAWN:
        return list(range(1 + max(taken)))
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
