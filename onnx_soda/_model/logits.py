"""Finds the logits: the pre-softmax scores, one per class, whatever the file ends with.

SODA's class activation value is the score before the softmax (paper, Definition 3.2). Files end
in probabilities, labels or several outputs, so the search walks back from each output through
operators that only re-shape, normalise or select scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import onnx_ir as ir

from onnx_soda._errors import NotAClassifierError, TensorNotFoundError
from onnx_soda._model.graph import GraphView
from onnx_soda._model.inputs import SCANNED

# Turn scores into probabilities, monotonically per class.
_NORMALISERS = frozenset({"Softmax", "LogSoftmax", "Sigmoid", "Hardmax", "Normalizer"})
KEEP_SCORES = _NORMALISERS | {"Identity", "Cast", "CastLike", "Reshape", "Flatten", "Squeeze"}
"""What leaves as many values per image as there were scores."""
# Choose among scores.
_SELECTORS = frozenset({"ArgMax", "TopK", "ZipMap", "ArrayFeatureExtractor"})
# Leave the values alone.
_CARRIERS = frozenset({
    "Identity", "Cast", "CastLike", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout",
    "QuantizeLinear", "DequantizeLinear",
})  # fmt: skip
_REGRESSORS = frozenset({"LinearRegressor", "SVMRegressor", "TreeEnsembleRegressor"})
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})
# Operators whose weights, not their input, make this axis of a tensor with one such axis.
_WEIGHTED_AXIS = {"Gemm": 1, "MatMul": 1, "Conv": 1}
# Leave each value in its place.
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Relu", "Clip", "Neg"})
# Choose or cut out regions of the image.
_REGIONS = frozenset({"NonMaxSuppression", "RoiAlign", "MaxRoiPool"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
# Numbers of a box.
_CORNERS = 4
# Names under which networks give what they know of an image, and no scores.
_EMBEDDINGS = ("embed", "pooler_output", "hidden_state")
_FEATURES = ("feature", "features", "feat", "feats")
# Parts of output names that tell what it holds, where the graph leaves a choice.
_SCORE_NAMES = ("logit", "prob", "score", "class", "pred", "label", "softmax")
_SIDE_NAMES = ("aux", "feat", "embed", "hidden", "pool", "attention", "attn", "box",
               "mask", "landmark", "keypoint")  # fmt: skip


@dataclass(frozen=True)
class Logits:
    """The pre-softmax tensor.

    Attributes:
        value: The tensor.
        classes: Number of classes; None where shape inference cannot tell it.
        output: Name of the graph output that it was found from.
        stripped: Operators between it and the output, from the output back.
        notes: Sentences about what else could have been taken.
        unexamined: Names of outputs that neither come from these scores nor lead to them.
    """

    value: ir.Value
    classes: int | None
    output: str
    stripped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unexamined: tuple[str, ...] = ()


def read_class_shape(shape: tuple[int | None, ...] | None) -> int | None:
    """Return the number of classes of a tensor of scores; None where it is not known yet.

    Args:
        shape: Shape for one batch: the first axis is the batch, all others but one have size 1.

    Raises:
        NotAClassifierError: The shape is not that of one score per class and image.
    """
    if shape is None or any(size is None for size in shape[1:]):
        return None
    sizes = [size for size in shape[1:] if size is not None]
    if len(shape) < 2 or sum(size != 1 for size in sizes) > 1:
        raise _not_scores(f"the output of shape {['N', *sizes]}", _kind_by_rank(shape))
    classes = prod(sizes)
    if classes < 2:
        count = "a single class" if classes else "zero classes"
        raise NotAClassifierError(
            f"the output of shape {['N', *sizes]} has {count}",
            "A regression or one-score model has no victim and target class to look for.",
        )
    return classes


def _not_scores(what: str, kind: str) -> NotAClassifierError:
    return NotAClassifierError(
        f"{what} is not one score per class: it seems to be {kind}",
        f"{SCANNED} If this is one, name the tensor with its scores as `logits`.",
    )


def _kind_by_rank(shape: tuple[int | None, ...]) -> str:
    """Guess what gives an output of this shape."""
    if len(shape) == 4:
        return "a segmenter, or another network that answers place by place"
    if len(shape) == 3 and _CORNERS in shape[1:]:
        return "a detector"
    if len(shape) == 3:
        return "a detector or a sequence model"
    return "no classifier of images"


def find_logits(view: GraphView, name: str | None = None) -> Logits:
    """Find the logits of a graph.

    Args:
        view: The graph.
        name: Tensor to take instead of searching.

    Raises:
        NotAClassifierError: No output leads to one score per class.
        TensorNotFoundError: `name` is not in the graph or cannot be the logits.
    """
    if name is not None:
        return _named(view, name)
    outputs = [value for value in view.model.graph.outputs if value in view.activations]
    found: list[Logits] = []
    refusals: list[NotAClassifierError] = []
    for output in outputs:
        try:
            found.append(_from_output(view, output))
        except NotAClassifierError as error:
            refusals.append(error)
    if not found:
        raise refusals[0]
    best = _choose(view, found)
    _check_boxes(view, best, outputs)
    _check_embedding(view, best)
    _check_picture(view, best)
    return replace(best, unexamined=_apart(view, best, outputs))


def _apart(view: GraphView, best: Logits, outputs: list[ir.Value]) -> tuple[str, ...]:
    """Return the outputs that go a way of their own: what they say is not looked at."""
    scores, before = best.value.producer(), view.ancestors(best.value)
    return tuple(
        output.name or "?"
        for output in outputs
        if output.name != best.output
        and _uncarried(view, output).producer() not in before
        and scores not in view.ancestors(output)
    )


def _uncarried(view: GraphView, value: ir.Value) -> ir.Value:
    """Return the tensor whose values another one holds, whatever its shape or type."""
    node = value.producer()
    while node is not None and node.op_type in _CARRIERS:
        sources = view.activation_inputs(node)
        if len(sources) != 1:
            break
        value = sources[0]
        node = value.producer()
    return value


def _named(view: GraphView, name: str) -> Logits:
    value = view.value(name)
    try:
        classes = read_class_shape(view.shape(value))
    except NotAClassifierError as error:
        raise TensorNotFoundError(
            f"the tensor {name!r} cannot be the logits: {error.message}",
            "Name a tensor with one score per class and image.",
        ) from error
    return Logits(value, classes, output=name)


def _from_output(view: GraphView, output: ir.Value) -> Logits:
    """Walk back from one output to the scores before any normalisation."""
    chain, stripped = [output], list[str]()
    while (node := chain[-1].producer()) is not None:
        if node.op_type in _REGRESSORS:
            raise NotAClassifierError(
                f"the output {output.name!r} comes from {node.op_type}: a regression",
                "onnx-soda scans classifiers.",
            )
        previous = _before_tail(view, node)
        if previous is None:
            break
        stripped.append(node.op_type)
        chain.append(previous)
    _check_held(view, chain, stripped)
    value, classes = _most_upstream_scores(view, chain)
    kept = stripped[: chain.index(value)]
    _check_kind(view, value, output)
    return Logits(value, classes, output.name or "", tuple(kept))


def _check_held(view: GraphView, chain: list[ir.Value], stripped: list[str]) -> None:
    """Refuse an output that holds the scores in several axes: a grid, boxes, or steps in time."""
    chosen = [place for place, op_type in enumerate(stripped) if op_type in _SELECTORS]
    held = chain[chosen[-1] + 1 if chosen else 0]
    shape = view.shape(held) or ()
    if sum(size is not None and size != 1 for size in shape[1:]) > 1:
        raise _not_scores(f"the output of shape {['N', *shape[1:]]}", _kind(view, held, shape))
    if len(shape) > 1:
        _check_rows(view, held)


def _check_rows(view: GraphView, value: ir.Value) -> None:
    """Refuse a tensor whose first axis is known to count something else than images."""
    shape, images = view.shape(value), view.image.batch or 1
    if shape and len(shape) > 1 and shape[0] not in (None, images):
        kind = _kind(view, value, shape)
        if kind == _kind_by_rank(shape):
            kind = "a sequence model or a detector"
        raise _not_scores(f"the output of shape {list(shape)} for {images} images", kind)


def _kind(view: GraphView, value: ir.Value, shape: tuple[int | None, ...]) -> str:
    """Tell what a network without scores seems to be, by its operators, else by the shape."""
    operators = _operators(view, value)
    if operators & _REGIONS:
        return "a detector"
    return "a sequence model" if operators & _RECURRENT else _kind_by_rank(shape)


def _operators(view: GraphView, value: ir.Value) -> set[str]:
    """Return the types of the operators that compute a tensor, those in subgraphs too."""
    found, stack = set[str](), list(view.ancestors(value))
    while stack:
        node = stack.pop()
        found.add(node.op_type)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                stack.extend(attribute.as_graph())
    return found


def _check_kind(view: GraphView, value: ir.Value, output: ir.Value) -> None:
    """Refuse what has the shape of scores and comes from regions, or counts places."""
    what = f"the output {output.name!r}"
    if _operators(view, value) & _REGIONS:
        raise _not_scores(what, "a detector")
    if _counts_places(view, value):
        raise _not_scores(
            f"{what}, whose size follows the image's,",
            "a network that answers place by place or step by step, or features",
        )


def _check_embedding(view: GraphView, best: Logits) -> None:
    """Refuse what describes an image without classes, by its name or as it is made."""
    name = best.output.lower()
    named = name in _FEATURES or any(part in name for part in _EMBEDDINGS)
    scored = _NORMALISERS.union(_SELECTORS).intersection(best.stripped)
    if (named and not scored) or _of_length_one(view, best.value):
        raise _not_scores(
            f"the output {best.output!r}",
            "an embedding, a description of the image without classes",
        )


# As many values has the smallest image that anyone classifies, of 8 x 8 pixels. Tables of fewer
# numbers may have as many classes.
_FEWEST_PIXELS = 64


def _check_picture(view: GraphView, best: Logits) -> None:
    """Refuse an answer with as many numbers as the image has: a picture, written out in a row."""
    image, chosen = view.image, (_SELECTORS | _NORMALISERS) - {"Sigmoid"}
    if image.free_size or chosen.intersection(best.stripped):
        return
    pixels = prod(image.concrete_shape(1))
    if best.classes == pixels >= _FEWEST_PIXELS:
        raise _not_scores(
            f"the output {best.output!r}, with as many numbers as the image has,",
            "an autoencoder, or another network that answers with an image",
        )


def _counts_places(view: GraphView, value: ir.Value) -> bool:
    """Tell whether the axis of the scores grows with the image: it counts places then.

    Where one tensor before it, with the same numbers, has an axis that stays, that is the classes'.
    """
    axes = {one: axis for one in _carried(view, value) if (axis := _class_axis(view.shape(one)))}
    for one, axis in axes.items():
        node = one.producer()
        if node is not None and _WEIGHTED_AXIS.get(node.op_type) == axis:
            return False
    grown = False
    for one, axis in axes.items():
        larger = view.larger.get(one.name or "", ())
        if len(larger) > axis:
            if larger[axis] in (None, (view.shape(one) or ())[axis]):
                return False
            grown = True
    return grown


def _carried(view: GraphView, value: ir.Value) -> Iterator[ir.Value]:
    """Yield a tensor and those before it, as far back as each number comes from one alone."""
    current: ir.Value | None = value
    while current is not None:
        yield current
        node = current.producer()
        sources = view.activation_inputs(node) if node is not None else []
        kept = node is not None and node.op_type in _CARRIERS | _ELEMENTWISE | _NORMALISERS
        current = sources[0] if kept and len(sources) == 1 else None


def _class_axis(shape: tuple[int | None, ...] | None) -> int | None:
    """Return the only axis behind the first that has several entries; None where there is none."""
    axes = [axis for axis, size in enumerate(shape or ()) if axis and size != 1]
    return axes[0] if len(axes) == 1 else None


def _of_length_one(view: GraphView, value: ir.Value) -> bool:
    """Tell whether rows are divided by their Euclidean length: embeddings are, scores are not."""
    node = value.producer()
    if node is None or node.op_type != "Div":
        return node is not None and node.op_type == "LpNormalization"
    above, below = (node.inputs[0], node.inputs[1]) if len(node.inputs) == 2 else (None, None)
    rooted = False
    while below is not None and below is not above and below in view.activations:
        inner = below.producer()
        if inner is None:
            return False
        rooted = rooted or inner.op_type == "Sqrt"
        if inner.op_type == "ReduceL2" or (rooted and inner.op_type in _SUMS):
            return True
        sources = view.activation_inputs(inner)
        below = sources[0] if len(sources) == 1 else None
    return False


_SUMS = frozenset({"ReduceSum", "ReduceSumSquare"})


def _check_boxes(view: GraphView, best: Logits, outputs: list[ir.Value]) -> None:
    """Refuse scores beside which the model gives as many boxes: they are the boxes' scores."""
    for output in outputs:
        shape = view.shape(output) or ()
        if best.classes and shape[1:] in ((best.classes, _CORNERS), (_CORNERS, best.classes)):
            raise _not_scores(
                f"the output {best.output!r}, beside which {output.name!r} holds boxes,",
                "a detector",
            )


def _before_tail(view: GraphView, node: ir.Node) -> ir.Value | None:
    """Return the scores that a tail operator reads; None if the node is not one."""
    sources = view.activation_inputs(node)
    if node.op_type in _NORMALISERS | _SELECTORS | _CARRIERS and len(sources) == 1:
        return sources[0]
    return _before_written_out_softmax(node)


def _before_written_out_softmax(node: ir.Node) -> ir.Value | None:
    """Return x where the node is the division of exp(x - max x) / sum exp(x - max x).

    Exporters of old opsets and of some frameworks write softmax out like this.
    """
    if node.op_type != "Div":
        return None
    exponential = _input_from(node, 0, "Exp")
    total = _input_from(node, 1, "ReduceSum")
    if exponential is None or total is None or _input_from(total, 0, "Exp") is not exponential:
        return None
    shift = _input_from(exponential, 0, "Sub")
    if shift is not None and _input_from(shift, 1, "ReduceMax") is not None:
        return shift.inputs[0]
    return exponential.inputs[0] if exponential.inputs else None


def _input_from(node: ir.Node, position: int, op_type: str) -> ir.Node | None:
    """Return the node that computes an input, if there is one of this type."""
    value = node.inputs[position] if position < len(node.inputs) else None
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == op_type else None


def _most_upstream_scores(view: GraphView, chain: list[ir.Value]) -> tuple[ir.Value, int | None]:
    """Choose the tensor nearest to the image that still is one floating score per class."""
    refusal: NotAClassifierError | None = None
    for value in reversed(chain):
        if value.dtype is not None and value.dtype not in _FLOATS:
            continue
        try:
            _check_rows(view, value)
            return value, read_class_shape(view.shape(value))
        except NotAClassifierError as error:
            refusal = error
    raise refusal or NotAClassifierError(
        f"the output {chain[0].name!r} holds no floating-point scores",
        "Export the model with its scores as output, or name them as `logits`.",
    )


def _choose(view: GraphView, found: list[Logits]) -> Logits:
    """Choose among several outputs.

    Outputs that lead to the same scores are one. Of two different ones the one computed from the
    other wins (logits are computed from features), then the one that ended in a softmax or label,
    then the one whose name says so, then the first.
    """
    distinct = list({entry.value: entry for entry in reversed(found)}.values())[::-1]
    before = {entry.value: view.ancestors(entry.value) for entry in distinct}

    def rank(entry: Logits) -> tuple[bool, bool, int]:
        feeds_another = any(
            entry.value.producer() in before[other.value]
            for other in distinct
            if other is not entry
        )
        normalised = bool(_NORMALISERS.union(_SELECTORS).intersection(entry.stripped))
        return feeds_another, not normalised, _name_rank(entry.output)

    best = min(distinct, key=rank)
    others = [entry.output for entry in distinct if entry is not best]
    if not others:
        return best
    note = (
        f"The model has other outputs ({', '.join(others)}); the scores of {best.output} are used."
    )
    return replace(best, notes=(note,))


def _name_rank(name: str) -> int:
    lowered = name.lower()
    if any(part in lowered for part in _SIDE_NAMES):
        return 2
    return 0 if any(part in lowered for part in _SCORE_NAMES) else 1
