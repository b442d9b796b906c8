"""A whole classifier in torch that is trained on clean images: what several rivals share.

BatchNorm keeps the statistics of the file, whatever is trained: `onnx_soda._bridge` has it so, and
in most files it is folded into the convolutions. The methods' own programs let the statistics
follow the images of each step. And images are shown as they are: flips and crops, which these
programs add, make other classes of digits and of traffic signs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from onnx_soda._bridge.bridge import TorchModel, to_torch
from onnx_soda._errors import ConversionError, WriteBackError
from onnx_soda._repair.baselines.base import Examples, check_any_batch, share_right
from onnx_soda._repair.preparation import Preparation

# Images of one step: of NAD's program and of most runs of the published comparison.
BATCH = 64
# The most images of an epoch; of more, others are drawn for each. About as many as the 5 % of
# CIFAR-10 that NAD and its like are run with.
_MOST_SHOWN = 2000
_MEASURED_AT_ONCE = 500

Weights = dict[str, Tensor]
"""Values of weights, by their names in the file."""
Reading = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Makes tensors of outputs."""
ExtraLoss = Callable[[Sequence[Tensor], Tensor], Tensor]
"""Takes the outputs for the images of a step, and the places of these among the examples."""


@dataclass(frozen=True)
class Recipe:
    """How weights are trained.

    Attributes:
        rates: Learning rate of each epoch.
        adam: Take Adam's steps (Kingma and Ba 2015), and none with momentum.
        decay: Weight decay.
    """

    rates: tuple[float, ...]
    adam: bool = False
    decay: float = 0.0

    def times(self, factor: float) -> Recipe:
        """Return the same with other rates."""
        return Recipe(tuple(factor * rate for rate in self.rates), self.adam, self.decay)

    def optimizer(self, weights: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Return what takes the steps."""
        if self.adam:
            return torch.optim.Adam(weights, lr=self.rates[0], weight_decay=self.decay)
        return torch.optim.SGD(
            weights, lr=self.rates[0], momentum=0.9, weight_decay=self.decay, nesterov=True
        )


@dataclass(frozen=True, eq=False)
class Network:
    """A classifier in torch whose weights change.

    Attributes:
        bridge: The classifier, with the logits as its first output.
        classes: Number of classes.
        masks: For some weights, which of their values may change: 1 where one may.
    """

    bridge: TorchModel
    classes: int
    masks: Weights = field(default_factory=dict)

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """Its weights, by name."""
        return self.bridge.parameters

    @cached_property
    def start(self) -> Weights:
        """Values of the weights as they are in the file."""
        return {name: weight.detach().clone() for name, weight in self.weights.items()}

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Give weights other values."""
        with torch.no_grad():
            for name, value in values.items():
                self.weights[name].copy_(value)

    def outputs(self, images: Tensor) -> list[Tensor]:
        """Return all outputs; the logits first, as rows."""
        found = self.bridge.module(images)
        logits, *maps = found if isinstance(found, list | tuple) else [found]
        return [logits.reshape(len(images), -1).float(), *maps]

    def seen(self, images: NDArray[np.generic], read: Reading) -> list[Tensor]:
        """Return what is read off the outputs for any number of images, without slopes.

        Args:
            images: As the model takes them.
            read: Makes tensors of a row per image of the outputs. Maps are large, and what is made
                of them is kept for all images.
        """
        with torch.no_grad():
            parts = torch.split(torch.from_numpy(images), _MEASURED_AT_ONCE)
            made = [read(self.outputs(part)) for part in parts]
        return [torch.cat(column) for column in zip(*made, strict=True)]

    def accuracy(self, examples: Examples) -> float:
        """Return the share of images that get their class."""
        (scores,) = self.seen(examples.images, lambda outputs: outputs[:1])
        return share_right(scores.numpy(), examples.labels)

    def train(
        self,
        examples: Examples,
        recipe: Recipe,
        tell: Callable[[int, int], None],
        extra: ExtraLoss | None = None,
    ) -> bool:
        """Train all weights by cross-entropy, from where they are.

        Args:
            examples: Images to train on.
            recipe: Steps and rates.
            tell: Called with the epochs done and all of them.
            extra: A further loss.

        Returns:
            Whether it went well: not if the loss of an epoch is higher than by guessing, or no
            number. It ends there.
        """
        images, labels = torch.from_numpy(examples.images), torch.from_numpy(examples.labels)
        optimizer = recipe.optimizer(list(self.weights.values()))
        rng = np.random.default_rng(0)
        for epoch, rate in enumerate(recipe.rates):
            for group in optimizer.param_groups:
                group["lr"] = rate
            shown = torch.from_numpy(rng.permutation(len(labels))[:_MOST_SHOWN])
            total = 0.0
            for rows in torch.split(shown, BATCH):
                outputs = self.outputs(images[rows])
                loss = cross_entropy(outputs[0], labels[rows])
                total += loss.item() * len(rows)
                self._step(optimizer, loss if extra is None else loss + extra(outputs, rows))
            tell(epoch + 1, len(recipe.rates))
            if not total / len(shown) <= math.log(self.classes):
                return False
        return True

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        for name, mask in self.masks.items():
            slope = self.weights[name].grad
            if slope is not None:
                slope.mul_(mask)
        optimizer.step()


def network_of(ready: Preparation, what: str, maps: Sequence[str] = ()) -> Network:
    """Convert a whole classifier.

    Args:
        ready: The classifier.
        what: What needs it, as in "NAD needs".
        maps: Names of further tensors to return.

    Raises:
        ConversionError: It cannot be converted, or its head alone.
        ParityError: The converted one computes something else.
        WriteBackError: The file holds weights quantized.
        RepairError: It insists on a number of images.
    """
    check_any_batch(ready, what)
    logits = ready.suspect.anatomy.logits.value.name or ""
    bridge = to_torch(ready.proto, images=ready.sample, outputs=[logits, *maps])
    if bridge.scope != "full":
        raise ConversionError(
            f"{what} the whole model in torch. {bridge.notes[0]}",
            "Take `method=dfr`, which fits the last layer alone.",
        )
    if bridge.dequantized:
        raise WriteBackError(
            f"{what} to change the weight {next(iter(bridge.dequantized))!r}, which is quantized "
            "in the file",
            "Repair the model before quantization, and quantize the repaired one.",
        )
    network = Network(bridge, ready.classes)
    _ = network.start  # before anything changes
    return network
