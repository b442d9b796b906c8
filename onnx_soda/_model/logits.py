"""Finds the logits: the pre-softmax scores, one per class, whatever the file ends with.

SODA's class activation value is the score before the softmax (paper, Definition 3.2). Files end
in probabilities, labels or several outputs, so the search walks back from each output through
operators that only re-shape, normalise or select scores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import onnx_ir as ir

from onnx_soda._errors import NotAClassifierError, TensorNotFoundError
from onnx_soda._model.graph import GraphView

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
# Parts of output names that tell what it holds, where the graph leaves a choice.
_SCORE_NAMES = ("logit", "prob", "score", "class", "pred", "label", "softmax")
_SIDE_NAMES = ("aux", "feat", "embed", "hidden", "pool", "attention", "attn")


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
        raise NotAClassifierError(
            f"the output of shape {['N', *sizes]} is not one score per class",
            "onnx-soda scans classifiers: one label per image (no detection, segmentation, text).",
        )
    classes = prod(sizes)
    if classes < 2:
        count = "a single class" if classes else "zero classes"
        raise NotAClassifierError(
            f"the output of shape {['N', *sizes]} has {count}",
            "A regression or one-score model has no victim and target class to look for.",
        )
    return classes


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
    value, classes = _most_upstream_scores(view, chain)
    kept = stripped[: chain.index(value)]
    return Logits(value, classes, output.name or "", tuple(kept))


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
