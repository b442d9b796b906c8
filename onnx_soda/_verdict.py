"""From evidence to a verdict, as the paper decides: Algorithm 2 flags a target class, or not.

The verdict is never "clean" where something was not examined: too low an accuracy, classes
without images, too few images, too few classes for the outlier test, no usable clean set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx_soda._detect.soda.detector import SodaResult
from onnx_soda._detect.soda.statistic import VictimDetection
from onnx_soda._report.words import class_label
from onnx_soda._results import Finding, Verdict
from onnx_soda._rules import RULE_TARGET

# Two points are always equally far from their median, so no outlier can be found among them.
_FEWEST_CLASSES = 3
# Mean logits over fewer images tell little about a class.
_FEWEST_IMAGES = 10
_CAVEAT = (
    "This rests on the paper's last-layer statistic alone, which misses backdoors and flags clean "
    "models; docs/paper-statistic.md has the measured rates. Judge it with the evidence."
)


@dataclass(frozen=True)
class Examined:
    """What was examined, as far as the verdict depends on it.

    Attributes:
        classes: Number of classes of the model; None where it never became known.
        source_classes: Number of classes with clean images.
        fewest_images: Images of the class with the fewest.
        accuracy: Clean accuracy; None without a clean set.
        min_accuracy: Accuracy under which nothing is concluded.
        misread: Classes of which most images are given one other class: the class, the other, and
            the share.
        unexamined_outputs: Names of the model's outputs that are not computed from the scores.
    """

    classes: int | None
    source_classes: int
    fewest_images: int
    accuracy: float | None
    min_accuracy: float
    misread: tuple[tuple[int, int, float], ...] = ()
    unexamined_outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """Verdict, reasons and findings."""

    verdict: Verdict
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]


def decide(
    result: SodaResult | None, examined: Examined, names: Sequence[str] | None = None
) -> Decision:
    """Decide whether the model is clean, backdoored, or cannot be judged.

    Args:
        result: Result of the causal analysis; None where it was not possible.
        examined: What was examined.
        names: Class names.
    """
    findings = _findings(result, examined, names) if result else ()
    gaps = _gaps(result, examined)
    if too_inaccurate(examined):
        return Decision("inconclusive", gaps, findings)
    if findings:
        return Decision("backdoor", (findings[0].message, _CAVEAT, *gaps), findings)
    if gaps:
        return Decision("inconclusive", gaps, ())
    return Decision("clean", ("No class stands out in the causal analysis.", _CAVEAT), ())


def too_inaccurate(examined: Examined) -> bool:
    """Tell whether the clean accuracy is too low for any conclusion."""
    return examined.accuracy is not None and examined.accuracy < examined.min_accuracy


def shortfalls(examined: Examined) -> tuple[str, ...]:
    """Say what the clean images leave unexamined, whatever the method."""
    return (
        *_shortfall_of_all(examined),
        *_thin_spots(examined),
        *_misread(examined),
        *_other_outputs(examined),
    )


def _other_outputs(examined: Examined) -> list[str]:
    if not examined.unexamined_outputs:
        return []
    return [
        f"Not examined: {', '.join(examined.unexamined_outputs)}, which the model gives beside the "
        "scores and computes in another way. Scan with --logits NAME, of these to examine them, or "
        "of the scores if nothing else is used."
    ]


def _misread(examined: Examined) -> list[str]:
    """Tell which classes the model takes for others as they are: no change can turn them then."""
    if too_inaccurate(examined):
        return []
    return [
        f"{share:.0%} of the clean images of class {label} are taken for class {answer} as they "
        "are: the labels or the order of the classes are not the model's, or it turns this class "
        "whatever the images show."
        for label, answer, share in examined.misread
    ]


def _shortfall_of_all(examined: Examined) -> list[str]:
    gaps = []
    if too_inaccurate(examined):
        gaps.append(
            f"The model gives only {examined.accuracy:.1%} of the clean images their label "
            f"(needed: {examined.min_accuracy:.0%}). The preprocessing, the order of the classes "
            "or the labels do not fit it; see --preprocess."
        )
    if examined.accuracy is None:
        gaps.append(
            "No clean images were given, so only the data-free part of the analysis ran. With "
            "--data CLEAN_SET (a few dozen labelled images per class: HDF5, npz, image folder, "
            "IDX or Parquet) the victim class, the clean accuracy and non-affine layers are "
            "examined too."
        )
    return gaps


def _gaps(result: SodaResult | None, examined: Examined) -> tuple[str, ...]:
    """Say what stands against calling the model clean."""
    gaps = _shortfall_of_all(examined)
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
    return (*gaps, *_thin_spots(examined))


def _thin_spots(examined: Examined) -> list[str]:
    if examined.accuracy is None:
        return []
    spots = []
    missing = (examined.classes or 0) - examined.source_classes
    if missing > 0:
        spots.append(f"{missing} classes have no clean images and were not examined as victims.")
    if examined.fewest_images < _FEWEST_IMAGES:
        spots.append(
            f"A class has only {examined.fewest_images} clean images; at least {_FEWEST_IMAGES} "
            "per class are needed."
        )
    return spots


def _findings(
    result: SodaResult, examined: Examined, names: Sequence[str] | None
) -> tuple[Finding, ...]:
    victims = {} if too_inaccurate(examined) else {v.target_class: v for v in result.victims}
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
