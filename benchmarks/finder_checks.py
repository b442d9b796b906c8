"""Checks what onnx-soda picks in an exported network against what its framework knows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from benchmarks.finder_jobs import CLASSES, Made
from onnx_soda import load_model
from onnx_soda._detect.soda.attribution import is_affine
from onnx_soda._model.anatomy import Anatomy, dissect
from onnx_soda._model.parts import Body, Tail
from onnx_soda._options import ScanOptions

__all__ = ["check"]

# Relative to the largest value: what ONNX Runtime's fused operators may differ by from running
# the same weights operator by operator.
_TOLERANCE = 1e-4


@dataclass
class _Outcome:
    """What was picked and what is wrong with it.

    Attributes:
        failures: A sentence for each check that failed.
        picked: What was picked, for the table.
    """

    failures: list[str] = field(default_factory=list)
    picked: dict[str, Any] = field(default_factory=dict)


def check(path: Path, made: Made) -> dict[str, Any]:
    """Load, dissect and run an exported network; return failures and what was picked.

    Any exception is a failure of onnx-soda; its message says in which stage.
    """
    outcome, stage = _Outcome(), "load_model"
    try:
        model = load_model(path)
        stage = "dissect"
        anatomy = dissect(model)
        outcome.picked.update(_describe(anatomy))
        _check_anatomy(anatomy, made, outcome)
        stage = "run"
        _check_values(anatomy, made, outcome)
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs into the table
        outcome.failures.append(f"{stage}: {type(error).__name__}: {error}"[:300])
    return asdict(outcome)


def _describe(anatomy: Anatomy) -> dict[str, Any]:
    producer = anatomy.layer.value.producer()
    return {
        "opset": anatomy.model.opset,
        "nodes": sum(1 for _ in anatomy.view.model.graph),
        "batch": anatomy.view.image.batch,
        "stripped": list(anatomy.logits.stripped),
        "layer_from": producer.op_type if producer else "input",
        "layer_shape": list(anatomy.layer.shape or ())[1:],
        "roles": [layer.role for layer in anatomy.candidates],
        "notes": list(anatomy.notes),
    }


def _check_anatomy(anatomy: Anatomy, made: Made, outcome: _Outcome) -> None:
    if anatomy.logits.classes != CLASSES:
        outcome.failures.append(f"classes: {anatomy.logits.classes}, not {CLASSES}")
    if anatomy.layer.neurons != made.width:
        outcome.failures.append(
            f"width: {anatomy.layer.neurons} neurons of {anatomy.layer.name}, not {made.width}"
        )


def _check_values(anatomy: Anatomy, made: Made, outcome: _Outcome) -> None:
    runtime = ScanOptions().runtime
    tail = Tail(anatomy, runtime)
    body = Body(anatomy, runtime, tail.needed)
    logits, layer, sides = body.observe(made.images)
    head = [node.op_type for node in tail.graph.model.graph if node.op_type != "Constant"]
    affine = is_affine(tail, np.random.default_rng(0), layer)
    outcome.picked.update(head=head, sides=list(tail.needed), affine=affine)
    expected = softmax(logits, axis=1) if made.softmax else logits
    _compare("logits against the framework's", expected, made.scores, outcome)
    # With several heads the layer is a tensor before all of them, and a note says so.
    if made.head_input is not None and not anatomy.layer.notes:
        _compare("layer against the head's input", layer, made.head_input, outcome)
    _compare("tail against body", tail.logits(layer, sides), logits, outcome)


def _compare(what: str, found: NDArray[Any], wanted: NDArray[Any], outcome: _Outcome) -> None:
    if found.size != wanted.size:
        outcome.failures.append(f"{what}: shape {found.shape}, not {wanted.shape}")
        return
    difference = np.abs(found.reshape(wanted.shape) - wanted).max()
    if not difference <= _TOLERANCE * max(float(np.abs(wanted).max()), 1e-30):
        outcome.failures.append(f"{what}: differs by {difference:.1e}")
