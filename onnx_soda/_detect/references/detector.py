"""The second opinion as a detector: which pairs the suspect turns and its references do not.

Heard are references that are comparable, and know the clean images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onnx_soda._detect.base import Detector, Need
from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.experiment import MOST_CLASSES, why_not_tried
from onnx_soda._detect.concepts.judge import Calibration
from onnx_soda._detect.concepts.pictures import pair_numbers
from onnx_soda._detect.concepts.verify import Confirmation
from onnx_soda._detect.references.admission import Voice, admit
from onnx_soda._detect.references.bank import concept_bank, grades_of, strength_of
from onnx_soda._detect.references.decide import (
    Heard,
    decide_on_opinion,
    load_accomplice_calibration,
    load_calibration,
)
from onnx_soda._detect.references.evidence import TITLE, look_at, show
from onnx_soda._detect.references.flows import Flows
from onnx_soda._detect.references.opinion import Accomplice, second_opinion
from onnx_soda._numbers import Grade, OpinionNumbers, OpinionPair, ReferenceUsed
from onnx_soda._options import Progress
from onnx_soda._results import Evidence
from onnx_soda._suspect import Suspect

# The most pairs shown, of those that score.
_SHOWN = 5
# Further concepts of a pair that a repair may use, if they turn this share of the victim.
_MOST_CONCEPTS, _TURNS = 8, 0.25


class SecondOpinionDetector(Detector):
    """Compares what the suspect makes of a bank of concepts with what references make of it."""

    name: ClassVar[str] = "second-opinion"
    needs: ClassVar[frozenset[Need]] = frozenset({"clean images"})

    def run(self, suspect: Suspect, progress: Progress) -> Evidence:
        """Ask every reference, rank the pairs, and decide; see `Detector.run`."""
        untried = why_not_tried(suspect.clean, suspect.classes or 0, MOST_CLASSES)
        if untried is not None or not suspect.references:
            return _nothing(self.name, untried or "No reference models were given.")
        admitted = admit(suspect, progress)
        own = admitted.own
        if own is None:
            nothing = _nothing(self.name, "No reference can be used.")
            reasons = (*nothing.reasons, *admitted.left_out)
            return replace(nothing, reasons=reasons, notes=reasons)
        comparison = _Comparison(suspect, own, admitted.voices)
        numbers, looked = comparison.numbers(admitted.left_out)
        names = suspect.clean.class_names if suspect.clean else None
        heard = Heard(numbers, own.fewest, comparison.calibration)
        decision = decide_on_opinion(heard, suspect.examined, names)
        return show(self.name, decision, numbers, looked, names)


def _nothing(name: str, reason: str) -> Evidence:
    return Evidence(name, TITLE, "inconclusive", (reason,), unexamined=(reason,))


class _Comparison:
    """A suspect beside its references."""

    def __init__(self, suspect: Suspect, own: Flows, voices: Sequence[Voice]) -> None:
        assert suspect.clean is not None  # noqa: S101 - the detector needs clean images
        self._suspect, self._own, self._voices = suspect, own, voices
        self._bank = concept_bank(suspect.image_shape(suspect.clean).channels)
        self._opinion = second_opinion(own, [voice.flows for voice in voices])
        self._ranked = self._opinion.ranked()
        self._usual = load_calibration(len(voices))

    @cached_property
    def calibration(self) -> Calibration:
        """What the first pair is measured by."""
        return self._usual if self._accomplice is None else load_accomplice_calibration()

    @cached_property
    def _accomplice(self) -> Accomplice | None:
        """A reference that hides what the suspect does, where it does."""
        found = self._opinion.accomplice
        if found is None or found.beyond <= load_accomplice_calibration().threshold:
            return None
        return found if self._opinion.beyond(self._ranked[0]) <= self._usual.threshold else None

    def numbers(self, left_out: Sequence[str]) -> tuple[OpinionNumbers, Confirmation | None]:
        """Return the numbers of the report, and the first pair looked at, where one scores."""
        opinion, models = self._opinion, self._opinion.models
        ranked, leading = self._ranked[:_SHOWN], self._accomplice or opinion
        shown = [pair for pair in ranked if opinion.scores[pair] > 0] or ranked[:1]
        pairs = [self._pair(pair, opinion.concepts) for pair in shown]
        first, *others = [*self._shared(), *pairs]
        looked = self._look(first, leading.concepts) if first.score > 0 else None
        if looked is not None:
            first = replace(first, look=pair_numbers(looked))
        numbers = OpinionNumbers(
            pairs=(first, *others),
            references=tuple(map(self._used, range(len(self._voices)))),
            left_out=tuple(left_out),
            bank=self._own.bank,
            concepts=len(self._bank),
            threshold=self.calibration.threshold,
            level=opinion.level(),
            oddity=models[0].oddity,
            references_oddity=float(np.median([one.oddity for one in models[1:]])),
        )
        return numbers, looked

    def _used(self, place: int) -> ReferenceUsed:
        model = self._opinion.models[1 + place]
        beyond = model.score - self._opinion.level(1 + place)
        return replace(self._voices[place].used, pair=model.pair, beyond=beyond)

    def _shared(self) -> Iterator[OpinionPair]:
        """Yield the pair that a reference turns as well, where that hides it."""
        if (found := self._accomplice) is not None:
            pair, file = self._pair(found.pair, found.concepts), self._voices[found.place].used.file
            yield replace(pair, score=found.beyond, beyond=found.beyond, accomplice=file)

    def _pair(self, pair: tuple[int, int], concepts: NDArray[np.int64]) -> OpinionPair:
        place = _chosen(concepts, pair)
        shares = self._shares(place, pair)
        return OpinionPair(
            victim_class=pair[0],
            target_class=pair[1],
            score=float(self._opinion.scores[pair]),
            beyond=self._opinion.beyond(pair),
            concept=self._bank[place].describe(),
            suspect=shares[0],
            references=shares[1:],
            grades=tuple(self._grades(place, pair)),
            also=tuple(self._also(pair)),
        )

    def _shares(self, place: int, pair: tuple[int, int]) -> tuple[float, ...]:
        """Return what suspect and references give to the target on the second fold."""
        # Sums of softmaxes in float32 may be a little over 1.
        shares = (flows.shares[(place + 1, 1, *pair)] for flows in self._flows())
        return tuple(min(float(share), 1.0) for share in shares)

    def _grades(self, place: int, pair: tuple[int, int]) -> Iterator[Grade]:
        places = grades_of(self._bank, place)
        for one in places if len(places) > 1 else ():
            suspect, *references = self._shares(one, pair)
            yield Grade(strength_of(self._bank[one]), suspect, tuple(references))

    def _also(self, pair: tuple[int, int]) -> Iterator[int]:
        """Yield the other classes that stand out with the same target, the first ones first."""
        for victim, target in self._ranked:
            if self._opinion.beyond((victim, target)) <= self._usual.threshold:
                return
            if target == pair[1] and victim != pair[0]:
                yield victim

    def _look(self, told: OpinionPair, concepts: NDArray[np.int64]) -> Confirmation:
        pair = (told.victim_class, told.target_class)
        turning = self._turning(pair, _chosen(concepts, pair))
        reference = float(np.mean(told.references))
        return look_at(self._suspect, pair, turning, told.score, reference, told.also)

    def _turning(self, pair: tuple[int, int], first: int) -> list[Concept]:
        """Return the concepts that turn a pair most, and not in most references; a given first."""
        own, *others = (flows.shares[1:, :, *pair].mean(axis=1) for flows in self._flows())
        more = own - np.median(others, axis=0)
        order = np.argsort(-more, kind="stable")[:_MOST_CONCEPTS]
        further = (int(one) for one in order if one != first and more[one] > _TURNS)
        return [self._bank[one] for one in (first, *further)]

    def _flows(self) -> list[Flows]:
        return [self._own, *(voice.flows for voice in self._voices)]


def _chosen(concepts: NDArray[np.int64], pair: tuple[int, int]) -> int:
    """Return the place of the concept that the first fold chose; it is shown on the second."""
    return int(concepts[0][pair])
