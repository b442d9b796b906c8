"""What is trained: the head or the whole model, with the settings that are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnx_soda.errors import WriteBackError
from onnx_soda.repair.bridge import TorchModel
from onnx_soda.repair.masks import Masks, feeding_weights, outgoing_weights, upstream_weights
from onnx_soda.repair.remove import Samples, Settings, Trained, train

__all__ = [
    "Material",
    "Trainee",
    "head_trainee",
    "whole_trainee",
]

# Tried for the head; the whole model is trained with fewer, an epoch takes much longer.
_RATES, _ALPHAS, _EPOCHS = (0.003, 0.01, 0.03, 0.1), (0.01, 0.1), 8
_PATH_RATES, _PATH_ALPHAS, _PATH_EPOCHS = (0.0003, 0.001, 0.003), (0.01,), 8
_DEEP_RATE, _DEEP_HOLDS, _DEEP_ALPHA, _DEEP_EPOCHS = 0.001, (0, 1), 0.01, 6
# Infected images are driven from the target until its probability is under 1 %.
_DEEP_CAP = 4.6
_DEEP_SHARES = (1.0, 0.75, 0.5)
_WHOLE = {
    "path": (
        feeding_weights,
        tuple(Settings(r, a, _PATH_EPOCHS) for r in _PATH_RATES for a in _PATH_ALPHAS),
    ),
    "deep": (
        upstream_weights,
        tuple(
            Settings(
                _DEEP_RATE,
                _DEEP_ALPHA,
                _DEEP_EPOCHS,
                adam=True,
                hold=hold,
                cap=_DEEP_CAP,
                shares=_DEEP_SHARES,
            )
            for hold in _DEEP_HOLDS
        ),
    ),
}
# Images that gradients are looked at with.
_LOOK = 64


@dataclass(frozen=True, eq=False)
class Material:
    """Images of one part, as the model takes them, with their labels.

    Attributes:
        clean: Clean images, of all classes.
        labels: Their classes.
        infected: Reconstructed infected images.
        infected_labels: Their true classes.
        bystanders: Images of other classes, changed as the infected ones are.
        bystander_labels: Their classes.
    """

    clean: NDArray[Any]
    labels: NDArray[np.int64]
    infected: NDArray[Any]
    infected_labels: NDArray[np.int64]
    bystanders: NDArray[Any]
    bystander_labels: NDArray[np.int64]

    def __add__(self, other: Material) -> Material:
        pairs = ((getattr(self, one.name), getattr(other, one.name)) for one in fields(self))
        return Material(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True, eq=False)
class Trainee:
    """What is trained: the head from the layer on, or the whole model.

    Attributes:
        scope: "head", "path" or "deep".
        bridge: The module.
        logits: Its call.
        masks: Which weights may change.
        encode: Turns images, as the model takes them, into what `logits` takes.
        settings: To try.
    """

    scope: str
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

    def encoded(self, material: Material) -> Material:
        """Return a part with what `logits` takes in place of its images."""
        clean = self.encode(material.clean)
        some = len(material.bystanders) > 0
        return replace(
            material,
            clean=clean,
            infected=self.encode(material.infected),
            bystanders=self.encode(material.bystanders) if some else clean[:0],
        )

    def samples(self, material: Material, bystanders: bool) -> Samples:
        """Return one part as this trains on it.

        Args:
            material: The part, encoded.
            bystanders: With these among the clean ones.
        """
        clean, labels, count = material.clean, material.labels, 0
        if bystanders and len(material.bystanders):
            clean = np.concatenate([clean, material.bystanders])
            labels = np.concatenate([labels, material.bystander_labels])
            count = len(material.bystanders)
        shown, infected = (
            torch.from_numpy(np.asarray(images, np.float32))
            for images in (clean, material.infected)
        )
        truth, own = torch.from_numpy(labels), torch.from_numpy(material.infected_labels)
        return Samples(shown, truth, infected, own, count)

    def train(
        self,
        target: int,
        samples: tuple[Samples, Samples],
        settings: Sequence[Settings],
    ) -> Iterator[Trained]:
        """Train; see `remove.train`."""
        return train(self.logits, self.bridge.parameters, self.masks, target, samples, settings)


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
    _check_stored("the head", bridge, masks)
    settings = tuple(Settings(rate, alpha, _EPOCHS) for rate in _RATES for alpha in _ALPHAS)
    return Trainee("head", bridge, logits, masks, encode, settings)


def whole_trainee(
    scope: Literal["path", "deep"],
    bridge: TorchModel,
    head: Trainee,
    images: NDArray[Any],
    axis: int,
    neurons: NDArray[np.intp],
) -> Trainee:
    """Return the whole model with the weights out of the neurons, and those into them.

    Args:
        scope: "path": the weights that move these neurons and no others; "deep": those on all paths
            from the image to them.
        bridge: The model in torch, with logits and layer as outputs.
        head: Its head, which tells the weights out of them.
        images: Some, as the model takes them.
        axis: Axis of the neurons.
        neurons: The outstanding ones.

    Raises:
        WriteBackError: These weights are quantized in the file.
    """
    into, settings = _WHOLE[scope]
    layer = bridge.module(torch.from_numpy(images[:_LOOK]))[1]
    masks = {**into(layer, bridge.parameters, axis, neurons), **head.masks}
    _check_stored("the model before its head", bridge, masks)
    logits = _rows(lambda images: bridge.module(images)[0])
    return Trainee(scope, bridge, logits, masks, lambda images: images, settings)


def _rows(module: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda inputs: module(inputs).reshape(len(inputs), -1)


def _check_stored(part: str, bridge: TorchModel, masks: Masks) -> None:
    quantized = sorted(masks.keys() & bridge.dequantized.keys())
    if quantized or not masks:
        what = f"the weight {quantized[0]!r} is" if quantized else "none of its weights is not"
        raise WriteBackError(
            f"{part} cannot be repaired: {what} quantized in the file",
            "Repair the model before quantization, and quantize the repaired one.",
        )
