"""Interventions on what clean images show: reference heads, two searches, a closer look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from onnx_soda._data.datasets import CleanSet
from onnx_soda._data.sources import IntArray
from onnx_soda._detect.concepts.battery import BUDGETS, Budget, concept_battery
from onnx_soda._detect.concepts.closer import CloserLook
from onnx_soda._detect.concepts.concept import Concept, ConceptVariations
from onnx_soda._detect.concepts.examination import (
    Examination,
    FoldedImages,
    Panels,
    Reader,
    count_by_fold,
    fewest_of,
)
from onnx_soda._detect.concepts.folds import Folds, in_both_folds, split_into_folds
from onnx_soda._detect.concepts.likeness import kinds_of, model_likeness
from onnx_soda._detect.concepts.outlook import Outlook, look_ahead, readable, thinned
from onnx_soda._detect.concepts.plan import Plan, spread
from onnx_soda._detect.concepts.reference import Features, fit_reference_head, read_features
from onnx_soda._detect.concepts.score import look_alikes
from onnx_soda._detect.concepts.search import Leading, SearchResult, search, search_styles
from onnx_soda._detect.concepts.styles import AnyChange, Style, StyleLibrary
from onnx_soda._detect.concepts.verify import Confirmation
from onnx_soda._results import StopCause
from onnx_soda._suspect import Suspect

# With more classes tables of all pairs do not fit into memory, not even one at a time.
_MOST_CLASSES = 4096
# The same for what compares all pairs under all concepts, references and repair: what one model
# makes of the bank takes 120 MiB then.
MOST_CLASSES = 256
# With one class nothing shows whether a change turns that class alone.
_FEWEST_CLASSES = 2


def why_not_tried(clean: CleanSet | None, classes: int, most: int = _MOST_CLASSES) -> str | None:
    """Return a sentence on why interventions on the image are not tried; None where they can be.

    Args:
        clean: The clean images; where there are none, that is said elsewhere.
        classes: Number of classes of the model.
        most: Classes that there may be.
    """
    if classes > most:
        return (
            f"Interventions on the image are made for at most {most} classes; the model has "
            f"{classes}."
        )
    if clean is None:
        return None
    if clean.preprocessed:
        return (
            "Interventions on the image need images as pixels; these are numbers on no scale of "
            "pixels, as the model takes them. Give the images before preprocessing."
        )
    if len(in_both_folds(clean.labels)) < _FEWEST_CLASSES:
        return (
            f"Interventions on the image need clean images of {_FEWEST_CLASSES} classes, two of "
            "each at least."
        )
    return None


@dataclass(frozen=True, eq=False)
class ConceptResult:
    """What interventions show.

    Attributes:
        search: What changes of the image did.
        styles: What styles of other images in a hidden tensor did; None where the model has no
            tensor with a style.
        pairs: The pairs with the highest scores, looked at image by image; the highest bound first.
            A pair may be there twice, by a concept and by a style.
        reference_accuracies: Clean accuracy of the reference heads of each layer, the last layer
            first, on images they were not fitted to.
        model_accuracy: Clean accuracy of the model on the images they were fitted to.
        fit_images: Images that the reference heads were fitted to, both folds together.
        fewest_images: Those of the smaller fold of the class with the fewest.
        screen_images: Images that all interventions which nothing has chosen were tried on.
        probe_images: Images that the best of them, and their variations, were tried on: of the
            victim all, of other classes a few.
        confirm_images: Images that the best pairs were looked at with, besides those of the victim
            that were left.
        look_alikes: Pairs of classes, both ways counted, that look alike to the model: no change
            of the image is scored between them.
        planned: Number of interventions that a complete search tries.
        outlook: What was planned for the time that there was; None where all was.
        spared: Pairs that there was no time to look at, or to look at closely.
    """

    search: SearchResult[Concept]
    styles: SearchResult[Style] | None
    pairs: tuple[Confirmation, ...]
    reference_accuracies: tuple[float, ...]
    model_accuracy: float
    fit_images: int
    fewest_images: int
    screen_images: int
    probe_images: int
    confirm_images: int
    look_alikes: int = 0
    planned: int = 0
    outlook: Outlook | None = None
    spared: tuple[tuple[int, int], ...] = ()

    @property
    def halted(self) -> StopCause | None:
        """Why the search ended early; None where it did not."""
        return self.search.halted or (self.styles.halted if self.styles else None)

    @property
    def tried(self) -> int:
        """Number of concepts and styles tried."""
        return self.search.tried + (self.styles.tried if self.styles else 0)


def examine_concepts(
    suspect: Suspect,
    budget: Budget | None = None,
    advance: Callable[[int, int], None] | None = None,
    leading: Leading | None = None,
) -> ConceptResult:
    """Search for interventions that turn one class into another without the clean data's support.

    Args:
        suspect: The classifier, with clean images; see `why_not_tried`.
        budget: How many to try, where there is time; see `onnx_soda._detect.concepts.plan`.
        advance: Called with the number of interventions tried and the number in all.
        leading: Called with the best pair so far of the search that goes on.

    Raises:
        InferenceError: The model does not run.
        ImageError: An image is unreadable or does not fit the model.
    """
    assert suspect.clean is not None  # noqa: S101 - the caller has looked
    budget = budget or BUDGETS["default"]
    rng = np.random.default_rng(suspect.options.seed)
    split = split_into_folds(suspect.clean.labels, rng)
    every = readable(suspect, split)
    labels = suspect.clean.labels[every.rows]
    features = read_features(suspect, every.rows)
    examination = fit_examination(suspect, features, labels, every)
    if examination.kinds is not None:
        budget = budget.widened()
    unread = len(split.rows) - len(every.rows)
    ahead = look_ahead(examination, Reader(suspect, every), budget, features.style_layer, unread)
    plan = ahead.outlook.plan
    folds = thinned(every, labels, plan, rng.spawn(1)[0])
    reader = Reader(suspect, folds)
    images, screen = reader.read(folds.others), reader.read(folds.screen)
    donors = images.of(folds.search[folds.others])
    library = _library(features, donors, folds) if plan.budget.donors else None
    channels = screen.pixels.shape[1]
    concepts, total = plan.concepts, plan.concepts + plan.styles
    shown = (folds.turn < plan.screen)[folds.others]
    look = CloserLook(examination, images, shown, reader, rng, ahead.pace.affords)
    panels = Panels(examination, screen, reader)
    counting = ahead.counting(advance, 0, total)
    battery = spread(concept_battery(channels), plan.battery)
    found = search(panels, channels, rng, plan.budget, counting, donors.donors(), leading, battery)
    pairs = look.at(_first(found, plan), ConceptVariations(channels))
    styles = None
    if library and not found.halted:
        panels = panels.with_style(library.layer)
        counting = ahead.counting(advance, concepts, total)
        styles = search_styles(panels, library, rng, plan.budget, counting, leading)
        # What is usual under styles is not known yet where not even the screening was done.
        if styles.screened:
            sure = {(pair.victim_class, pair.target_class) for pair in pairs if pair.bound > 0}
            pairs += look.at(_first(styles, plan), library, library.layer, sure)
    return ConceptResult(
        search=found,
        styles=styles,
        pairs=tuple(sorted(pairs, key=lambda pair: -pair.bound)),
        reference_accuracies=tuple(head.accuracy for head in examination.heads),
        model_accuracy=features.accuracy,
        fit_images=len(labels),
        fewest_images=examination.fewest,
        screen_images=len(screen.labels),
        probe_images=int(folds.search.sum()),
        confirm_images=len(images.labels),
        look_alikes=look_alikes(examination.likeness),
        planned=total,
        outlook=ahead.outlook,
        spared=tuple(dict.fromkeys(look.spared)),
    )


def _first(found: SearchResult[AnyChange], plan: Plan) -> SearchResult[AnyChange]:
    """Return what was found with as many pairs as there is time to look at."""
    return replace(found, findings=found.findings[: plan.looks])


def _library(features: Features, images: FoldedImages, folds: Folds) -> StyleLibrary | None:
    """Return the styles of the images searched on; None where the model has no style layer."""
    if features.style_layer is None:
        return None
    styles = features.styles[folds.search & folds.others]
    return StyleLibrary(features.style_layer, styles, images.pixels)


def fit_examination(
    suspect: Suspect, features: Features, labels: IntArray, folds: Folds
) -> Examination:
    """Fit reference heads; find out how alike classes are.

    Args:
        suspect: The classifier.
        features: What it makes of the images of the folds.
        labels: Their classes.
        folds: The images.
    """
    classes = suspect.classes or 0
    heads = tuple(
        fit_reference_head(pooling, layer, labels, folds.fold, classes)
        for pooling, layer in zip(features.poolings, features.layers, strict=True)
    )
    fitted = count_by_fold(labels, folds.fold, classes)
    kinds = kinds_of(features.layers[0], labels, classes)
    likeness = model_likeness(features.layers, labels, classes, fewest_of(fitted), kinds)
    return Examination(suspect, heads, fitted, likeness, classes, kinds)
