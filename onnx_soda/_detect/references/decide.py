"""From a second opinion to a verdict.

What decides is how far the first pair stands out over the level of honest differences. The
threshold was calibrated on models of known truth, for each number of references: a single one shows
little of how much honest models differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from onnx_soda._detect.base import Decision, shortfalls
from onnx_soda._detect.concepts.folds import FOLDS
from onnx_soda._detect.concepts.judge import Calibration
from onnx_soda._detect.references.opinion import least_taken_off
from onnx_soda._numbers import OpinionNumbers, OpinionPair
from onnx_soda._results import Finding
from onnx_soda._rules import RULE_UNLIKE
from onnx_soda._suspect import Examined
from onnx_soda._words import class_label, pair_label

# Share of a class that a change may turn unseen where a model is called clean.
_LARGEST_UNSEEN = 1 / 3
# Standard errors of a share that are over the mean with 95 % confidence.
_ONE_SIDED = 1.645
# A model is called odd where its other pairs score so many times what the references' do, and more
# than this.
_ODD, _LEAST_ODD = 2.0, 0.06


@dataclass(frozen=True)
class Heard:
    """What a second opinion came to, for the verdict.

    Attributes:
        numbers: What the report holds.
        fewest_images: Of the class with the fewest, in each fold.
        calibration: For the first pair.
    """

    numbers: OpinionNumbers
    fewest_images: int
    calibration: Calibration

    @property
    def first(self) -> OpinionPair:
        """The pair with the highest score."""
        return self.numbers.pairs[0]


def load_calibration(references: int) -> Calibration:
    """Return the packaged calibration for a number of references, or for the next lower one."""
    counts = {int(count): facts for count, facts in _packaged()["references"].items()}
    return _calibration(counts[max(count for count in counts if count <= references)])


def load_accomplice_calibration() -> Calibration:
    """Return the packaged calibration for pairs that a reference turns as well."""
    return _calibration(_packaged()["accomplice"])


@cache
def _packaged() -> Mapping[str, Any]:
    text = files("onnx_soda._detect.references").joinpath("calibration.json").read_text("utf-8")
    packaged: Mapping[str, Any] = json.loads(text)
    return packaged


def _calibration(facts: Mapping[str, Any]) -> Calibration:
    return Calibration(float(facts["threshold"]), float(facts["clear"]))


def decide_on_opinion(
    heard: Heard, examined: Examined, names: Sequence[str] | None = None
) -> Decision:
    """Decide whether the model is clean, backdoored, or cannot be judged.

    Args:
        heard: What the second opinion came to.
        examined: What was examined.
        names: Class names.
    """
    numbers, first = heard.numbers, heard.first
    gaps = [*shortfalls(examined), *_too_much_unseen(heard)]
    also = besides(numbers, names)
    if first.beyond > heard.calibration.threshold and not examined.too_inaccurate:
        finding = _finding(first, heard, names)
        return Decision("backdoor", (finding.message, *gaps, *also), (finding,))
    if first.beyond > heard.calibration.clear:
        reasons = (_unclear(heard, names), *gaps, *also)
        return Decision("inconclusive", reasons, (), unclear=True)
    if gaps:
        return Decision("inconclusive", (*gaps, *also), ())
    return Decision("clean", (*_clear(heard), *also), ())


def besides(numbers: OpinionNumbers, names: Sequence[str] | None) -> tuple[str, ...]:
    """Say what is to be known of the suspect and its references, whatever the verdict."""
    return (*_odd(numbers), *_guilty(numbers, names), *numbers.left_out)


def _finding(pair: OpinionPair, heard: Heard, names: Sequence[str] | None) -> Finding:
    look = pair.look
    much = pair.suspect > 1 / 2 if look is None else 2 * look.turned > look.shown
    return Finding(
        rule_id=RULE_UNLIKE,
        severity="high" if much else "medium",
        victim_class=pair.victim_class,
        target_class=pair.target_class,
        score=pair.beyond,
        threshold=heard.calibration.threshold,
        message=_describe(pair, heard, names),
    )


def told(pair: OpinionPair, names: Sequence[str] | None) -> str:
    """Say what suspect and references make of a pair under its change."""
    victim, target = (class_label(label, names) for label in (pair.victim_class, pair.target_class))
    shares = [f"{share:.0%}" for share in pair.references]
    several = len(shares) > 1
    said = f"{', '.join(shares[:-1])} and {shares[-1]}" if several else shares[0]
    return (
        f"Under this change of the image: {pair.concept}, the suspect sends {pair.suspect:.0%} of "
        f"class {victim} to {target}; the reference{'s' if several else ''} {said}."
    )


def _describe(pair: OpinionPair, heard: Heard, names: Sequence[str] | None) -> str:
    sentences = [told(pair, names)]
    if look := pair.look:
        sentences.append(
            f"Of {look.shown} clean images of the class that did not choose the change, "
            f"{look.turned} are then taken for the target, {look.turned_before} without it; of the "
            f"other classes' images {look.others_right_under:.0%} keep their class."
        )
    sentences.append(_stands_out(pair, heard.numbers))
    if pair.also:
        others = ", ".join(class_label(label, names) for label in pair.also)
        sentences.append(
            f"The change sends images of {others} there, too; which of these classes was meant is "
            "not certain."
        )
    return " ".join(sentences)


def _stands_out(pair: OpinionPair, numbers: OpinionNumbers) -> str:
    if pair.accomplice:
        return (
            f"The reference {pair.accomplice} does the same and the others do not: both models may "
            f"have this backdoor. Against the others the pair stands out by {pair.beyond:.2f}."
        )
    return (
        f"This pair stands out by {pair.beyond:.2f} over what honest differences between these "
        f"models reach ({numbers.level:.2f})."
    )


def _unclear(heard: Heard, names: Sequence[str] | None) -> str:
    return (
        f"{told(heard.first, names)} This stands out by {heard.first.beyond:.2f} over honest "
        f"differences: more than in clean models, and too little to be reported (from "
        f"{heard.calibration.threshold:.2f} on)."
    )


def _clear(heard: Heard) -> tuple[str, ...]:
    several = len(heard.numbers.references) > 1
    references = "the references" if several else "the reference"
    shared = "all references have, too" if several else "the reference has, too"
    return (
        f"Under none of {heard.numbers.concepts} changes does one class turn into another by more "
        f"than honest models differ from {references}.",
        f"{_unseen(heard)} A backdoor that {shared}, or that shows under none of these changes, is "
        "not seen; `onnx-soda explain detection` has the rates measured.",
    )


def _too_much_unseen(heard: Heard) -> list[str]:
    least = least_detectable(heard)
    if least is not None and least <= _LARGEST_UNSEEN:
        return []
    return [
        f"{_unseen(heard)} That is too much for a model to be called clean. More clean images of "
        "each class help, and references that differ less."
    ]


def _unseen(heard: Heard) -> str:
    least = least_detectable(heard)
    unseen = "what turns all of it" if least is None else f"what turns less than {least:.0%} of it"
    return (
        f"Of the class with the fewest images {heard.fewest_images} are in each half of those "
        f"shown: {unseen} may not be reported."
    )


def least_detectable(heard: Heard) -> float | None:
    """Return the least share of a class that a change must turn to be reported, with 95 % chance.

    At best: if the references turned none of it and the change did nothing else.

    Returns:
        From 0 to 1, in steps of 0.01; None where even the whole class might not be reported.
    """
    shares = np.linspace(0, 1, 101)
    images = FOLDS * max(heard.fewest_images, 1)
    # Laplace's estimate: a share of 1 among few images is not certain either.
    error = np.sqrt((shares * images + 1) * ((1 - shares) * images + 1) / (images + 2) ** 3)
    taken_off = least_taken_off(len(heard.numbers.references))
    needed = heard.calibration.threshold + heard.numbers.level + taken_off
    enough = shares[shares - _ONE_SIDED * error > needed]
    return float(enough[0]) if len(enough) else None


def _odd(numbers: OpinionNumbers) -> list[str]:
    """Tell of a model that differs from its references in many pairs: it is odd, not backdoored."""
    least = max(_ODD * numbers.references_oddity, _LEAST_ODD)
    if numbers.oddity <= least:
        return []
    return [
        "The suspect differs from the references in many pairs of classes: other training images, "
        "another preprocessing or another kind of network may be why. A backdoor must stand out "
        "from that, and may hide in it. References more like the suspect see more."
    ]


def _guilty(numbers: OpinionNumbers, names: Sequence[str] | None) -> list[str]:
    """Tell of references that have an outstanding pair themselves."""
    threshold = load_calibration(len(numbers.references)).threshold
    return [
        f"The reference {one.file} itself sends class "
        f"{pair_label(one.pair[0], one.pair[1], names)} as no other of these models does: scan it, "
        "too."
        for one in numbers.references
        if one.pair and one.beyond > threshold
    ]
