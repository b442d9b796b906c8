"""SODA's remover: the paper's Algorithm 5, on the outstanding neurons' weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnx_soda._detect.soda.analysis import attribute
from onnx_soda._errors import RepairError
from onnx_soda._options import RepairOptions
from onnx_soda._repair.base import Removal, Remover
from onnx_soda._repair.choosing import Choice, run_best, run_taught
from onnx_soda._repair.masks import outstanding_neurons
from onnx_soda._repair.preparation import ImageSet, Preparation
from onnx_soda._repair.training import head_trainee, trainees_of

# Share of the neurons: all of them.
_ALL = 1.0


class SodaRemover(Remover):
    """Trains the weights on the paths through the neurons that push most to the target class."""

    name: ClassVar[str] = "soda"

    def __init__(self, ready: Preparation) -> None:
        super().__init__(ready)
        self._neurons = _outstanding(ready)
        axis = ready.suspect.anatomy.layer.axis
        self._neurons_at = (axis, self._neurons)
        self._head = head_trainee(
            ready.head, self._activations, self._activations(ready.sample), axis, self._neurons
        )

    def _activations(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Return the analysed layer for images as the model takes them."""
        return self.ready.suspect.body.observe(inputs)[1]

    @property
    def facts(self) -> Mapping[str, Any]:
        """See `Remover.facts`."""
        observation, axis = self.ready.observation, self.ready.suspect.anatomy.layer.axis
        return {"neurons": observation.layer.shape[axis], "outstanding": len(self._neurons)}

    def remove(self, folds: Sequence[ImageSet]) -> Removal:
        """Train with the settings that cross-validation chooses; see `Remover.remove`."""
        ready, target = self.ready, self.ready.task.pair[1]
        options, module = ready.options, ready.whole[0]
        trainees, notes = trainees_of(
            options.scope, self._head, module, ready.sample, self._neurons_at, target, folds
        )
        floor = options.max_accuracy_drop
        if ready.teachers is not None and trainees[0].scope == "deep":
            trainee, choice = trainees[0], run_taught(trainees[0], target, folds, floor)
        else:
            trainee, choice = run_best(trainees, target, folds, floor)
        facts: dict[str, Any] = {"scope": trainee.scope}
        if choice.kept is None:
            return Removal(None, _too_costly(choice, options), facts, notes)
        settings = choice.kept.settings
        facts |= {
            "rate": settings.rate,
            "alpha": settings.alpha,
            "epochs": settings.epochs,
            "share": settings.shares[0],
        }
        repaired = trainee.write_back(choice.weights)
        return Removal(repaired, "", facts, notes)


def _outstanding(ready: Preparation) -> NDArray[np.intp]:
    options, target = ready.options, ready.task.pair[1]
    advance = partial(ready.progress, "interventions on neurons")
    # Weights belong to channels, whatever a scan counts.
    counted = replace(options.scan, neurons="channels")
    found = attribute(ready.suspect.tail, ready.observation, counted, advance)
    if found is None:
        raise RepairError("the neurons' causal attribution cannot be computed")
    # Without a named pair none is more responsible than another.
    top = _ALL if options.whole else options.top
    neurons = outstanding_neurons(found, target, top, options.scan.threshold)
    if not len(neurons):
        raise RepairError(
            f"no neuron stands out for class {target}", "Give a share of them as `top`."
        )
    return neurons


def _too_costly(choice: Choice, options: RepairOptions) -> str:
    return (
        f"Every result loses more than {options.max_accuracy_drop:.1%} of clean accuracy, in which "
        f"the target class counts a tenth at least (before {choice.before:.1%}, at best "
        f"{choice.best_accuracy:.1%})."
    )
