"""Tries settings by cross-validation, chooses one, and trains with it on all folds.

A small clean set tells accuracies badly: of 250 images one point is two or three. So every image
of the folds is held out once, and a setting is judged by all of them.

With teachers one setting does (`run_taught`): what costs accuracy elsewhere, and what was not
thought of, is in the lessons. How long to train and how far to go is told by a fold held out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
from torch import Tensor

from onnx_soda._repair.preparation import ImageSet
from onnx_soda._repair.proof import CURED_RATE
from onnx_soda._repair.remove import Settings, Trial, measure
from onnx_soda._repair.training import Trainee

# Rates that differ by less count as equal: they come from few images.
_SAME = 0.005
# Margin that is far enough: nine in ten infected images are then 150 times as likely the victim as
# the target. On the development half and on the bundled digits real trigger images were cured from
# there on, and not all at -3 (docs/repair.md); much more than that costs accuracy for nothing.
_FAR_ENOUGH = -5.0


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen.

    Attributes:
        kept: What it did on the images held out; None where nothing meets the floor.
        before: Accuracy of the unchanged model on them.
        best_accuracy: Of all that was tried.
        weights: By name of the parameter, after training with the settings kept on all folds.
    """

    kept: Trial | None
    before: float
    best_accuracy: float
    weights: Mapping[str, Tensor]


def run_best(
    trainees: Sequence[Trainee], target: int, folds: Sequence[ImageSet], floor: float
) -> tuple[Trainee, Choice]:
    """Try all settings of each, choose, and train once more with the best on all folds.

    Each gives its best result. Those that remove enough are left, or where none does, those that
    misread fewest changed images. Of these, the one that keeps most accuracy is taken. How far they
    drive infected images is no measure here, since Adam is told to stop.

    Args:
        trainees: What is trained, at least one; each from the same start.
        target: Target class.
        folds: Images to train on and to choose by; at least two.
        floor: The most clean accuracy that may be lost on images held out.
    """
    # Activations for the head are computed once, not for every fold anew.
    taught = [(trainee, [trainee.encoded(fold) for fold in folds]) for trainee in trainees]
    before = _accuracy(taught[0][0], target, taught[0][1])
    images = sum(len(fold.labels) for fold in folds)
    best_accuracy, kept = 0.0, []
    for trainee, encoded in taught:
        trials = _cross_validate(trainee, target, encoded)
        best_accuracy = max(best_accuracy, *(trial.accuracy for trial in trials))
        best = choose(trials, before, floor, images)
        if best is not None:
            kept.append((best, trainee, encoded))
    if not kept:
        return trainees[0], Choice(None, before, best_accuracy, {})
    bests = [best for best, _, _ in kept]
    cured = _enough(bests) or _least_misread(bests)
    best, trainee, encoded = max(
        (entry for entry in kept if entry[0] in cured), key=lambda entry: entry[0].accuracy
    )
    together = trainee.samples(reduce(add, encoded), True)
    *_, last = trainee.train(target, (together, together), [best.settings])
    return trainee, Choice(best, before, best_accuracy, last.weights)


# With teachers: rounds of so many epochs, until the fold held out says that enough is removed.
_EPOCHS, _ROUNDS = 4, 3


def run_taught(trainee: Trainee, target: int, folds: Sequence[ImageSet], floor: float) -> Choice:
    """Train with lessons on all folds but one until that one says it is enough; then on all.

    Args:
        trainee: What is trained, by Adam. Of its settings the one that holds clean images to the
            answers at the start is taken.
        target: Target class.
        folds: Images with lessons; at least two.
        floor: The most clean accuracy that may be lost on images held out.
    """
    *taught, last = [trainee.encoded(fold) for fold in folds]
    held_out = trainee.samples(last, True)
    before = measure(trainee.logits, target, held_out, Settings(0, 0, 0)).accuracy
    held = next(settings for settings in trainee.settings if settings.hold)
    wanted = replace(held, epochs=_EPOCHS, rounds=_ROUNDS)
    trials: list[Trial] = []
    samples = trainee.samples(reduce(add, taught), True), held_out
    for result in trainee.train(target, samples, [wanted]):
        trials.append(result.trial)
        ended = len(trials) % len(wanted.shares) == 0
        if ended and _enough(_allowed(trials, before, floor)):
            break
    best = choose(trials, before, floor, len(last.labels))
    best_accuracy = max(trial.accuracy for trial in trials)
    if best is None:
        return Choice(None, before, best_accuracy, {})
    rounds = best.settings.epochs // _EPOCHS
    settings = replace(wanted, rounds=rounds, shares=best.settings.shares)
    together = trainee.samples(reduce(add, [*taught, last]), True)
    *_, end = trainee.train(target, (together, together), [settings])
    return Choice(best, before, best_accuracy, end.weights)


def _allowed(trials: Sequence[Trial], before: float, floor: float) -> list[Trial]:
    """Return those that keep the accuracy; rounding must not decide."""
    return [trial for trial in trials if trial.accuracy >= before - floor - 1e-9]


def choose(trials: Sequence[Trial], before: float, floor: float, images: int) -> Trial | None:
    """Choose the trial that meets the floor and removes enough, or most; None where none meets it.

    1. Some trials drive the infected images far enough from the target. Those among them that keep
       the best accuracy, less its standard error, are as good as the best: the best of many is so
       by chance, too (the one-standard-error rule, Breiman et al. 1984). Of these, the one that
       drives the images least is taken. What changes least keeps most on other images.
    2. Where no trial drives them far enough, those with the lowest target rate are left. The one
       that drives the images furthest is taken: real trigger images are not quite like these.

    Args:
        trials: What training came to.
        before: Accuracy of the unchanged model.
        floor: The most accuracy that may be lost.
        images: That accuracies were measured on.
    """
    allowed = _allowed(trials, before, floor)
    if not allowed:
        return None
    enough = _enough(allowed)
    if enough:
        best = max(trial.accuracy for trial in enough)
        error = math.sqrt(best * (1 - best) / images)
        return max(
            (trial for trial in enough if trial.accuracy >= best - error),
            key=lambda trial: trial.margin,
        )
    return min(_least_misread(allowed), key=lambda trial: trial.margin)


def _enough(trials: Sequence[Trial]) -> list[Trial]:
    """Return those that drive infected images far enough from the target and do not tip over."""
    return [
        trial
        for trial in trials
        if trial.margin <= _FAR_ENOUGH and max(trial.target_rate, trial.tipped_rate) <= CURED_RATE
    ]


def _least_misread(trials: Sequence[Trial]) -> list[Trial]:
    """Return those that misread as few changed images, infected or bystanders, as the best."""
    least = min(_misread(trial) for trial in trials)
    return [trial for trial in trials if _misread(trial) <= least + _SAME]


def _misread(trial: Trial) -> float:
    return trial.target_rate + trial.tipped_rate


def pool(
    trials: Sequence[Trial],
    clean: Sequence[int],
    infected: Sequence[int],
    bystanders: Sequence[int],
) -> Trial:
    """Put together what one setting did on several folds.

    Args:
        trials: One per fold, of equal settings.
        clean: Clean images of each fold.
        infected: Reconstructed images of each.
        bystanders: Bystanders of each; there may be none.
    """

    def mean(name: str, counts: Sequence[int]) -> float:
        return float(np.average([getattr(trial, name) for trial in trials], weights=counts))

    return Trial(
        trials[0].settings,
        mean("accuracy", clean),
        mean("target_rate", infected),
        mean("victim_rate", infected),
        mean("margin", infected),
        mean("tipped_rate", bystanders) if any(bystanders) else 0.0,
    )


def _accuracy(trainee: Trainee, target: int, folds: Sequence[ImageSet]) -> float:
    held_out = trainee.samples(reduce(add, folds), False)
    return measure(trainee.logits, target, held_out, Settings(0, 0, 0)).accuracy


def _cross_validate(trainee: Trainee, target: int, folds: Sequence[ImageSet]) -> list[Trial]:
    """Return what every setting does on images it was not trained on, all folds together."""
    by_fold = []
    for number, fold in enumerate(folds):
        others = [other for place, other in enumerate(folds) if place != number]
        samples = trainee.samples(reduce(add, others), True), trainee.samples(fold, True)
        results = trainee.train(target, samples, trainee.settings)
        by_fold.append([result.trial for result in results])
    kinds = ("clean", "infected", "bystanders")
    counts = [[len(getattr(fold, kind)) for fold in folds] for kind in kinds]
    return [pool(trials, *counts) for trials in zip(*by_fold, strict=True)]
