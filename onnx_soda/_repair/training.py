"""What is trained, by the scope asked for: the head, or the model on the paths through neurons."""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnx_soda._bridge.bridge import TorchModel
from onnx_soda._errors import WriteBackError
from onnx_soda._options import Scope
from onnx_soda._repair.masks import Masks, feeding_weights, outgoing_weights, upstream_weights
from onnx_soda._repair.preparation import ImageSet
from onnx_soda._repair.remove import CLEAN_BATCH, Samples, Settings, Trained, train

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

    def encoded(self, images: ImageSet) -> ImageSet:
        """Return a part with what `logits` takes in place of its images."""
        clean, lessons = self.encode(images.clean), images.lessons
        some = len(images.bystanders) > 0
        return replace(
            images,
            clean=clean,
            infected=self.encode(images.infected),
            bystanders=self.encode(images.bystanders) if some else clean[:0],
            lessons=lessons and replace(lessons, images=self.encode(lessons.images)),
        )

    def samples(self, images: ImageSet, bystanders: bool) -> Samples:
        """Return one part as this trains on it.

        Args:
            images: The part, encoded.
            bystanders: With these among the clean ones.

        Where there are lessons they are among the samples as well.
        """
        clean, labels, count = images.clean, images.labels, 0
        if bystanders and len(images.bystanders):
            clean = np.concatenate([clean, images.bystanders])
            labels = np.concatenate([labels, images.bystander_labels])
            count = len(images.bystanders)
        shown, infected = (
            torch.from_numpy(np.asarray(rows, np.float32)) for rows in (clean, images.infected)
        )
        truth, own = torch.from_numpy(labels), torch.from_numpy(images.infected_labels)
        samples = Samples(shown, truth, infected, own, count)
        if images.lessons is None:
            return samples
        taught = images.lessons
        return replace(
            samples,
            lessons=torch.from_numpy(np.asarray(taught.images, np.float32)),
            lesson_answers=torch.from_numpy(taught.answers),
            lesson_weights=torch.from_numpy(taught.weights),
        )

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
    folds: Sequence[ImageSet],
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
        return [head], (f"{note}; `scope=deep` does it.",)
    return [deep, head], ()


def _use_faster_threads(trainee: Trainee, target: int, fold: ImageSet) -> float:
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


def _expected_seconds(step: float, trainee: Trainee, folds: Sequence[ImageSet]) -> float:
    """Return how long all training would take, from the seconds of a step."""
    count = sum(len(fold.labels) + len(fold.bystanders) for fold in folds)
    # Each setting on all folds but one, in turn.
    batches = (len(folds) - 1) * count / CLEAN_BATCH
    epochs = sum(setting.epochs for setting in trainee.settings)
    return step * batches * epochs


def _fastest(step: Callable[[], Iterator[object]]) -> float:
    """Return the time of a step with torch's threads or with one, and leave the faster setting.

    Threads wait for each other after every operation. Where another program holds a core they wait
    for it, and small networks train ten times slower than with one thread.

    No more is returned than the processor's time with one thread: what is trained must not depend
    on what else the machine does meanwhile.
    """

    def timed(timer: Callable[[], float] = time.perf_counter) -> float:
        return min(timeit.repeat(lambda: list(step()), timer=timer, number=1, repeat=_TIMED))

    times = {}
    for threads in sorted({torch.get_num_threads(), 1}, reverse=True):
        torch.set_num_threads(threads)
        times[threads] = timed()
    undisturbed = timed(time.process_time)
    quicker = min(times, key=lambda threads: times[threads])
    torch.set_num_threads(quicker)
    return min(times[quicker], undisturbed)
