"""Removal: the paper's Algorithm 5, SGD on the weights of the outstanding neurons alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from onnx_soda.repair.masks import Masks

__all__ = ["Samples", "Settings", "Trained", "Trial", "measure", "train"]

_CLEAN_BATCH, _INFECTED_BATCH = 64, 20
_MEASURED_AT_ONCE = 500
_NINE_IN_TEN = 0.9


@dataclass(frozen=True, eq=False)
class Samples:
    """What to train on or to choose by; the layer's activations, or images for the whole model.

    Attributes:
        clean: Shape (images, ...).
        labels: Their classes.
        infected: Reconstructed images of the victim, shape (images, ...).
    """

    clean: Tensor
    labels: Tensor
    infected: Tensor


@dataclass(frozen=True)
class Settings:
    """Settings of Algorithm 5.

    Attributes:
        rate: Learning rate, as the share of the trainable weights' length that the first step
            moves them by.
        alpha: Weight of the loss that drives infected images away from the target.
        epochs: Passes over the clean images ("e").
    """

    rate: float
    alpha: float
    epochs: int


@dataclass(frozen=True)
class Trial:
    """What a state of the weights does on images that it was not trained on.

    Attributes:
        settings: How it came about; `epochs` so far.
        accuracy: On clean images.
        target_rate: Share of the reconstructed images given to the target.
        victim_rate: Share of them given to the victim.
        margin: What nine in ten of them stay under: logit of the target less that of the victim.
    """

    settings: Settings
    accuracy: float
    target_rate: float
    victim_rate: float
    margin: float


@dataclass(frozen=True, eq=False)
class Trained:
    """A trial with the weights behind it, by name of the parameter."""

    trial: Trial
    weights: Mapping[str, Tensor]


def train(
    logits: Callable[[Tensor], Tensor],
    parameters: Mapping[str, nn.Parameter],
    masks: Masks,
    pair: tuple[int, int],
    samples: tuple[Samples, Samples],
    settings: Sequence[Settings],
) -> Iterator[Trained]:
    """Train from the same start with each setting; yield the weights after each epoch.

    The parameters are as they were when it is over.

    Args:
        logits: What is trained.
        parameters: By name; those in `masks` change.
        masks: Which weights may change.
        pair: Victim and target.
        samples: To train on, and to measure with.
        settings: To try.
    """
    own = {name: parameters[name] for name in masks}
    start = {name: weight.detach().clone() for name, weight in own.items()}
    training, held_out = samples
    try:
        for how in settings:
            _restore(own, start)
            rate, rng = None, np.random.default_rng(0)
            for epoch in range(1, how.epochs + 1):
                for clean, infected in _batches(training, rng):
                    slopes = _slopes(logits, own, masks, pair, how.alpha, clean, infected)
                    rate = rate or how.rate * _length(own, masks) / max(_norm(slopes), 1e-12)
                    with torch.no_grad():
                        for name, slope in slopes.items():
                            own[name].sub_(rate * slope)
                done = Settings(how.rate, how.alpha, epoch)
                trial = measure(logits, pair, held_out, done)
                yield Trained(trial, {name: w.detach().clone() for name, w in own.items()})
    finally:
        _restore(own, start)


def measure(
    logits: Callable[[Tensor], Tensor], pair: tuple[int, int], samples: Samples, done: Settings
) -> Trial:
    """Measure the present weights."""
    right = _scores(logits, samples.clean).argmax(1) == samples.labels
    scores = _scores(logits, samples.infected)
    given, (victim, target) = scores.argmax(1), pair
    ahead = scores[:, target] - scores[:, victim]
    return Trial(
        done,
        right.float().mean().item(),
        (given == target).float().mean().item(),
        (given == victim).float().mean().item(),
        torch.quantile(ahead, _NINE_IN_TEN).item(),
    )


def _scores(logits: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([logits(part) for part in torch.split(inputs, _MEASURED_AT_ONCE)])


Batch = tuple[Tensor, Tensor]


def _batches(samples: Samples, rng: np.random.Generator) -> Iterator[tuple[Batch, Tensor]]:
    order = torch.from_numpy(rng.permutation(len(samples.labels)))
    for chosen in torch.split(order, _CLEAN_BATCH):
        drawn: NDArray[np.intp] = rng.integers(len(samples.infected), size=_INFECTED_BATCH)
        infected = samples.infected[torch.from_numpy(drawn)]
        yield (samples.clean[chosen], samples.labels[chosen]), infected


def _slopes(
    logits: Callable[[Tensor], Tensor],
    own: Mapping[str, nn.Parameter],
    masks: Masks,
    pair: tuple[int, int],
    alpha: float,
    clean: Batch,
    infected: Tensor,
) -> dict[str, Tensor]:
    """Return the masked gradient of L1(clean, infected) - alpha L2(infected)."""
    images, labels = clean
    victim, target = (torch.full((len(infected),), label) for label in pair)
    scores = logits(torch.cat([images, infected]))
    loss = cross_entropy(scores, torch.cat([labels, victim]))
    loss = loss - alpha * cross_entropy(scores[len(images) :], target)
    slopes = torch.autograd.grad(loss, list(own.values()))
    return {name: slope * masks[name] for name, slope in zip(own, slopes, strict=True)}


def _length(own: Mapping[str, Tensor], masks: Masks) -> float:
    return _norm({name: weight.detach() * masks[name] for name, weight in own.items()})


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum().sqrt())


def _restore(own: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(values[name])
