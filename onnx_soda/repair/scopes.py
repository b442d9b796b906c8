"""What is trained, by the scope asked for: the head, or the model on the paths through neurons."""

from __future__ import annotations

import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onnx_soda.errors import WriteBackError
from onnx_soda.repair.bridge import TorchModel
from onnx_soda.repair.options import Scope
from onnx_soda.repair.remove import CLEAN_BATCH, Settings
from onnx_soda.repair.training import Material, Trainee, whole_trainee

__all__ = ["threads_put_back", "trainees_of"]

# Longest time, as one step foretells it, that all layers are trained for without being asked to.
_MINUTES = 10
# Steps timed for that; the first is slower, and so is one that another program disturbs.
_TIMED = 3


def trainees_of(
    scope: Scope,
    head: Trainee,
    module: TorchModel | None,
    images: NDArray[Any],
    neurons: tuple[int, NDArray[np.intp]],
    target: int,
    folds: Sequence[Material],
) -> tuple[list[Trainee], tuple[str, ...]]:
    """Return what to train, one after the other, and what is to be said about it.

    Where the whole model is to be trained, torch's number of threads is set to one if that is
    faster; see `threads_put_back`.

    Args:
        scope: Asked for.
        head: The head.
        module: The whole model in torch; None where it is not wanted or cannot be converted.
        images: Some, as the model takes them.
        neurons: Axis of the layer's neurons, and the outstanding ones.
        target: Target class.
        folds: What it will be trained on.

    Raises:
        WriteBackError: These weights are quantized in the file, and the scope insists on them.
    """
    if scope == "head" or module is None:
        return [head], ()
    if scope == "path":
        path = whole_trainee("path", module, head, images, *neurons)
        _use_faster_threads(path, target, folds[0])
        return [path], ()
    try:
        deep = whole_trainee("deep", module, head, images, *neurons)
    except WriteBackError as error:
        if scope == "deep":
            raise
        return [head], (f"Only the head is trained: {error.message}.",)
    step = _use_faster_threads(deep, target, folds[0])
    if scope == "deep":
        return [deep], ()
    minutes = _expected_seconds(step, deep, folds) / 60
    if minutes > _MINUTES:
        note = f"Only the head is trained: all layers would take about {minutes:.0f} minutes here"
        return [head], (f"{note}; --scope deep does it.",)
    return [deep, head], ()


def _use_faster_threads(trainee: Trainee, target: int, fold: Material) -> float:
    """Set torch to the threads that train faster, and return the seconds of a step with them."""
    rows = slice(CLEAN_BATCH)
    batch = replace(
        fold,
        clean=fold.clean[rows],
        labels=fold.labels[rows],
        infected=fold.infected[rows],
        infected_labels=fold.infected_labels[rows],
    )
    samples, once = trainee.samples(batch, False), Settings(0, 0, 1)
    return _fastest(lambda: trainee.train(target, (samples, samples), [once]))


def _expected_seconds(step: float, trainee: Trainee, folds: Sequence[Material]) -> float:
    """Return how long all training would take, from the seconds of a step."""
    images = sum(len(fold.labels) + len(fold.bystanders) for fold in folds)
    # Each setting on all folds but one, in turn.
    batches = (len(folds) - 1) * images / CLEAN_BATCH
    epochs = sum(how.epochs for how in trainee.settings)
    return step * batches * epochs


def _fastest(step: Callable[[], Iterator[object]]) -> float:
    """Return the time of a step with torch's threads or with one, and leave the faster setting.

    Threads wait for each other after every operation. Where another program holds a core they wait
    for it, and small networks train ten times slower than with one thread.
    """
    times = {}
    for threads in sorted({torch.get_num_threads(), 1}, reverse=True):
        torch.set_num_threads(threads)
        times[threads] = min(timeit.repeat(lambda: list(step()), number=1, repeat=_TIMED))
    quicker = min(times, key=lambda threads: times[threads])
    torch.set_num_threads(quicker)
    return times[quicker]


@contextmanager
def threads_put_back() -> Iterator[None]:
    """Put torch's number of threads back as it was."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
