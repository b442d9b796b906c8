"""Scans one model of known truth and keeps what variants of the detection are computed from."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Case
from onnx_soda import (
    CleanSet,
    OnnxModel,
    ScanOptions,
    ScanReport,
    load_dataset,
    load_model,
    scan,
)
from onnx_soda._detect.soda.analysis import analyse
from onnx_soda._detect.soda.statistic import VictimDetection, detect_victim, judge_pcc
from onnx_soda._options import Spread
from onnx_soda._suspect import Suspect

__all__ = ["Examined", "Variant", "Verdict", "examine", "judge"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Variant:
    """One way to run Algorithms 2 and 3.

    Attributes:
        threshold: Anomaly index over which a class is flagged.
        spread: Median or mean absolute deviation.
        toolkit_zeros: Zeros where source and class are the same, as the published toolkit has.
        layer: Role of the layer analysed.
    """

    threshold: float = 2.0
    spread: Spread = "median"
    toolkit_zeros: bool = False
    layer: str = "last"


@dataclass(frozen=True, eq=False)
class Examined:
    """What was seen in one model.

    Attributes:
        case: The model and the truth about it.
        report: The scan with default options.
        seconds: Time of that scan, with both files opened.
        preprocessing_right: The inferred preprocessing is the one its maker wrote down; None
            where there is nothing to compare with.
        pcc: Per layer role and toolkit_zeros the mean PCC of each class (Algorithm 2).
        means: Mean logits of each source class (Algorithm 3).
    """

    case: Case
    report: ScanReport
    seconds: float
    preprocessing_right: bool | None
    pcc: dict[tuple[str, bool], FloatArray]
    means: dict[int, FloatArray]

    def victim(self, target: int, variant: Variant | None = None) -> VictimDetection:
        """Return what Algorithm 3 says about a target class."""
        way = variant or Variant()
        return detect_victim(target, self.means, way.threshold, way.spread, way.toolkit_zeros)


@dataclass(frozen=True)
class Verdict:
    """What one variant says about a model: the pairs found, the most abnormal target first."""

    pairs: tuple[tuple[int | None, int], ...]

    def names_target(self, case: Case) -> bool:
        """Tell whether the true target class is among those flagged."""
        return case.target in {target for _, target in self.pairs}

    def names_pair(self, case: Case) -> bool:
        """Tell whether the true victim and target class are named as a pair."""
        return (case.victim, case.target) in self.pairs

    def false_targets(self, case: Case) -> int:
        """Count the classes flagged that are no target."""
        return sum(target != case.target for _, target in self.pairs)


def examine(case: Case, layers: Iterable[str] = ("last", "deep")) -> Examined:
    """Scan a model and compute what the variants need."""
    start = time.perf_counter()
    model, clean = load_model(case.model), load_dataset(case.data)
    report = scan(model, clean, ScanOptions("soda"))
    seconds = time.perf_counter() - start
    pcc: dict[tuple[str, bool], FloatArray] = {}
    means: dict[int, FloatArray] = {}
    for layer in layers:
        by_zeros, means = _analysed(model, clean, ScanOptions(layer=layer))
        pcc.update({(layer, zeros): values for zeros, values in by_zeros.items()})
    return Examined(case, report, seconds, _is_right(case, report), pcc, means)


def _analysed(
    model: OnnxModel, clean: CleanSet, options: ScanOptions
) -> tuple[dict[bool, FloatArray], dict[int, FloatArray]]:
    """Return the mean PCC of each class without and with the toolkit's zeros, and mean logits."""
    suspect = Suspect(model, clean, options)
    seen = suspect.observation
    assert seen is not None  # noqa: S101 - there are clean images
    pcc = {}
    for zeros in (False, True):
        result = analyse(suspect.tail, seen, replace(options, toolkit_zeros=zeros))
        if result is not None:
            pcc[zeros] = result.targets.pcc
    return pcc, dict(seen.logits)


def _is_right(case: Case, report: ScanReport) -> bool | None:
    if case.preprocessing is None or report.dataset is None:
        return None
    taken, known = report.dataset.preprocessing, case.preprocessing
    numbers = all(
        np.allclose(taken[key], known[key], rtol=0.01, atol=1e-4)
        for key in ("scale", "mean", "std")
    )
    return numbers and taken["channel_order"] == "RGB"


def judge(examined: Examined, variant: Variant) -> Verdict:
    """Return what a variant says, from what was seen; nothing is run again."""
    pcc = examined.pcc[variant.layer, variant.toolkit_zeros]
    flagged = judge_pcc(pcc, variant.threshold, variant.spread).flagged
    return Verdict(
        tuple((examined.victim(target, variant).victim_class, target) for target in flagged)
    )
