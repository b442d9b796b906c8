"""The threshold of the concept score, as calibrated on models of known truth.

`calibration.json` beside this file is written by `python -m benchmarks.calibrate`; nothing in it is
set by hand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["Calibration", "load_calibration"]


@dataclass(frozen=True)
class Calibration:
    """What the verdict takes from the calibration.

    Attributes:
        threshold: Bound of a score over which the pair is reported.
        clear: The same, under which a model may be called clean; between the two it is unclear.
    """

    threshold: float
    clear: float


def load_calibration() -> Calibration:
    """Return the packaged calibration."""
    text = files("onnx_soda.concepts").joinpath("calibration.json").read_text("utf-8")
    facts = json.loads(text)
    return Calibration(float(facts["threshold"]), float(facts["clear"]))
