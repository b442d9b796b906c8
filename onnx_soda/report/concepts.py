"""Turns the evidence of concept interventions into its form in the report."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnx_soda.concepts.confirm import Confirmation, Example
from onnx_soda.concepts.examine import ConceptEvidence
from onnx_soda.concepts.styles import Style
from onnx_soda.report.schema import ChangeKind, ConceptExample, ConceptPair, ConceptReport

__all__ = ["report_concepts"]

# Pixels; larger images are reduced, so that reports stay small.
_LARGEST_SIDE = 128


def report_concepts(evidence: ConceptEvidence, threshold: float, budget: str) -> ConceptReport:
    """Return the evidence as the report has it.

    Args:
        evidence: What the interventions showed.
        threshold: Bound over which a pair is reported.
        budget: Name of the budget.
    """
    return ConceptReport(
        pairs=tuple(map(_pair, evidence.pairs)),
        examples=tuple(
            _example(example, pair) for pair in evidence.pairs for example in pair.examples
        ),
        threshold=threshold,
        budget=budget,
        concepts=evidence.tried,
        probe_images=evidence.probe_images,
        fit_images=evidence.fit_images,
        fewest_images=evidence.fewest_images,
        reference_accuracies=evidence.reference_accuracies,
    )


def _pair(found: Confirmation) -> ConceptPair:
    return ConceptPair(
        victim_class=found.victim_class,
        target_class=found.target_class,
        score=found.score,
        low=found.low,
        high=found.high,
        bound=found.bound,
        concept=found.concept.describe(),
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
        kind=_kind(found),
        also_turned=found.also,
    )


def _example(example: Example, pair: Confirmation) -> ConceptExample:
    return ConceptExample(
        victim_class=pair.victim_class,
        target_class=pair.target_class,
        label=example.label,
        before=_data_uri(example.before),
        under=_data_uri(example.under),
        predicted_before=example.predicted_before,
        predicted_under=example.predicted_under,
        target_probability=min(max(example.target_probability, 0.0), 1.0),
        kind=_kind(pair),
    )


def _kind(pair: Confirmation) -> ChangeKind:
    return "style" if isinstance(pair.concept, Style) else "concept"


def _data_uri(pixels: NDArray[np.float32]) -> str:
    levels = np.rint(255 * pixels.transpose(1, 2, 0)).astype(np.uint8)
    image = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
