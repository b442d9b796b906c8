"""What a caller can choose about a scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from onnx_soda.causal.interventions import Intervention
from onnx_soda.causal.outliers import DEFAULT_THRESHOLD, Spread
from onnx_soda.model.runtime_options import RuntimeOptions

__all__ = ["AttributionMethod", "BudgetName", "Method", "Progress", "ScanOptions", "no_progress"]

AttributionMethod = Literal["auto", "closed-form", "batched", "brute-force"]

Method = Literal["concepts", "soda"]
BudgetName = Literal["quick", "default", "thorough"]

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, the steps done, and the steps in all."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class ScanOptions:
    """Options of a scan.

    Attributes:
        method: "concepts" decides by interventions on what the images show; "soda" by the
            paper's last-layer statistic alone.
        budget: How many concepts to try.
        layer: "last", "deep", "middle", "shallow" or the name of a tensor.
        logits: Name of the logits; found where not given.
        intervention: a and b of do(x = a x + b); the paper uses 1 and 1.
        attribution: How to compute the causal attribution; "auto" takes the closed form where
            the tail is affine.
        threshold: Anomaly index over which a class is abnormal; the paper's 2.
        spread: Median or mean absolute deviation, see `onnx_soda.causal.outliers`.
        toolkit_zeros: Put in the zeros that the paper's published toolkit puts in, where source
            and prediction (or target) class are the same; the paper has none.
        preprocess: Preset or JSON file; inferred where not given.
        samples_per_class: The most clean images of each class for the accuracy and the last-layer
            analysis; changes of the image use up to 400 of each.
        allow_missing_classes: Go on where classes have no clean images.
        min_accuracy: Clean accuracy under which nothing is concluded.
        seed: For the choice of images and the affinity test.
        runtime: Provider, threads, batch size, memory.
    """

    method: Method = "concepts"
    budget: BudgetName = "default"
    layer: str = "last"
    logits: str | None = None
    intervention: Intervention = field(default_factory=Intervention)
    attribution: AttributionMethod = "auto"
    threshold: float = DEFAULT_THRESHOLD
    spread: Spread = "median"
    toolkit_zeros: bool = False
    preprocess: str | None = None
    samples_per_class: int = 100
    allow_missing_classes: bool = False
    min_accuracy: float = 0.5
    seed: int = 0
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
