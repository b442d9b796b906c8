"""Times causal attribution: closed form and batched against the paper's neuron-by-neuron loop."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import cast

import numpy as np

from benchmarks.children import in_child, peak_mebibytes
from benchmarks.scan_speed import Subject
from onnx_soda import ScanOptions, load_dataset, load_model
from onnx_soda._detect.soda.analysis import attribute
from onnx_soda._detect.soda.attribution import Attribution
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.parts import Tail
from onnx_soda._options import AttributionMethod, Intervention, RuntimeOptions
from onnx_soda._suspect import Observation, Suspect, summarise
from tests.causal.brute_force import attribute_brute_force

__all__ = ["METHODS", "Attributed", "attributions"]

METHODS = ("brute-force", "batched", "closed-form")
# The loop takes seconds, the others milliseconds.
_REPEATS: dict[str, int] = {"brute-force": 3, "batched": 5, "closed-form": 21}


@dataclass(frozen=True)
class Attributed:
    """One way of computing the attribution, measured.

    Attributes:
        seconds: Median time; for the closed form with the test that the tail is affine.
        ratio: Time of the neuron-by-neuron loop over it.
        difference: Largest difference from the loop's result.
        largest: Largest absolute shift, to compare the difference with.
        peak: Peak memory of the process in MiB.
        growth: How much of it attribution added.
    """

    seconds: float
    ratio: float
    difference: float
    largest: float
    peak: float
    growth: float


@dataclass(frozen=True)
class _Run:
    seconds: float
    growth: float


def attributions(subject: Subject, folder: Path) -> tuple[dict[str, Attributed], tuple[int, ...]]:
    """Measure all ways, each in a process of its own, on the same activations.

    Args:
        subject: The model and its clean set.
        folder: Where to keep activations and results.

    Returns:
        The measurements by method, and the shape of the activations.
    """
    shape, _ = in_child(_save_activations, subject, folder)
    runs = {method: in_child(_attribute, subject, folder, method) for method in METHODS}
    loop_seconds = runs["brute-force"][0].seconds
    reference = np.load(folder / "brute-force.npy")
    found: dict[str, Attributed] = {}
    for method, (run, peak) in runs.items():
        difference = float(np.abs(np.load(folder / f"{method}.npy") - reference).max())
        largest = float(np.abs(reference).max())
        found[method] = Attributed(
            run.seconds, loop_seconds / run.seconds, difference, largest, peak, run.growth
        )
    return found, shape


def _save_activations(subject: Subject, folder: Path) -> tuple[int, ...]:
    """Run the body once and keep its activations."""
    clean = load_dataset(subject.data)
    suspect = Suspect(load_model(subject.model), clean, subject.options(True))
    seen = suspect.observe(suspect.sample)
    np.savez(folder / "seen.npz", labels=seen.labels, logits=seen.logits, layer=seen.layer)
    return seen.layer.shape


def _way(method: str, tail: Tail, seen: Observation) -> Attribution:
    """Attribute by one of the program's ways, or by the paper's loop, which the tests have."""
    if method == "brute-force":
        return attribute_brute_force(tail, seen.layer, seen.labels, Intervention())
    options = ScanOptions(attribution=cast("AttributionMethod", method))
    attribution = attribute(tail, summarise(lambda: iter([seen])), options)
    assert attribution is not None  # noqa: S101 - a clean set was given
    return attribution


def _attribute(subject: Subject, folder: Path, method: str) -> _Run:
    with np.load(folder / "seen.npz") as stored:
        seen = Observation(stored["labels"], stored["logits"], stored["layer"], {})
    tail = Tail(dissect(load_model(subject.model)), RuntimeOptions())
    before = peak_mebibytes()
    times = []
    shifts: list[np.ndarray] = []
    for _ in range(_REPEATS[method]):
        start = time.perf_counter()
        attribution = _way(method, tail, seen)
        shifts = [attribution.shift(source) for source in attribution.sources]
        times.append(time.perf_counter() - start)
    growth = peak_mebibytes() - before
    np.save(folder / f"{method}.npy", np.stack(shifts))
    return _Run(median(times), growth)
