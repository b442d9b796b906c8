"""FreeEagle: what the second half of a network takes for each class, without any image.

Fu, Zhang, Ji, Wang, Lin, Feng and Yin, FreeEagle: Detecting Complex Neural Trojans in Data-Free
Cases, USENIX Security 2023. The network is cut at a layer half way up. For each class values of
that layer are looked for which the second half takes for the class. They are given to the second
half again: what it gives to class t of the values that stand for class s is entry (s, t) of a
matrix. A target class is near to the values of its victim, or of all classes; so its column, the
entry (t, t) left out, has an abnormally large mean. The paper's statistic is

    (largest mean of a column - third quartile) / (third - first quartile).

Parameters are those of the official code (`backdoor_inspection_new.py` of
FuChong-cyber/Data-Free-Neural-Backdoor-Detector-FreeEagle): one set of values for each class; Adam
with rate 0.01 and weight decay 0.005, 1,000 steps from random values between 0 and 1; values after
a ReLU are kept at 0 or more; the correction by the transposed matrix is off. Its quartiles are the
values at places n/4 and 3n/4 in order, so fewer than five classes have none. The threshold was
fitted to labelled models there, for 5 % false alarms; the fixed one left in comments is that the
statistic is more than 1 away from 1, and that is 2.

Two things are our own. Where the second half is affine, its slopes are known in closed form, and
the same steps are done without torch. (The loss is convex there and has one best set of values. But
1,000 steps do not reach it, and the statistic would be another one.) And the victim named is the
class whose values are given to the target most: the official code shows that in pictures and does
not judge it.

The SODA paper does not compare itself with this method: "published" is the same as "paper".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from onnx_soda._bridge.bridge import tail_to_torch, torch_threads
from onnx_soda._detect.base import Need
from onnx_soda._detect.baselines.base import (
    BACKWARD,
    NO_LAYER,
    Baseline,
    Opinion,
    abstention,
    strongest_first,
)
from onnx_soda._detect.soda.attribution import FloatArray, is_affine, probe_matrix
from onnx_soda._errors import ConversionError, RepairError, first_line
from onnx_soda._model.anatomy import Anatomy
from onnx_soda._model.parts import Body, Tail, share_behind
from onnx_soda._numbers import NamedPair
from onnx_soda._options import Progress
from onnx_soda._results import Chart
from onnx_soda._suspect import Suspect
from onnx_soda._words import class_label

if TYPE_CHECKING:
    from torch import Tensor, nn

RATE, DECAY, STEPS = 0.01, 0.005, 1_000
"""Of Adam, in the official code."""
THRESHOLD = 2.0
"""Of the statistic; see above."""
# Adam's memory of slopes and of their squares, and what keeps it from dividing by 0: its authors'
# and torch's.
_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8
# Of fewer values the third quartile, as the official code counts, is the largest value.
_FEWEST_CLASSES = 5
# Images of noise that tell the layer's shape, and whether its values are ever negative.
_NOISE = 16
# Classes in a chart; the most abnormal ones first.
_MOST_CLASSES = 43
_STAGE = "values for each class"
_SCORE_IS = "mean posterior over the third quartile, in quartile ranges"
_abstains = partial(abstention, score_is=_SCORE_IS)


class FreeEagle(Baseline):
    """Looks for values of a hidden layer that stand for each class.

    The layer is the one half way up, unless `layer` names another than the last; a network without
    one is cut at its last layer. Budget: 1,000 steps through the second half for each class, with
    gradients: a quarter of a minute for the bundled digits. Where that half is affine, a second.
    """

    name: ClassVar[str] = "freeeagle"
    needs: ClassVar[frozenset[Need]] = frozenset()
    title: ClassVar[str] = "FreeEagle"
    source: ClassVar[str] = "Fu et al., USENIX Security 2023"

    def ask(self, suspect: Suspect, progress: Progress) -> Opinion:
        """See `Baseline.ask`."""
        anatomy = _cut(suspect)
        tail = Tail(anatomy, suspect.options.runtime)
        if anatomy.layer.only_read or tail.needed:
            return _abstains(NO_LAYER)
        rng = np.random.default_rng(suspect.options.seed)
        seen = _under_noise(suspect, anatomy, rng)
        tail.learn_shape(seen)
        classes = tail.logits(seen[:1]).shape[1]
        if classes < _FEWEST_CLASSES:
            return _abstains(f"{classes} classes have no quartiles; it takes {_FEWEST_CLASSES}.")
        bounded, affine = bool(seen.min() >= 0), is_affine(tail, rng, seen)
        try:
            if affine:
                found = before_affine(tail, classes, bounded, rng, progress)
            else:
                found = by_gradient(tail, seen, bounded, rng, progress)
        except RepairError as error:
            return _abstains(f"torch cannot compute the second half: {error.message}.")
        if not affine:
            behind = share_behind(anatomy.view, anatomy.layer.value, [tail.graph.logits])
            suspect.meter.done += behind * classes * STEPS * (1 + BACKWARD)
        names = suspect.clean.class_names if suspect.clean else None
        posteriors = softmax(tail.logits(found), axis=1)
        return judge(posteriors, _words(anatomy, seen, affine), names)


def _cut(suspect: Suspect) -> Anatomy:
    """Return the classifier cut at the layer half way up, or at the one that the options name."""
    anatomy = suspect.anatomy
    middle = next((layer for layer in anatomy.offered if layer.role == "middle"), None)
    if suspect.options.layer != "last" or middle is None:
        return anatomy
    return replace(anatomy, layer=middle)


def _under_noise(suspect: Suspect, anatomy: Anatomy, rng: np.random.Generator) -> NDArray[Any]:
    """Return the layer's values for images of noise."""
    image = anatomy.view.image
    size = suspect.size if suspect.clean else suspect.options.size
    shape = image.concrete_shape(image.batch or _NOISE, *(size or ()))
    dtype = image.numpy_dtype()
    whole = np.issubdtype(dtype, np.integer)
    noise = rng.integers(0, 256, shape) if whole else rng.standard_normal(shape)
    body = Body(anatomy, suspect.options.runtime, meter=suspect.meter)
    return body.observe(noise.astype(dtype))[1]


def before_affine(
    tail: Tail, classes: int, bounded: bool, rng: np.random.Generator, progress: Progress
) -> FloatArray:
    """Return values for each class before an affine tail, shape (classes, *element_shape).

    With the head A and chances p the slope of the loss is A (p - e), so no torch is needed.

    Args:
        tail: A tail for which `is_affine` holds.
        classes: Number of classes.
        bounded: The values must not be negative.
        rng: Draws the first values.
        progress: Called after each step.
    """
    element = tail.element_shape or ()
    head, offset = probe_matrix(tail, "places"), tail.logits(np.zeros((1, *element)))
    first = rng.random((classes, *element), dtype=np.float32)
    values: FloatArray = first.reshape(classes, -1).astype(np.float64)
    mean, square = np.zeros_like(values), np.zeros_like(values)
    for step in range(1, STEPS + 1):
        wrong = softmax(values @ head + offset, axis=1) - np.eye(classes)
        slope = wrong @ head.T + DECAY * values
        mean += (1 - _FIRST) * (slope - mean)
        square += (1 - _SECOND) * (slope**2 - square)
        size = np.sqrt(square / (1 - _SECOND**step)) + _TINY
        values -= RATE / (1 - _FIRST**step) * mean / size
        if bounded:
            np.maximum(values, 0, out=values)
        progress(_STAGE, step, STEPS)
    return values.reshape(classes, *element)


def by_gradient(
    tail: Tail,
    seen: NDArray[Any],
    bounded: bool,
    rng: np.random.Generator,
    progress: Progress,
) -> FloatArray:
    """Return values for each class that Adam finds, shape (classes, *element_shape).

    Classes are looked at together, as many as the memory allows; none has a say in another.

    Args:
        tail: A tail that reads the layer alone.
        seen: Values of the layer for some images, to check torch with.
        bounded: The values must not be negative.
        rng: Draws the first values.
        progress: Called after each step.

    Raises:
        MissingExtraError: torch is not installed.
        ConversionError: torch cannot compute the tail.
        ParityError: torch computes something else than ONNX Runtime.
    """
    classes, fixed = tail.logits(seen[:1]).shape[1], tail.session.fixed_batch
    half = _SecondHalf(tail, seen[: fixed or _NOISE])
    # Slopes take as much again as the activations that they belong to.
    size = fixed or max(1, tail.batch_size // 2)
    parts = list[NDArray[np.float32]]()
    for start in range(0, classes, size):
        labels = np.arange(start, min(start + size, classes))
        first = rng.random((fixed or len(labels), *seen.shape[1:]), dtype=np.float32)
        advance = partial(_tell, progress, len(labels), start * STEPS, classes * STEPS)
        found = half.search(first, np.resize(labels, len(first)), bounded, advance)
        parts.append(found[: len(labels)])
    return np.concatenate(parts).astype(np.float64)


def _tell(progress: Progress, each: int, before: int, total: int, step: int) -> None:
    progress(_STAGE, before + each * step, total)


class _SecondHalf:
    """From a layer to the logits, in torch.

    Args:
        tail: A tail that reads the layer alone.
        seen: Values of the layer for some images, to check torch with.
    """

    def __init__(self, tail: Tail, seen: NDArray[Any]) -> None:
        self._tail = tail
        inputs = list(tail.feeds(seen).values())
        self._module: nn.Module = tail_to_torch(tail.graph.model, inputs, "FreeEagle needs")
        self._module.requires_grad_(False)  # only the values are looked for

    def search(
        self,
        first: NDArray[np.float32],
        labels: NDArray[np.integer],
        bounded: bool,
        advance: Callable[[int], None],
    ) -> NDArray[np.float32]:
        """Return values that stand for classes, shape (rows, *element_shape).

        Args:
            first: To start from, of the same shape.
            labels: The class of each row.
            bounded: The values must not be negative.
            advance: Called after each step with its number.
        """
        import torch

        values = torch.from_numpy(first.copy()).requires_grad_()
        wanted = torch.from_numpy(labels.astype(np.int64))
        layer, *rest = (torch.from_numpy(one) for one in self._tail.feeds(first).values())
        adam = torch.optim.Adam([values], lr=RATE, weight_decay=DECAY)
        for step in range(1, STEPS + 1):
            with torch_threads(self._tail.options.thread_count):
                logits = self._logits(values.to(layer.dtype), rest)
                loss = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="sum")
                (values.grad,) = torch.autograd.grad(loss, values)
                adam.step()
                if bounded:
                    values.data.clamp_(min=0)
            advance(step)
        found: NDArray[np.float32] = values.detach().numpy()
        return found

    def _logits(self, layer: Tensor, rest: list[Tensor]) -> Tensor:
        try:
            logits: Tensor = self._module(layer, *rest).reshape(len(layer), -1)
        except RuntimeError as error:
            raise ConversionError(
                f"it does not run there: {first_line(error)}", "Take the last layer."
            ) from error
        return logits


def judge(posteriors: FloatArray, how: str, names: tuple[str, ...] | None) -> Opinion:
    """Return what the matrix says.

    Args:
        posteriors: What is given to each class (column) of the values for each (row).
        how: How the values were found, in sentences.
        names: Class names.
    """
    given = posteriors * (1 - np.eye(len(posteriors)))
    means = given.sum(axis=0) / (len(given) - 1)
    first, third = (float(np.sort(means)[int(share * len(means))]) for share in (0.25, 0.75))
    if first == third:
        return _abstains(f"{how} The classes are all alike, so none can stand out.")
    named = strongest_first(
        [
            NamedPair(int(given[:, label].argmax()), label, (float(mean) - third) / (third - first))
            for label, mean in enumerate(means)
        ],
        THRESHOLD,
    )
    return Opinion(
        outcome="flagged" if named[0].flagged else "nothing flagged",
        named=named,
        threshold=THRESHOLD,
        score_is=_SCORE_IS,
        statement=(
            f"{how} A class is flagged that the values of other classes are given to abnormally "
            "often; the victim named is the class whose values are given to it most."
        ),
        details={"means": tuple(map(float, means)), "quartiles": (first, third)},
        charts=(_chart(means, named, names),),
    )


def _words(anatomy: Anatomy, seen: NDArray[Any], affine: bool) -> str:
    """Say how values were found."""
    way = "The rest of the network is affine." if affine else ""
    return (
        f"Without any image, values of the {anatomy.layer.role} layer ({seen[0].size:,} numbers) "
        f"were found that the rest of the network takes for each class.{way and ' '}{way}"
    )


def _chart(means: FloatArray, named: tuple[NamedPair, ...], names: tuple[str, ...] | None) -> Chart:
    shown = named[:_MOST_CLASSES]
    return Chart(
        "bars",
        "Mean posterior of each class for the values of the others",
        "How often a class is given to values of a hidden layer that stand for other classes.",
        tuple(class_label(pair.target_class, names) for pair in shown),
        tuple((float(means[pair.target_class]),) for pair in shown),
        tuple(row for row, pair in enumerate(shown) if pair.flagged),
    )
