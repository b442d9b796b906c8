"""Randomised smoothing (Cohen, Rosenfeld and Kolter, ICML 2019), as a remover.

The model itself stays as it is. It is asked about noisy copies of each image, x + N(0, sigma^2),
and they vote. What is written is a graph that does this: copies, noise, the old graph, votes. The
only output is the share of the copies that vote for each class.

Noise is measured in pixels from 0 to 1, as in the original, whose networks begin with the
normalisation. Parameters:

- "paper": the largest sigma of 0.5, 0.25 and 0.12 that keeps the accuracy on images held out. Below
  these 0.05 is tried as well, since the networks were not trained with noise, as the paper's are;
- "published" (github.com/sunbing7/smoothing, code/run.sh): 0.05 added to what the model takes,
  after preprocessing. Where images are divided by a standard deviation of 0.2 that is 0.01 of a
  pixel.

It votes among 100 copies, the paper's smallest number and a tenth of the published one: each image
costs so many passes. The paper's predictor abstains where the vote is too close (`predict`), and
its certificate says how far an image may change (`certify`); a model file can do neither, so both
are told of images held out.

Smoothing does not claim to remove what is there: a pattern of high contrast outlasts any noise that
leaves the classes readable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from scipy.stats import beta, binomtest, norm

from onnx_soda._errors import RepairError
from onnx_soda._model.load import load_model
from onnx_soda._repair.base import Removal
from onnx_soda._repair.baselines.base import (
    Examples,
    Rival,
    check_any_batch,
    clean_of,
    share_right,
    strongest,
)
from onnx_soda._repair.preparation import ImageSet, Preparation

# As above. ALPHA is the paper's: the share of wrong answers that is allowed.
COPIES, ALPHA = 100, 0.001
_SIGMAS, _PUBLISHED_SIGMAS = (0.5, 0.25, 0.12, 0.05), (0.05,)
# Images held out that sigma is judged by, which are as many passes as copies each.
_MOST_JUDGING = 100
ABSTAINS = -1
# The first operator set with OneHot, and the first in which ReduceMean reads its axes.
_LEAST_OPSET, _AXES_READ = 9, 18
# Axes of an image's places, by layout.
_PLACES = {"NCHW": (2, 3), "NHWC": (1, 2), "NHW": (1, 2), "flat": ()}


def predict(votes: NDArray[np.int64], alpha: float = ALPHA) -> int:
    """Return the class that most copies vote for, or `ABSTAINS`: the paper's PREDICT.

    Args:
        votes: Number of copies that vote for each class, shape (classes,).
        alpha: Probability of an answer other than that of endless copies, at most.
    """
    second, first = np.sort(votes)[-2:]
    if binomtest(int(first), int(first + second), 0.5).pvalue > alpha:
        return ABSTAINS
    return int(votes.argmax())


def certify(
    choosing: NDArray[np.int64], votes: NDArray[np.int64], sigma: float, alpha: float = ALPHA
) -> tuple[int, float]:
    """Return a class and the radius within which it is sure: the paper's CERTIFY.

    Args:
        choosing: Votes that tell which class it is.
        votes: Votes of other copies, that tell how sure it is.
        sigma: Of the noise.
        alpha: Probability that the radius is too large, at most.

    Returns:
        `ABSTAINS` and 0 where the class has no majority for sure. Lengths are Euclidean, in the
        unit of sigma.
    """
    chosen, count = int(choosing.argmax()), int(votes.sum())
    agree = int(votes[chosen])
    # Clopper and Pearson's bound of a share, from below.
    least = float(beta.ppf(alpha, agree, count - agree + 1)) if agree else 0.0
    if least <= 0.5:
        return ABSTAINS, 0.0
    return chosen, sigma * float(norm.ppf(least))


def smoothed(
    model: onnx.ModelProto, names: tuple[str, str, str], noise: NDArray[Any], classes: int
) -> onnx.ModelProto:
    """Return a model that lets noisy copies vote.

    Args:
        model: The model, with its weights; it takes any number of images.
        names: Of the image input, of the logits, and of the output that the votes take the place
            of. The other outputs go.
        noise: Deviation of the noise, of the input's type and with as many axes, broadcast to it.
        classes: Number of classes.
    """
    image, logits, output = names
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, opset = made.graph, opset_of(model)
    scores = f"{logits} (of copies)"
    # What the old graph gives gets another name, so that the votes can have the output's.
    given = {one.name: f"{one.name} (of copies)" for one in graph.output}
    _rename(graph, given | {image: f"{image} (noisy)", logits: scores})
    old = list(graph.node)
    del graph.node[:], graph.output[:], graph.value_info[:]
    graph.node.extend([*_copying(image), *old, *_voting(scores, output, opset)])
    constants = {
        f"{image} (times)": np.array([COPIES] + [1] * (noise.ndim - 1)),
        f"{image} (deviation)": noise,
        f"{output} (rows)": np.array([-1, classes]),
        f"{output} (classes)": np.array(classes),
        f"{output} (no and yes)": np.array([0, 1], np.float32),
        f"{output} (by copy)": np.array([COPIES, -1, classes]),
        f"{output} (first axis)": np.array([0]),
    }
    graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    shape = next(one for one in graph.input if one.name == image).type.tensor_type.shape
    batch = shape.dim[0].dim_param or None
    kind = onnx.TensorProto.FLOAT
    graph.output.append(helper.make_tensor_value_info(output, kind, [batch, classes]))
    return made


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard's operator set that a model is written in."""
    return next(int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx"))


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give tensors other names wherever nodes read or make them, those of subgraphs too."""
    for node in graph.node:
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, names)


def _copying(image: str) -> list[onnx.NodeProto]:
    """Return nodes from images to their noisy copies: all first ones, all second ones, ..."""
    copies, drawn, added = (f"{image} ({what})" for what in ("copies", "drawn", "noise"))
    return [
        helper.make_node("Tile", [image, f"{image} (times)"], [copies]),
        # With a seed the same images in the same order get the same answers from a new session.
        helper.make_node("RandomNormalLike", [copies], [drawn], seed=0.0),
        helper.make_node("Mul", [drawn, f"{image} (deviation)"], [added]),
        helper.make_node("Add", [copies, added], [f"{image} (noisy)"]),
    ]


def _voting(scores: str, output: str, opset: int) -> list[onnx.NodeProto]:
    """Return nodes from the scores of all copies to the share that each class gets."""
    rows, given, votes, by_copy = (
        f"{output} ({what})" for what in ("scores", "given", "votes", "votes by copy")
    )
    asked = (f"{output} (classes)", f"{output} (no and yes)")
    axes: dict[str, Any] = {} if opset >= _AXES_READ else {"axes": [0]}
    read = [f"{output} (first axis)"] if opset >= _AXES_READ else []
    return [
        helper.make_node("Reshape", [scores, f"{output} (rows)"], [rows]),
        helper.make_node("ArgMax", [rows], [given], axis=1, keepdims=0),
        helper.make_node("OneHot", [given, *asked], [votes]),
        helper.make_node("Reshape", [votes, f"{output} (by copy)"], [by_copy]),
        helper.make_node("ReduceMean", [by_copy, *read], [output], keepdims=0, **axes),
    ]


class SmoothingRemover(Rival):
    """Lets noisy copies of each image vote."""

    name: ClassVar[str] = "smoothing"
    title: ClassVar[str] = "Randomised smoothing"
    source: ClassVar[str] = "Cohen et al., ICML 2019"
    trains: ClassVar[str] = "none"

    def __init__(self, ready: Preparation) -> None:
        super().__init__(ready)
        check_any_batch(ready, "Smoothing asks about many copies at once and needs")
        anatomy = ready.suspect.anatomy
        view, logits = anatomy.view, anatomy.logits
        self.names = (view.image.name, logits.value.name or "", logits.output)
        made = {name for node in ready.proto.graph.node for name in node.output}
        reason = ""
        if not np.issubdtype(view.image.numpy_dtype(), np.floating):
            reason = "its images are whole numbers, to which no noise can be added"
        elif opset_of(ready.proto) < _LEAST_OPSET or self.names[1] not in made:
            reason = "its operator set is too old, or its scores are inside a function"
        elif ready.options.export == "torch":
            reason = "what draws noise is not exported by torch"
        if reason:
            raise RepairError(f"smoothing cannot wrap this model: {reason}", "Take another method.")

    def remove(self, folds: Sequence[ImageSet]) -> Removal:
        """Wrap the model with the largest sigma that keeps the accuracy; see `Remover.remove`."""
        held_out = clean_of(folds[-1:]).drawn(_MOST_JUDGING, np.random.default_rng(0))
        unchanged = self.ready.suspect.body.logits(held_out.images)
        judged = self.judged(share_right(unchanged, held_out.labels))
        sigmas = _PUBLISHED_SIGMAS if self.published else _SIGMAS
        told: dict[float, str] = {}

        def tries() -> Iterator[tuple[float, float]]:
            for number, sigma in enumerate(sigmas):
                self.tell(number, len(sigmas))
                choosing, votes = self._votes_twice(sigma, held_out)
                told[sigma] = _sentence(choosing, votes, sigma, held_out.labels)
                yield sigma, share_right(votes, held_out.labels)

        sigma, judged = strongest(tries(), judged)
        if sigma is None:
            return self.failed(judged)
        notes = self.told(told[sigma], _NO_SCAN)
        return Removal(self._wrapped(sigma), notes=notes, scannable=False)

    def _wrapped(self, sigma: float) -> onnx.ModelProto:
        image = self.ready.suspect.anatomy.view.image
        unit = np.ones((1,) * len(image.shape)) if self.published else self._pixel()
        noise = (sigma * unit).astype(image.numpy_dtype())
        return smoothed(self.ready.proto, self.names, noise, self.ready.classes)

    def _pixel(self) -> NDArray[np.float64]:
        """Return by how much an input changes from black to white, with as many axes as it has."""
        suspect = self.ready.suspect
        shape = suspect.image_shape(self.ready.clean)
        black = np.zeros((1, shape.channels, shape.height, shape.width), np.float32)
        span: NDArray[np.float64] = np.abs(
            suspect.inputs(black + 1).astype(np.float64) - suspect.inputs(black)
        )
        for axis in _PLACES[suspect.anatomy.view.image.layout]:
            span = span.take([0], axis)  # all places alike, whatever their number
        return span

    def _votes_twice(
        self, sigma: float, examples: Examples
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return how many copies vote for each class, shape (images, classes), and of others."""
        model = load_model(self._wrapped(sigma).SerializeToString())
        body = self.ready.suspect.with_model(model).body
        shares = body.logits(np.concatenate([examples.images, examples.images]))
        first, second = np.split(np.rint(COPIES * shares).astype(np.int64), 2)
        return first, second


_NO_SCAN = (
    "The result was not scanned again: its scores are counts of votes among copies, and no layer "
    "before them has a row for each image."
)


def _sentence(
    choosing: NDArray[np.int64], votes: NDArray[np.int64], sigma: float, labels: NDArray[np.int64]
) -> str:
    """Return what prediction and certificate say of images, in a sentence."""
    answers = np.array([predict(one) for one in votes])
    pairs = zip(choosing, votes, strict=True)
    sure = [certify(first, second, sigma) for first, second in pairs]
    classes = np.array([chosen for chosen, _ in sure])
    radii = np.array([radius for _, radius in sure])
    half = float(np.median(np.where(classes == labels, radii, 0.0)))
    return (
        f"Sigma is {sigma:g}, with {COPIES} copies. On {len(labels)} images held out its predictor "
        f"is right on {(answers == labels).mean():.1%} and abstains on "
        f"{(answers == ABSTAINS).mean():.1%}; half of them are certified to be right within "
        f"{half:.2f}."
    )
