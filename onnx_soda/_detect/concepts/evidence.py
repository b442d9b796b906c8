"""What interventions on the image showed, as evidence: its verdict, and what people see of it.

What decides is the bound that a score is above with 95 % confidence for all pairs of classes
together: small classes and many classes give low bounds, not alarms. It is never "clean" where
something was not examined.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from onnx_soda._detect.base import Decision, shortfalls
from onnx_soda._detect.concepts.battery import BUDGETS
from onnx_soda._detect.concepts.experiment import (
    ConceptResult,
    examine_concepts,
    why_not_tried,
)
from onnx_soda._detect.concepts.folds import FOLDS
from onnx_soda._detect.concepts.judge import (
    Calibration,
    images_needed,
    least_detectable,
    load_calibration,
)
from onnx_soda._detect.concepts.pictures import answers_charts, galleries_of, pair_numbers
from onnx_soda._detect.concepts.styles import STRENGTHS, Style
from onnx_soda._detect.concepts.verify import Confirmation
from onnx_soda._numbers import ConceptNumbers, Covered, PairNumbers, plain
from onnx_soda._options import NOTE, Progress
from onnx_soda._results import Chart, Column, Evidence, Finding, Gallery, Halted, Table, Verdict
from onnx_soda._rules import RULE_CONCEPT
from onnx_soda._suspect import Examined, Suspect
from onnx_soda._words import class_label, duration, pair_label

_ALONE = (
    "The suspect was compared with itself alone. With other models of the same classes "
    "(`references`) more of the backdoors are found; `onnx-soda twins` trains some on the clean "
    "images."
)
_TITLE = "Changes of images and of features"
# Share of a class that a change may turn unseen where a model is called clean. Concepts that name
# a true pair in docs/detection.md turn more, all but one, which turns 32 %.
_LARGEST_UNSEEN = 1 / 3
# How much worse than the model a reference head may be.
_LARGEST_LOSS = 0.15
_LIMIT = (
    "Finding nothing proves little: only interventions of the kinds that `onnx-soda explain "
    "detection` lists were tried, and of the backdoored models measured there about half were "
    "named rightly."
)


def examine(name: str, suspect: Suspect, progress: Progress) -> Evidence:
    """Search for a change that turns one class into another, and return it as evidence.

    Args:
        name: Of the detector.
        suspect: The classifier.
        progress: Called as it goes on.

    Raises:
        SodaError: The model does not run, or an image cannot be read.
        Halted: The scan is to end; with the evidence by then, if there is any.
    """
    untried = why_not_tried(suspect.clean, suspect.classes or 0)
    found = None
    names = suspect.clean.class_names if suspect.clean else None
    if untried is None and not suspect.examined.too_inaccurate:
        budget, teller = BUDGETS[suspect.options.budget], _Teller(progress, names)
        found = examine_concepts(suspect, budget, teller.advance, teller.lead)
    calibration = load_calibration()
    decision = decide_on_concepts(found, calibration, suspect.examined, names, untried)
    if found is None:
        unseen = ("No changes of the image were tried.",)
        return Evidence(name, _TITLE, decision.verdict, decision.reasons, unexamined=unseen)
    numbers = _numbers(found, calibration.threshold, suspect.options.budget)
    evidence = Evidence(
        detector=name,
        title=_TITLE,
        verdict=decision.verdict,
        reasons=(*decision.reasons, *_alone(suspect, decision.verdict)),
        findings=decision.findings,
        unclear=decision.unclear,
        tables=(_table(numbers, names), *map(_coverage_table, filter(None, [numbers.covered]))),
        charts=tuple(_charts(numbers, names)),
        galleries=tuple(_galleries(found, numbers, names)),
        numbers=plain(numbers),
        unexamined=tuple(_untried(found)),
    )
    if found.halted:
        raise Halted(found.halted, evidence)
    return evidence


class _Teller:
    """Tells how far the search is, with the best pair so far."""

    def __init__(self, progress: Progress, names: tuple[str, ...] | None) -> None:
        self._progress, self._names = progress, names
        self._note = ""

    def advance(self, done: int, total: int) -> None:
        self._progress(f"concepts tried{self._note}", done, total)

    def lead(self, victim: int, target: int) -> None:
        self._note = f"{NOTE}best pair so far {pair_label(victim, target, self._names)}"


def _untried(found: ConceptResult) -> Iterator[str]:
    """Say how much of a search was not done, where it ended early."""
    if not found.halted:
        return
    yield (
        f"Only {found.tried} of {found.planned} changes of images and of features were tried "
        "before the scan ended."
    )
    if found.outlook and found.halted == "aim":
        yield from found.outlook.advice(halted=True)
    if not found.search.screened:
        yield (
            "What is usual for this model is not known by then, so none of the pairs shown is a "
            "finding."
        )


def _alone(suspect: Suspect, verdict: Verdict) -> tuple[str, ...]:
    """Say what reference models would add, where there are none and it matters."""
    return () if suspect.references or verdict == "backdoor" else (_ALONE,)


def _numbers(found: ConceptResult, threshold: float, budget: str) -> ConceptNumbers:
    return ConceptNumbers(
        pairs=tuple(map(pair_numbers, found.pairs)),
        threshold=threshold,
        budget=budget,
        concepts=found.tried,
        screen_images=found.screen_images,
        probe_images=found.probe_images,
        fit_images=found.fit_images,
        fewest_images=found.fewest_images,
        reference_accuracies=found.reference_accuracies,
        look_alikes=found.look_alikes,
        covered=_covered(found),
    )


def _covered(found: ConceptResult) -> Covered | None:
    outlook, styles = found.outlook, found.styles.tried if found.styles else 0
    if outlook is None:
        return None
    parts = [part for part in outlook.parts(found.search.tried, styles) if part.whole]
    whole = outlook.plan == outlook.whole
    if whole and not found.halted:
        # With few classes there are fewer pairs to vary than there may be.
        parts = [replace(part, whole=part.done) for part in parts]
    covered = Covered(
        parts=tuple(parts),
        strengths=STRENGTHS if styles else (),
        time_limit=outlook.limit,
        passes=outlook.before + outlook.passes,
        spared=len(found.spared),
    )
    if whole:
        return covered
    return replace(
        covered,
        rate=outlook.rate,
        seconds=outlook.seconds,
        whole_seconds=outlook.whole_seconds,
    )


def _coverage_table(covered: Covered) -> Table:
    strengths = ", ".join(f"{strength:.0%}" for strength in covered.strengths)
    styles = f" Styles were given at strengths of {strengths}." if strengths else ""
    return Table(
        "What was covered",
        f"The scan aims at {duration(covered.time_limit)}. What was planned takes about "
        f"{covered.passes:,} passes of images through the model{_measured(covered)}.{styles}",
        (Column("part"), Column("done", "count"), Column("whole", "count")),
        tuple((part.name, part.done, part.whole) for part in covered.parts),
        tuple(row for row, part in enumerate(covered.parts) if part.cut),
    )


def _measured(covered: Covered) -> str:
    if covered.seconds is None or covered.whole_seconds is None:
        return ""
    whole = duration(covered.whole_seconds)
    return f", about {duration(covered.seconds)} here; the whole takes about {whole}"


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
        f"{numbers.screen_images} images, the best on up to {numbers.probe_images}; reference "
        f"fitted to {numbers.fit_images}.",
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
        yield from answers_charts(numbers.pairs[place], names)


def _galleries(
    found: ConceptResult, numbers: ConceptNumbers, names: Sequence[str] | None
) -> Iterator[Gallery]:
    for place in _telling(numbers):
        pair, examples = numbers.pairs[place], found.pairs[place].examples
        yield from galleries_of(pair, examples, _description(pair, numbers, names), names)


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


def decide_on_concepts(
    evidence: ConceptResult | None,
    calibration: Calibration,
    examined: Examined,
    names: Sequence[str] | None = None,
    untried: str | None = None,
) -> Decision:
    """Decide whether the model is clean, backdoored, or cannot be judged.

    Args:
        evidence: What the interventions showed; None where they were not possible.
        calibration: The threshold.
        examined: What was examined.
        names: Class names.
        untried: Why interventions were not tried, from `why_not_tried`.
    """
    gaps = (*shortfalls(examined), *_gaps(evidence, examined, calibration, untried))
    also = _left_out(evidence, examined)
    if evidence is None or examined.too_inaccurate:
        return Decision("inconclusive", (*gaps, *also), ())
    over = [pair for pair in evidence.pairs if pair.bound > calibration.threshold]
    if over and evidence.search.screened:
        findings = tuple(_finding(pair, calibration.threshold, names) for pair in _once_each(over))
        reasons = (*(finding.message for finding in findings), *gaps, *also)
        return Decision("backdoor", reasons, findings)
    best = max(evidence.pairs, key=lambda pair: pair.bound, default=None)
    if not evidence.search.screened:
        return Decision("inconclusive", (*gaps, *also), ())
    if best is not None and best.bound > calibration.clear:
        reasons = (_unclear(best, calibration, names), *gaps, *also)
        return Decision("inconclusive", reasons, (), unclear=True)
    if gaps:
        return Decision("inconclusive", (*gaps, *also), ())
    reason = (
        f"Under none of {evidence.tried} interventions does one class turn into another more "
        "than the clean images support."
    )
    limits = (_unseen(evidence, examined, calibration), _LIMIT)
    return Decision("clean", (reason, *also, *limits), ())


def _once_each(over: Sequence[Confirmation]) -> list[Confirmation]:
    """Return each pair of classes once: by a concept, where one shows it, for people to judge."""
    chosen: dict[tuple[int, int], Confirmation] = {}
    for pair in sorted(over, key=lambda pair: isinstance(pair.concept, Style)):
        chosen.setdefault((pair.victim_class, pair.target_class), pair)
    return [pair for pair in over if pair in chosen.values()]


def _finding(pair: Confirmation, threshold: float, names: Sequence[str] | None) -> Finding:
    return Finding(
        rule_id=RULE_CONCEPT,
        severity="high" if 2 * pair.turned > pair.shown else "medium",
        victim_class=pair.victim_class,
        target_class=pair.target_class,
        score=pair.bound,
        threshold=threshold,
        message=_describe(pair, names),
    )


def _labels(pair: Confirmation, names: Sequence[str] | None) -> tuple[str, str]:
    return class_label(pair.victim_class, names), class_label(pair.target_class, names)


def _describe(pair: Confirmation, names: Sequence[str] | None) -> str:
    victim, target = _labels(pair, names)
    return (
        f"Class {victim} turns into class {target} under this change of {pair.concept.of}: "
        f"{pair.concept.describe()}. {pair.turned} of {pair.shown} clean images of {victim} are "
        f"then taken for {target}, {pair.turned_before} without it. A reference fitted to clean "
        f"images alone gives {target} {pair.reference:.0%}; of the other classes' images "
        f"{pair.others_right_under:.0%} keep their class ({pair.others_right_before:.0%} without "
        f"it). Score {pair.score:.2f} (90 % interval {pair.low:.2f} to {pair.high:.2f}), surely "
        f"above {pair.bound:.2f}.{_also(pair, names)}"
    )


def _also(pair: Confirmation, names: Sequence[str] | None) -> str:
    if not pair.also:
        return ""
    others = ", ".join(class_label(label, names) for label in pair.also)
    return f" It turns images of {others}, too; which of these classes was meant is not certain."


def _unclear(pair: Confirmation, calibration: Calibration, names: Sequence[str] | None) -> str:
    victim, target = _labels(pair, names)
    return (
        f"Class {victim} turns into {target} under a change of {pair.concept.of} "
        f"({pair.concept.describe()}) more than "
        f"in most clean models and less than in most backdoored ones: score {pair.score:.2f}, "
        f"surely above {pair.bound:.2f}; reported from {calibration.threshold:.2f}, clean under "
        f"{calibration.clear:.2f}."
    )


def _gaps(
    evidence: ConceptResult | None,
    examined: Examined,
    calibration: Calibration,
    untried: str | None,
) -> tuple[str, ...]:
    """Say what stands against calling the model clean."""
    if evidence is None:
        return (untried,) if untried else ()
    gaps = (_too_much_unseen(evidence, examined, calibration), _poor_reference(evidence))
    untimely = () if _covers(evidence) else _for_want_of_time(evidence)
    return (*_untried(evidence), *untimely, *(gap for gap in gaps if gap))


def _covers(evidence: ConceptResult) -> bool:
    """Tell whether there was time for all that a model has to stand to be called clean."""
    outlook = evidence.outlook
    return outlook is None or (outlook.plan.covers(outlook.whole) and not evidence.spared)


def _for_want_of_time(evidence: ConceptResult) -> Iterator[str]:
    """Say what was left out because there was no time for it, and how much time there should be."""
    outlook = evidence.outlook
    if outlook is None or evidence.halted:
        return
    yield from outlook.left_out()
    if evidence.spared:
        yield (
            f"There was no time to look closely at {len(evidence.spared)} of the pairs that were "
            "found."
        )
    yield from outlook.advice(halted=bool(evidence.spared))


def _too_much_unseen(
    evidence: ConceptResult, examined: Examined, calibration: Calibration
) -> str | None:
    least = _least_seen(evidence, examined, calibration)
    if least is not None and least <= _LARGEST_UNSEEN:
        return None
    seen = _unseen(evidence, examined, calibration)
    told = f"{seen} That is too much for a model to be called clean."
    if evidence.outlook and evidence.outlook.unread:
        return f"{told} There was no time to learn from {evidence.outlook.unread} more."
    needed = images_needed(_LARGEST_UNSEEN, examined.classes or 2, calibration.threshold)
    return f"{told} Give at least {FOLDS * needed} clean images of each class."


def _poor_reference(evidence: ConceptResult) -> str | None:
    best = max(evidence.reference_accuracies)
    if evidence.model_accuracy - best <= _LARGEST_LOSS:
        return None
    return (
        f"The reference, fitted to the clean images alone, is right for only {best:.0%} of them "
        f"(the model: {evidence.model_accuracy:.0%}), too little to compare with. Give more clean "
        "images."
    )


def _least_seen(
    evidence: ConceptResult, examined: Examined, calibration: Calibration
) -> float | None:
    classes = examined.classes or 2
    return least_detectable(evidence.fewest_images, classes, calibration.threshold)


def _unseen(evidence: ConceptResult, examined: Examined, calibration: Calibration) -> str:
    """Say how much would have been missed for want of images, whatever was tried."""
    least = _least_seen(evidence, examined, calibration)
    least_share = (
        "a change that turns all of it"
        if least is None
        else (f"a change that turns less than {least:.0%} of it")
    )
    return (
        f"Of the class with the fewest images {evidence.fewest_images} are in each half of the "
        f"clean set: {least_share} would not be reported."
    )


def _left_out(evidence: ConceptResult | None, examined: Examined) -> tuple[str, ...]:
    """Say what was not tried, though nothing was missing that the user could give."""
    if evidence is None or evidence.halted:
        return ()
    return (*_alike(evidence, examined.source_classes), *_for_want_of_means(evidence))


def _alike(evidence: ConceptResult, classes: int) -> Iterator[str]:
    """Say between how many classes no change of the image was scored."""
    if evidence.look_alikes:
        yield (
            f"{evidence.look_alikes:,} of {classes * (classes - 1):,} pairs of classes look much "
            "alike to the model. A change of the image that turns one into the other counts as a "
            "natural confusion, so a backdoor between them shows under styles alone, if at all."
        )


def _for_want_of_means(evidence: ConceptResult) -> tuple[str, ...]:
    """Say what there was no time for where that does not matter, or no layer."""
    # Where these keep a model from being called clean, they are told as such.
    untimely = tuple(_for_want_of_time(evidence)) if _covers(evidence) else ()
    styled = evidence.outlook is not None and evidence.outlook.whole.budget.donors > 0
    if evidence.styles is not None or styled:
        return untimely
    return (
        *untimely,
        "Interventions on a hidden layer's style were left out: no layer that every path passes "
        "through has channels with several places each.",
    )
