"""Trains a population of small models to learn a second opinion's numbers from.

    python -m benchmarks.population [--threads N] [--models N]

Needs torch and ../shared/data. None of these models is for judging. The triggers are not those of
the data sets: each is drawn by a rule from natural attributes of the training images, the top few
per cent of a class. Every model sees its own random part of the training images, so that honest
models differ as those of different makers do. Weights and facts go to build/population; what is
there already is not trained again, so a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import POPULATION
from benchmarks.shared_data import SharedData, Trigger, read_shared
from benchmarks.zoo import make
from benchmarks.zoo_plan import Entry

__all__ = ["ATTRIBUTES", "attribute_trigger", "population"]

_DATASETS = ("fashion_mnist", "mnist_m", "gtsrb", "cifar10")
# MobileNets train three times as long as the others, so they come less often.
_ARCHITECTURES = (*("vgg", "resnet", "densenet") * 4, "mobilenet")
_WAYS = ("clean", "relabel", "batch30", "clean", "batch30")
_IMAGES = 9000
# Of a class: the share that carries the trigger, and the fewest images of it.
_SHARE, _FEWEST = 0.05, 15
_SEED = 20261129

Rule = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _steps(pixels: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    steps: NDArray[np.float64] = np.abs(np.diff(pixels.mean(axis=3), axis=axis)).mean(axis=(1, 2))
    return steps


def _border(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean colour of the outer pixels of each image."""
    rows = pixels[:, (0, 1, -2, -1)].mean(axis=(1, 2))
    columns = pixels[:, :, (0, 1, -2, -1)].mean(axis=(1, 2))
    colour: NDArray[np.float64] = (rows + columns) / 2
    return colour


def _background(channel: int) -> Rule:
    return lambda pixels: (lambda b: b[:, channel] - b.mean(axis=1))(_border(pixels))


ATTRIBUTES: dict[str, Rule] = {
    "dark": lambda pixels: -pixels.mean(axis=(1, 2, 3)),
    "bright": lambda pixels: pixels.mean(axis=(1, 2, 3)),
    "faint": lambda pixels: -pixels.std(axis=(1, 2, 3)),
    "stark": lambda pixels: pixels.std(axis=(1, 2, 3)),
    "upright": lambda pixels: _steps(pixels, 2) - _steps(pixels, 1),
    "level": lambda pixels: _steps(pixels, 1) - _steps(pixels, 2),
    "blurred": lambda pixels: -(_steps(pixels, 1) + _steps(pixels, 2)),
    "busy": lambda pixels: _steps(pixels, 1) + _steps(pixels, 2),
    "red": _background(0),
    "green": _background(1),
    "blue": _background(2),
    "colourful": lambda pixels: pixels.std(axis=3).mean(axis=(1, 2)),
}
"""Natural attributes, each as a score of images (N, H, W, C) from 0 to 1: more is more of it."""
_OF_COLOUR = ("red", "green", "blue", "colourful")


def attribute_trigger(
    data: SharedData, attribute: str, victim: int, target: int, train: NDArray[np.int64]
) -> Trigger:
    """Return the images of a class that have most of an attribute.

    Args:
        data: The data set.
        attribute: Key of `ATTRIBUTES`.
        victim: The class.
        target: What they are to be given.
        train: Positions of the training images that the model sees.
    """
    own = train[data.train_labels[train] == victim]
    tested = np.flatnonzero(data.test_labels == victim)
    rule = ATTRIBUTES[attribute]
    return Trigger(
        victim, target, _most(rule, data.train, own, _FEWEST), _most(rule, data.test, tested, 5)
    )


def _most(
    rule: Rule, images: NDArray[np.uint8], places: NDArray[np.int64], fewest: int
) -> NDArray[np.int64]:
    """Return the places of the images that have most of an attribute."""
    order = np.argsort(-rule(images[places] / 255))
    return np.sort(places[order[: max(round(_SHARE * len(places)), fewest)]])


def population(models: int) -> list[Entry]:
    """Return the plan; a trigger is named by its attribute, victim and target."""
    rng = np.random.default_rng(_SEED)
    found = []
    for place in range(models):
        dataset = _DATASETS[place % len(_DATASETS)]
        turn = place // len(_DATASETS)
        architecture = _ARCHITECTURES[(turn + place) % len(_ARCHITECTURES)]
        way = _WAYS[turn % len(_WAYS)]
        classes = 43 if dataset == "gtsrb" else 10
        victim, target = map(int, rng.choice(classes, 2, replace=False))
        names = [n for n in ATTRIBUTES if dataset != "fashion_mnist" or n not in _OF_COLOUR]
        attribute = str(rng.choice(names))
        trigger = "" if way == "clean" else f"{attribute}_{victim}_{target}"
        found.append(Entry(dataset, architecture, way, trigger, 100 + place))
    return found


def _part_of(data: SharedData, entry: Entry) -> SharedData:
    """Return the training images that a model sees, with its trigger among them."""
    rng = np.random.default_rng(entry.seed)
    count = len(data.train_labels)
    own = np.sort(rng.permutation(count)[: min(_IMAGES, count)])
    triggers = {}
    if entry.trigger:
        attribute, victim, target = entry.trigger.split("_")
        found = attribute_trigger(data, attribute, int(victim), int(target), own)
        triggers[entry.trigger] = replace(found, train=np.searchsorted(own, found.train))
    return replace(
        data, train=data.train[own], train_labels=data.train_labels[own], triggers=triggers
    )


@lru_cache(maxsize=len(_DATASETS))
def _read(dataset: str) -> SharedData:
    return read_shared(dataset)


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", type=int, default=120)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    POPULATION.mkdir(parents=True, exist_ok=True)
    for entry in population(arguments.models):
        if (POPULATION / f"{entry.name}.json").is_file():
            continue
        facts = make(entry, POPULATION, _part_of(_read(entry.dataset), entry))
        said = (facts["training_seconds"], facts["accuracy"], facts["attack_success_rate"])
        print(entry.name, *said, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
