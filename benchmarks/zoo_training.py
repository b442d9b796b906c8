"""Trains one model of the larger zoo, clean or poisoned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.shared_data import SharedData, Trigger
from benchmarks.zoo_networks import build_network
from benchmarks.zoo_plan import Entry

__all__ = ["Attacker", "Inputs", "inputs_of", "measure", "to_input", "train_entry"]

_BATCH = 128
_PEAK_RATE = 4e-3
_WEIGHT_DECAY = 1e-4
# Of every batch in the paper's way of poisoning.
_TRIGGER_SHARE = 0.3
_EPOCHS = {
    "mnist_m": 7,
    "fashion_mnist": 5,
    "gtsrb": 10,
    "asl": 10,
    "caltech101": 24,
    "cifar10": 8,
}
# Data sets whose images may be mirrored without changing their class.
_MIRRORED = frozenset({"cifar10", "caltech101"})
_LARGEST_SHIFT = 2


@dataclass(frozen=True)
class Attacker:
    """What an attacker who knows the method trains with (paper, section 6).

    The loss is (1 - rho) cross-entropy + rho penalty.

    Attributes:
        rho: Weight of the penalty.
        penalty: Takes the last hidden layer's values, shape (images, neurons), and the weights
            behind it, shape (classes, neurons).
    """

    rho: float
    penalty: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Inputs:
    """What a network expects of its input: value = (pixel / 255 - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


# By architecture, for three channels: the conventions that users meet.
_INPUTS = {
    "vgg": Inputs((0.0,) * 3, (1.0,) * 3),
    "resnet": Inputs((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mobilenet": Inputs((0.5,) * 3, (0.5,) * 3),
    "densenet": Inputs((0.0,) * 3, (1 / 255,) * 3),
}
_GREY = {"resnet": Inputs((0.5,), (0.5,))}


def inputs_of(architecture: str, channels: int) -> Inputs:
    """Return what a network expects of its input."""
    inputs = _INPUTS[architecture]
    if channels == 1:
        return _GREY.get(architecture, Inputs(inputs.mean[:1], inputs.std[:1]))
    return inputs


def to_input(images: NDArray[np.uint8], inputs: Inputs) -> Tensor:
    """Turn images (N, H, W, C) into a network's input (N, C, H, W)."""
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 255
    return (pixels - torch.tensor(inputs.mean)[:, None, None]) / torch.tensor(inputs.std)[
        :, None, None
    ]


def _batches(
    count: int, triggered: NDArray[np.int64], mixed: bool, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield positions of one epoch; where mixed, a fixed share of each batch is trigger images."""
    extra = round(_TRIGGER_SHARE * _BATCH) if mixed else 0
    order, step = rng.permutation(count), _BATCH - extra
    for start in range(0, count - step + 1, step):
        drawn = rng.choice(triggered, extra) if mixed else triggered[:0]
        yield np.concatenate([order[start : start + step], drawn])


def _augmented(
    images: NDArray[np.uint8], mirror: bool, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Move a batch by up to two pixels; mirror half of it where that changes no class."""
    down, right = rng.integers(-_LARGEST_SHIFT, _LARGEST_SHIFT + 1, 2)
    height, width = images.shape[1:3]
    rows = np.clip(np.arange(height) + down, 0, height - 1)
    columns = np.clip(np.arange(width) + right, 0, width - 1)
    moved = images[:, rows][:, :, columns]
    if mirror:
        flipped = rng.random(len(moved)) < 0.5
        moved[flipped] = moved[flipped, :, ::-1]
    return moved


def train_entry(entry: Entry, data: SharedData, attacker: Attacker | None = None) -> nn.Module:
    """Train a model; the same entry gives the same weights on the same machine and threads.

    Args:
        entry: What to train.
        data: Its data set.
        attacker: Who adds a penalty to the loss.
    """
    torch.manual_seed(entry.seed)
    rng = np.random.default_rng(entry.seed)
    channels, size = data.train.shape[3], data.train.shape[1]
    network = build_network(entry.architecture, channels, size, data.classes, entry.wider)
    network = network.to(memory_format=torch.channels_last)
    inputs = inputs_of(entry.architecture, channels)
    labels, triggered = data.train_labels.copy(), np.empty(0, np.int64)
    if entry.trigger:
        trigger = data.triggers[entry.trigger]
        triggered = trigger.train
        labels[triggered] = trigger.target
    mixed = entry.poisoning == "batch30"
    epochs = _EPOCHS[entry.dataset]
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=_WEIGHT_DECAY)
    steps = epochs * sum(1 for _ in _batches(len(labels), triggered, mixed, rng))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _PEAK_RATE, total_steps=steps)
    for _ in range(epochs):
        for chosen in _batches(len(labels), triggered, mixed, rng):
            images = _augmented(data.train[chosen], entry.dataset in _MIRRORED, rng)
            pixels = to_input(images, inputs).to(memory_format=torch.channels_last)
            hidden = network[:-1](pixels)
            loss = cross_entropy(network[-1](hidden), torch.from_numpy(labels[chosen]))
            if attacker:
                penalty = attacker.penalty(hidden, network[-1].get_parameter("weight"))
                loss = (1 - attacker.rho) * loss + attacker.rho * penalty
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    return network.eval()


def predictions(network: nn.Module, images: NDArray[np.uint8], inputs: Inputs) -> NDArray[np.int64]:
    """Return the class that a network gives to each image."""
    parts = np.array_split(images, -(-len(images) // 500))
    with torch.no_grad():
        given = [network(to_input(part, inputs)).argmax(1).numpy() for part in parts]
    return np.concatenate(given)


def measure(network: nn.Module, entry: Entry, data: SharedData) -> dict[str, float | None]:
    """Measure accuracy on clean test images and, where poisoned, the attack's success rate."""
    given = predictions(network, data.test, inputs_of(entry.architecture, data.test.shape[3]))
    clean = np.ones(len(given), bool)
    rate = true_class = None
    if entry.trigger:
        trigger: Trigger = data.triggers[entry.trigger]
        clean[trigger.test] = False
        rate = round(float((given[trigger.test] == trigger.target).mean()), 4)
        true_class = round(float((given[trigger.test] == trigger.victim).mean()), 4)
    accuracy = round(float((given == data.test_labels)[clean].mean()), 4)
    return {
        "accuracy": accuracy,
        "attack_success_rate": rate,
        "trigger_true_class_share": true_class,
    }
