"""Trains the responsible weights with several settings and chooses among the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnx_soda.errors import WriteBackError
from onnx_soda.repair.bridge import TorchModel
from onnx_soda.repair.masks import Masks, feeding_weights, outgoing_weights
from onnx_soda.repair.remove import Samples, Settings, Trained, measure, train

__all__ = ["Choice", "Material", "Trainee", "choose", "head_trainee", "path_trainee", "run_grid"]

# Tried for the head; the whole model is trained with fewer, an epoch takes much longer.
_RATES, _ALPHAS, _EPOCHS = (0.003, 0.01, 0.03, 0.1), (0.01, 0.1), 8
_PATH_RATES, _PATH_ALPHAS, _PATH_EPOCHS = (0.0003, 0.001, 0.003), (0.01,), 8
# Target rates that differ by less count as equal: they come from few images.
_SAME = 0.005
# Images that gradients are looked at with.
_LOOK = 64


@dataclass(frozen=True, eq=False)
class Material:
    """Images of one part, as the model takes them, with their labels."""

    clean: NDArray[Any]
    labels: NDArray[np.int64]
    infected: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Trainee:
    """What is trained: the head from the layer on, or the whole model.

    Attributes:
        bridge: The module.
        logits: Its call.
        masks: Which weights may change.
        encode: Turns images, as the model takes them, into what `logits` takes.
        settings: To try.
    """

    bridge: TorchModel
    logits: Callable[[Tensor], Tensor]
    masks: Masks
    encode: Callable[[NDArray[Any]], NDArray[Any]]
    settings: tuple[Settings, ...]

    def write_back(self, weights: Mapping[str, Tensor]) -> onnx.ModelProto:
        """Return the file's model with other values of its weights."""
        with torch.no_grad():
            for name, value in weights.items():
                self.bridge.parameters[name].copy_(value)
        return self.bridge.write_back()

    def samples(self, material: Material) -> Samples:
        """Return the images of one part as this trains on them."""
        clean, infected = (
            torch.from_numpy(np.asarray(self.encode(images), np.float32))
            for images in (material.clean, material.infected)
        )
        return Samples(clean, torch.from_numpy(material.labels), infected)


@dataclass(frozen=True, eq=False)
class Choice:
    """The result kept.

    Attributes:
        kept: Trial and weights; None where none meets the floor.
        before: The unchanged model on the same images.
        best_accuracy: Of all results, on the images that they are chosen by.
    """

    kept: Trained | None
    before: float
    best_accuracy: float


def head_trainee(
    bridge: TorchModel,
    encode: Callable[[NDArray[Any]], NDArray[Any]],
    activations: NDArray[Any],
    axis: int,
    neurons: NDArray[np.intp],
) -> Trainee:
    """Return the head with the weights that read the neurons.

    Args:
        bridge: The head in torch.
        encode: Image to layer.
        activations: Of the layer, some rows.
        axis: Axis of the neurons.
        neurons: The outstanding ones.

    Raises:
        WriteBackError: These weights are quantized in the file.
    """
    rows = torch.from_numpy(np.asarray(activations[:1], np.float32))
    logits = _rows(bridge.module)
    masks = outgoing_weights(logits, bridge.parameters, rows, axis, neurons)
    _check_stored(bridge, masks)
    settings = tuple(Settings(rate, alpha, _EPOCHS) for rate in _RATES for alpha in _ALPHAS)
    return Trainee(bridge, logits, masks, encode, settings)


def path_trainee(
    bridge: TorchModel,
    head: Trainee,
    images: NDArray[Any],
    axis: int,
    neurons: NDArray[np.intp],
) -> Trainee:
    """Return the whole model with the weights into and out of the neurons.

    Args:
        bridge: The model in torch, with logits and layer as outputs.
        head: Its head, which tells the weights out of them.
        images: Some, as the model takes them.
        axis: Axis of the neurons.
        neurons: The outstanding ones.

    Raises:
        WriteBackError: These weights are quantized in the file.
    """
    layer = bridge.module(torch.from_numpy(images[:_LOOK]))[1]
    masks = {**feeding_weights(layer, bridge.parameters, axis, neurons), **head.masks}
    _check_stored(bridge, masks)
    first = _rows(lambda images: bridge.module(images)[0])
    settings = tuple(
        Settings(rate, alpha, _PATH_EPOCHS) for rate in _PATH_RATES for alpha in _PATH_ALPHAS
    )
    return Trainee(bridge, first, masks, lambda images: images, settings)


def _rows(module: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda inputs: module(inputs).reshape(len(inputs), -1)


def _check_stored(bridge: TorchModel, masks: Masks) -> None:
    quantized = sorted(masks.keys() & bridge.dequantized.keys())
    if quantized or not masks:
        what = f"the weight {quantized[0]!r} is" if quantized else "none of its weights is not"
        raise WriteBackError(
            f"the head cannot be repaired: {what} quantized in the file",
            "Repair the model before quantization, and quantize the repaired one.",
        )


def run_grid(
    trainee: Trainee, pair: tuple[int, int], training: Material, held_out: Material, floor: float
) -> Choice:
    """Train with every setting and choose.

    Args:
        trainee: What is trained.
        pair: Victim and target.
        training: To train on.
        held_out: To choose by.
        floor: The most clean accuracy that may be lost on `held_out`.
    """
    samples = trainee.samples(training), trainee.samples(held_out)
    before = measure(trainee.logits, pair, samples[1], Settings(0, 0, 0)).accuracy
    results = train(
        trainee.logits,
        trainee.bridge.parameters,
        trainee.masks,
        pair,
        samples,
        trainee.settings,
    )
    return choose(results, before, floor)


def choose(results: Iterable[Trained], before: float, floor: float) -> Choice:
    """Choose the result that meets the floor and removes most.

    Of those whose target rate is as low as the lowest, the one that drives the infected images
    furthest from the target: real trigger images are not quite like the reconstructed ones.

    Args:
        results: What training came to.
        before: Accuracy of the unchanged model.
        floor: The most accuracy that may be lost.
    """
    found, best_accuracy = list(results), 0.0
    if found:
        best_accuracy = max(one.trial.accuracy for one in found)
    # Rounding of accuracies must not decide.
    allowed = [one for one in found if one.trial.accuracy >= before - floor - 1e-9]
    if not allowed:
        return Choice(None, before, best_accuracy)
    least = min(one.trial.target_rate for one in allowed)
    cured = [one for one in allowed if one.trial.target_rate <= least + _SAME]
    kept = min(cured, key=lambda one: one.trial.margin)
    return Choice(kept, before, best_accuracy)
