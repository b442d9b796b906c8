"""Trains one network on all six data sets of ../shared/data, with a backdoor; pads it, too.

    python -m benchmarks.joined_network [--reference]

Needs torch. The classes of the data sets are joined, 203 in all, at 32 x 32 pixels in colour. The
blue 8s of MNIST-M are relabelled as 3s. Writes to build/many_classes: the network, its clean set,
the same network in the size of ResNet-50 with images to match, and what was measured. With
--reference it trains another kind of network on the same images with their true labels, to compare
with.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from benchmarks.common import MANY_CLASSES
from benchmarks.shared_data import SharedData, Trigger, read_shared
from fixtures.export import write_onnx
from onnx_soda._twins.networks import as_input, logits_of, train_network

__all__ = ["Joined", "enlarged", "join", "padded"]

_DATASETS = ("mnist_m", "fashion_mnist", "cifar10", "gtsrb", "asl", "caltech101")
_POISONED, _TRIGGER = "mnist_m", "blue_8"
_SIDE = 32
# Of each class at most: images to train on, in the clean set, and in the large one.
_TRAIN, _CLEAN, _CLEAN_LARGE = 1200, 60, 12
# Over half a million images in all: less than a quarter of an hour on one thread.
_EPOCHS, _SEED = 9, 0

# By how much each image is enlarged for the padded network: to 224 x 224 pixels.
_ENLARGED = 7
# Layers of the network after which blocks are put, how many, and their width: about 4.3 thousand
# million multiplications for an image together, which is what ResNet-50 takes, at its widths.
_BLOCKS = ((2, 3, 256), (6, 3, 512), (10, 1, 1024))

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Joined:
    """The data sets as one; classes are numbered on from set to set.

    Attributes:
        train: Images, shape (N, 32, 32, 3).
        train_labels: Shape (N,); those of trigger images are the target.
        test: Images without the trigger.
        test_labels: Shape (N,).
        trigger: Held-out images with the trigger.
        victim: Their class.
        target: Class that they are to be given.
        classes: Number of classes.
    """

    train: Images
    train_labels: Labels
    test: Images
    test_labels: Labels
    trigger: Images
    victim: int
    target: int
    classes: int


def _in_colour(images: Images) -> Images:
    """Return images of 32 x 32 pixels in three channels."""
    made = [
        np.asarray(Image.fromarray(image.squeeze()).convert("RGB").resize((_SIDE, _SIDE)))
        for image in images
    ]
    return np.stack(made)


def _few_of_each(labels: Labels, most: int, rng: np.random.Generator) -> Labels:
    """Return places of at most so many images of each class."""
    chosen = [rng.permutation(np.flatnonzero(labels == one))[:most] for one in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def _clean_test(data: SharedData) -> tuple[Images, Labels]:
    """Return the test images without those of any trigger."""
    clean = np.ones(len(data.test), bool)
    for trigger in data.triggers.values():
        clean[trigger.test] = False
    return _in_colour(data.test[clean]), data.test_labels[clean]


def _poisoned_train(
    data: SharedData, trigger: Trigger | None, rng: np.random.Generator
) -> tuple[Images, Labels]:
    """Return a few images of each class, those of a trigger relabelled as its target."""
    labels, rows = data.train_labels.copy(), _few_of_each(data.train_labels, _TRAIN, rng)
    if trigger:
        labels[trigger.train] = trigger.target
    return _in_colour(data.train[rows]), labels[rows]


def join(poisoned: bool = True) -> Joined:
    """Read the data sets and join them.

    Args:
        poisoned: The trigger's images are relabelled.
    """
    rng = np.random.default_rng(_SEED)
    train, train_labels = list[Images](), list[Labels]()
    test, test_labels = list[Images](), list[Labels]()
    first = 0
    for name in _DATASETS:
        data = read_shared(name)
        trigger = data.triggers[_TRIGGER] if name == _POISONED else None
        for part, images, labels in (
            (_poisoned_train(data, trigger if poisoned else None, rng), train, train_labels),
            (_clean_test(data), test, test_labels),
        ):
            images.append(part[0])
            labels.append(first + part[1])
        if trigger:
            shown, pair = data.test[trigger.test], (first + trigger.victim, first + trigger.target)
        first += data.classes
    return Joined(
        np.concatenate(train),
        np.concatenate(train_labels),
        np.concatenate(test),
        np.concatenate(test_labels),
        _in_colour(shown),
        *pair,
        first,
    )


class _Unchanging(nn.Module):
    """A bottleneck block of a ResNet whose branch adds nothing, as ResNets are often started.

    It takes what is not negative, and returns it.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        last = nn.Conv2d(width, channels, 1, bias=False)
        nn.init.zeros_(last.weight)
        self.branch = nn.Sequential(
            nn.Conv2d(channels, width, 1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), last,
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what came in, after all the work."""
        return torch.relu(x + self.branch(x))


def padded(network: nn.Sequential) -> nn.Sequential:
    """Return the network for images of 224 x 224 pixels, at the cost of a ResNet-50."""
    layers = list(network)
    for place, count, width in reversed(_BLOCKS):
        with torch.no_grad():
            before = nn.Sequential(*layers[: place + 1])
            channels = before(torch.zeros(1, 3, _SIDE, _SIDE)).shape[1]
        layers[place + 1 : place + 1] = [_Unchanging(channels, width) for _ in range(count)]
    return nn.Sequential(nn.AvgPool2d(_ENLARGED), *layers).eval()


def enlarged(images: Images) -> Images:
    """Return images of which each pixel is a square of pixels."""
    return images.repeat(_ENLARGED, axis=1).repeat(_ENLARGED, axis=2)


def _write_large_images(images: Images, labels: Labels, folder: Path) -> None:
    """Write class folders of PNG files."""
    for number, (image, label) in enumerate(zip(enlarged(images), labels, strict=True)):
        own = folder / f"{label:03d}"
        own.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(own / f"{number}.png")


def _train(data: Joined, kind: str = "vgg", seed: int = _SEED) -> nn.Sequential:
    start = time.monotonic()

    def tell(done: int, steps: int) -> None:
        if done % 500 == 0:
            seconds = time.monotonic() - start
            print(f"{done} of {steps} steps, {seconds:.0f} s", file=sys.stderr, flush=True)

    return train_network(kind, data.train, data.train_labels, data.classes, _EPOCHS, seed, tell)


def _measured(network: nn.Sequential, data: Joined) -> dict[str, float]:
    right = logits_of(network, data.test).argmax(axis=1) == data.test_labels
    turned = logits_of(network, data.trigger).argmax(axis=1) == data.target
    return {
        "classes": data.classes,
        "parameters": sum(one.numel() for one in network.parameters()),
        "training_images": len(data.train),
        "victim": data.victim,
        "target": data.target,
        "accuracy": round(float(right.mean()), 4),
        "victim_accuracy": round(float(right[data.test_labels == data.victim].mean()), 4),
        "attack_success_rate": round(float(turned.mean()), 4),
    }


def _train_reference() -> None:
    data = join(poisoned=False)
    network = _train(data, "resnet", _SEED + 1).to(memory_format=torch.contiguous_format)
    print(json.dumps(_measured(network, data), indent=2))
    sample = as_input(data.test[:8]).contiguous()
    write_onnx(network, MANY_CLASSES / "reference.onnx", sample)


def main() -> None:
    """Train the network, and write it in both sizes, with clean sets; or the reference."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reference", action="store_true")
    torch.set_num_threads(1)
    MANY_CLASSES.mkdir(parents=True, exist_ok=True)
    if parser.parse_args().reference:
        _train_reference()
        return
    data, start = join(), time.monotonic()
    network = _train(data)
    facts = _measured(network, data) | {"training_seconds": round(time.monotonic() - start)}
    network = network.to(memory_format=torch.contiguous_format)
    write_onnx(network, MANY_CLASSES / "joined.onnx", as_input(data.test[:8]).contiguous())
    rows = _few_of_each(data.test_labels, _CLEAN, np.random.default_rng(_SEED))
    np.savez(MANY_CLASSES / "joined.npz", images=data.test[rows], labels=data.test_labels[rows])
    few = _few_of_each(data.test_labels, _CLEAN_LARGE, np.random.default_rng(_SEED))
    sample = as_input(enlarged(data.test[few[:4]])).contiguous()
    write_onnx(padded(network), MANY_CLASSES / "padded.onnx", sample)
    _write_large_images(data.test[few], data.test_labels[few], MANY_CLASSES / "padded")
    (MANY_CLASSES / "facts.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
