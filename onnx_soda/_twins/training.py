"""Trains a twin: what its images go through, and how its weights are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn
from torch.nn.functional import cross_entropy

from onnx_soda._data.sources import IntArray, Pixels
from onnx_soda._twins.networks import as_input, build_network

# Half of what is usual: with so few steps, more of them are worth more than smooth ones.
_BATCH = 32
_PEAK_RATE, _WEIGHT_DECAY = 4e-3, 1e-2
# An image is moved by up to this share of its side, in both directions. Nothing else is done to
# it. A mirrored image may be of another class (left turn, right turn). Light and colour stay as
# they are: what twins make of such changes is what a scan asks them.
_LARGEST_SHIFT = 1 / 14


def train_network(
    architecture: str,
    images: Pixels,
    labels: IntArray,
    classes: int,
    epochs: int,
    seed: int,
    advance: Callable[[int, int], None],
) -> nn.Sequential:
    """Train a twin from scratch; torch's random state is left as it was.

    One-cycle AdamW (Smith and Topin 2019; Loshchilov and Hutter 2019). The same arguments give the
    same weights on the same machine with as many threads.

    Args:
        architecture: Key of `networks.ARCHITECTURES`.
        images: To train on.
        labels: (n,) their classes.
        classes: Number of classes.
        epochs: Passes over the images.
        seed: For the first weights, the order and the shifts.
        advance: Called with the number of steps done and the number in all.

    Returns:
        The network, in evaluation mode. It takes (N, channels, height, width) from 0 to 1.
    """
    _, height, width, channels = images.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(architecture, channels, height, width, classes)
    network = network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=_WEIGHT_DECAY)
    steps = epochs * _batch_count(len(labels))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _PEAK_RATE, total_steps=steps)
    rng = np.random.default_rng(seed)
    for done, chosen in enumerate(_batches(len(labels), epochs, rng), 1):
        shown = as_input(shifted(images[chosen], rng))
        loss = cross_entropy(network(shown), torch.from_numpy(labels[chosen]))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        advance(done, steps)
    return network.eval()


def _batch_count(images: int) -> int:
    return max(round(images / _BATCH), 1)


def _batches(images: int, epochs: int, rng: np.random.Generator) -> Iterator[IntArray]:
    """Yield positions, all of them once in each epoch, in batches of nearly one size."""
    for _ in range(epochs):
        yield from np.array_split(rng.permutation(images), _batch_count(images))


def shifted(images: Pixels, rng: np.random.Generator) -> Pixels:
    """Move each image a little, down or up and right or left; its border is continued.

    Args:
        images: (n, height, width, channels).
        rng: Draws how far.
    """
    count, height, width = images.shape[:3]
    down, right = (max(round(_LARGEST_SHIFT * side), 1) for side in (height, width))
    padded = np.pad(images, ((0, 0), (down, down), (right, right), (0, 0)), mode="edge")
    # (n, 2 down + 1, 2 right + 1, channels, height, width): every place an image can move to.
    places = sliding_window_view(padded, (height, width), axis=(1, 2))
    rows, columns = rng.integers(0, 2 * down + 1, count), rng.integers(0, 2 * right + 1, count)
    moved: Pixels = places[np.arange(count), rows, columns].transpose(0, 2, 3, 1)
    return moved
