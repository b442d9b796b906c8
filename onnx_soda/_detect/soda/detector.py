"""SODA's detector: the paper's analysis of one layer, by default the last one, as evidence.

Algorithm 2 flags a target class, or not. It is never "clean" where something was not examined: too
low an accuracy, classes without images, too few images, too few classes for the outlier test, no
usable clean set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from onnx_soda._detect.base import Decision, Detector, shortfall_of_all, thin_spots
from onnx_soda._detect.soda.analysis import SodaResult, analyse
from onnx_soda._detect.soda.attribution import Attribution
from onnx_soda._detect.soda.statistic import VictimDetection
from onnx_soda._errors import MissingExtraError, OptionError, RepairError, SodaError
from onnx_soda._numbers import EstimateNumbers, SodaNumbers, plain
from onnx_soda._options import Progress
from onnx_soda._results import Chart, Column, Evidence, Finding, Table
from onnx_soda._rules import RULE_TARGET
from onnx_soda._suspect import Examined, Suspect
from onnx_soda._words import class_label

# Two points are always equally far from their median, so no outlier can be found among them.
_FEWEST_CLASSES = 3
_CAVEAT = (
    "This rests on the paper's {statistic} alone, which misses backdoors and flags clean "
    "models; `onnx-soda explain paper-statistic` has the measured rates. Judge it with the "
    "evidence."
)
# Neurons that a report names for each class.
_RESPONSIBLE = 10
# Classes in a chart; the most abnormal ones first.
_MOST_CLASSES = 43


class SodaDetector(Detector):
    """Decides by the paper's statistic of one layer alone (sections 3.1 and 3.2)."""

    name: ClassVar[str] = "soda"

    def run(self, suspect: Suspect, progress: Progress) -> Evidence:
        """Run Algorithms 1 to 3; see `Detector.run`."""
        layer = suspect.anatomy.layer
        title = f"Causal analysis of the {layer.role} layer (SODA)"
        unseen = f"The {layer.role} layer's causal attribution was not analysed."
        if layer.only_read:
            return Evidence(self.name, title, "inconclusive", (unseen,), unexamined=(unseen,))
        advance = partial(progress, "interventions on neurons")
        # Whether the numbers are finite is looked at afterwards.
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                result = analyse(suspect.tail, suspect.observation, suspect.options, advance)
        except (MissingExtraError, OptionError, RepairError) as error:
            told = (f"{unseen[:-1]}: {error.message}. {_way_out(error)}",)
            return Evidence(self.name, title, "inconclusive", told, unexamined=told, notes=told)
        names = suspect.clean.class_names if suspect.clean else None
        decision = decide(result, suspect.examined, names, layer.role)
        if result is None:
            return Evidence(
                self.name, title, decision.verdict, decision.reasons, unexamined=(unseen,)
            )
        numbers = _numbers(result, suspect)
        return Evidence(
            detector=self.name,
            title=title,
            verdict=decision.verdict,
            reasons=decision.reasons,
            findings=decision.findings,
            notes=_note(result, names, layer.role),
            tables=(_table(numbers, title, names),),
            charts=tuple(_charts(numbers, names)),
            numbers=plain(numbers),
        )


def _way_out(error: SodaError) -> str:
    """Return what to do instead; without torch channels do."""
    if isinstance(error, MissingExtraError):
        return f"{error.advice}, or take `neurons=channels`, of which interventions are run."
    return error.advice


def _statistic(role: str) -> str:
    return "last-layer statistic" if role == "last" else f"statistic of the {role} layer"


def decide(
    result: SodaResult | None,
    examined: Examined,
    names: Sequence[str] | None = None,
    role: str = "last",
) -> Decision:
    """Decide whether the model is clean, backdoored, or cannot be judged.

    Args:
        result: Result of the causal analysis; None where it was not possible.
        examined: What was examined.
        names: Class names.
        role: Of the layer.
    """
    caveat = _CAVEAT.format(statistic=_statistic(role))
    findings = _findings(result, examined, names) if result else ()
    gaps = _gaps(result, examined)
    if examined.too_inaccurate:
        return Decision("inconclusive", gaps, findings)
    if findings:
        return Decision("backdoor", (findings[0].message, caveat, *gaps), findings)
    if gaps:
        return Decision("inconclusive", gaps, ())
    return Decision("clean", ("No class stands out in the causal analysis.", caveat), ())


def _gaps(result: SodaResult | None, examined: Examined) -> tuple[str, ...]:
    """Say what stands against calling the model clean."""
    gaps = shortfall_of_all(examined)
    if result is None:
        gaps.append(
            "No causal analysis ran: without clean images it needs a layer whose tail is affine, "
            "a = 1, and the closed form."
        )
    if examined.classes is not None and examined.classes < _FEWEST_CLASSES:
        gaps.append(
            f"With {examined.classes} classes the outlier test cannot find anything; it needs "
            f"{_FEWEST_CLASSES}."
        )
    return (*gaps, *thin_spots(examined))


def _findings(
    result: SodaResult, examined: Examined, names: Sequence[str] | None
) -> tuple[Finding, ...]:
    victims = {} if examined.too_inaccurate else {v.target_class: v for v in result.victims}
    return tuple(
        _finding(result, target, victims.get(target), names) for target in result.targets.flagged
    )


def _finding(
    result: SodaResult, target: int, victim: VictimDetection | None, names: Sequence[str] | None
) -> Finding:
    score = -float(result.targets.index[target])
    threshold = result.targets.threshold
    message = (
        f"Class {class_label(target, names)} is reached through neurons that serve no other class "
        f"(anomaly index {score:.1f}, over {threshold:g}): a possible target class."
    )
    victim_class = victim.victim_class if victim else None
    if victim is not None and victim_class is not None:
        message += _victim_sentence(victim, victim_class, threshold, names)
    return Finding(
        rule_id=RULE_TARGET,
        severity="high" if victim is not None and victim.strong else "medium",
        victim_class=victim_class,
        target_class=target,
        score=score,
        threshold=threshold,
        message=message,
    )


def _victim_sentence(
    victim: VictimDetection, victim_class: int, threshold: float, names: Sequence[str] | None
) -> str:
    label = class_label(victim_class, names)
    if victim.strong:
        return (
            f" Clean images of class {label} come abnormally near to it "
            f"(index {victim.index:.1f}): the likely victim."
        )
    return (
        f" Clean images of class {label} come nearest to it (index {victim.index:.1f}, under "
        f"{threshold:g}): the likeliest victim, on weaker evidence."
    )


def _note(result: SodaResult, names: Sequence[str] | None, role: str) -> tuple[str, ...]:
    """Say what the statistic says, where another detector decides."""
    if not result.targets.flagged:
        return ()
    classes = ", ".join(class_label(target, names) for target in result.targets.flagged)
    return (
        f"The paper's {_statistic(role)} stands out for class {classes}; by itself that says "
        "little, it does so for most clean models.",
    )


def _estimated(estimate: EstimateNumbers | None) -> str:
    """Say how good estimates are, where attributions are estimated."""
    if estimate is None:
        return ""
    return (
        " Attributions are estimated by slopes. Interventions were run on "
        f"{estimate.neurons} neurons drawn at random, over {estimate.images} images: the rank "
        f"correlation with the estimates is {estimate.rank_correlation:.3f} in the median of all "
        f"source and prediction classes, {estimate.lowest_rank_correlation:.3f} in the worst; the "
        f"largest error is {estimate.largest_error:.0%} of the largest attribution. "
        f"{estimate.corrected} neurons with the largest estimates were corrected by interventions."
    )


def _numbers(result: SodaResult, suspect: Suspect) -> SodaNumbers:
    options = suspect.options
    return SodaNumbers(
        pcc=tuple(map(float, result.targets.pcc)),
        anomaly_index=tuple(map(float, result.targets.index)),
        target_logit_by_source={
            str(victim.target_class): {str(j): y for j, y in victim.target_logits.items()}
            for victim in result.victims
        },
        method=result.attribution.method,
        a=options.intervention.a,
        b=options.intervention.b,
        layer=suspect.anatomy.layer.name,
        neurons=result.neurons,
        spread=options.spread,
        threshold=options.threshold,
        responsible=_responsible(result.attribution),
        role=suspect.anatomy.layer.role,
        kind=options.neurons,
        estimate=result.attribution.estimate,
    )


def _responsible(found: Attribution) -> dict[str, dict[str, float]]:
    """Return for each class the neurons with the largest attribution, the mean over sources."""
    sources = [None] if found.same_for_all else found.sources
    # One after the other: of many neurons and classes, those of all sources take gigabytes.
    attribution = np.abs(found.shift(sources[0]))
    for source in sources[1:]:
        attribution += np.abs(found.shift(source))
    attribution /= len(sources)
    most = np.argsort(-attribution, axis=0, kind="stable")[:_RESPONSIBLE]
    return {
        str(label): {str(neuron): float(attribution[neuron, label]) for neuron in neurons}
        for label, neurons in enumerate(most.T)
    }


def _table(numbers: SodaNumbers, title: str, names: Sequence[str] | None) -> Table:
    """Return a row per class, the most abnormal first."""
    targets = list(numbers.target_logit_by_source)
    order = sorted(range(len(numbers.pcc)), key=numbers.anomaly_index.__getitem__)
    return Table(
        title,
        f"do(x = {_formula(numbers.a, numbers.b)}) on {numbers.neurons:,} neurons, "
        f"{numbers.kind} of {numbers.layer}; {numbers.method}. A class whose anomaly index is "
        f"under -{numbers.threshold:g} is reached through neurons that serve no other class."
        f"{_estimated(numbers.estimate)}",
        (
            Column("class"),
            Column("PCC", "number"),
            Column("anomaly index", "signed"),
            *(Column(f"mean logit of {target}", "signed") for target in targets),
        ),
        tuple(
            (
                class_label(label, names),
                numbers.pcc[label],
                numbers.anomaly_index[label],
                *(numbers.target_logit_by_source[t].get(str(label)) for t in targets),
            )
            for label in order
        ),
        tuple(
            row
            for row, label in enumerate(order)
            if numbers.anomaly_index[label] < -numbers.threshold
        ),
    )


def _formula(a: float, b: float) -> str:
    """Return "a x + b" as people write it."""
    scaled = "x" if a == 1 else f"{a:g} x"
    return f"{scaled} {'-' if b < 0 else '+'} {abs(b):g}"


def _charts(numbers: SodaNumbers, names: Sequence[str] | None) -> Iterator[Chart]:
    order = np.argsort(numbers.anomaly_index, kind="stable")[:_MOST_CLASSES].tolist()
    labels = tuple(class_label(label, names) for label in order)
    index = [numbers.anomaly_index[label] for label in order]
    flagged = tuple(row for row, value in enumerate(index) if value < -numbers.threshold)
    text = (
        f"Anomaly index of each class, the most abnormal first. {len(flagged)} of "
        f"{len(numbers.pcc)} classes lie under -{numbers.threshold:g}."
    )
    yield _bars("Anomaly index", text, labels, index, flagged, -numbers.threshold)
    pcc = [numbers.pcc[label] for label in order]
    text = "How far the causal attribution of each class agrees with that of the others."
    yield _bars("Correlation of causal attributions (PCC)", text, labels, pcc, flagged)
    for target, logits in list(numbers.target_logit_by_source.items())[:1]:
        named = class_label(int(target), names)
        text = f"Mean score of class {named} over clean images of each other class."
        labels = tuple(class_label(int(source), names) for source in logits)
        yield _bars("Target score by source class", text, labels, list(logits.values()))
    neurons = numbers.responsible[str(order[0])]
    text = (
        f"The neurons that push most to class {class_label(order[0], names)}, of {numbers.neurons}."
    )
    labels = tuple(f"neuron {neuron}" for neuron in neurons)
    yield _bars("Causal attribution", text, labels, list(neurons.values()))


def _bars(
    title: str,
    text: str,
    names: tuple[str, ...],
    values: Sequence[float],
    marked: tuple[int, ...] = (),
    limit: float | None = None,
) -> Chart:
    return Chart("bars", title, text, names, tuple((value,) for value in values), marked, limit)
