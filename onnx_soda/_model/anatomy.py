"""Where a classifier takes images, scores classes, and can be intervened on.

SODA analyses "the last dense layer", because it is closest to the prediction (paper, section 3.2);
section 6 compares it with a deep, a middle and a shallow layer. Here the penultimate tensor is the
input of the last layer with weights. Other layers are tensors that every path passes through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnx_soda._errors import NotAClassifierError, TensorNotFoundError
from onnx_soda._model.graph import GraphView, view_graph
from onnx_soda._model.load import OnnxModel
from onnx_soda._model.logits import Logits, find_logits

# Operators that tell that the last axis of their tensors holds the features.
_FEATURES_LAST = frozenset(
    {
        "LayerNormalization", "MatMul", "Gemm", "RMSNormalization", "FusedMatMul", "FusedGemm",
        "SkipLayerNormalization", "SimplifiedLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)  # fmt: skip
# Operators whose result has its axes in the order of what they read.
_ELEMENTWISE = frozenset(
    {
        "Abs", "Add", "BiasGelu", "Cast", "Celu", "Clip", "DequantizeLinear", "Div", "Dropout",
        "Elu", "Erf", "Exp", "FastGelu", "Gelu", "HardSigmoid", "HardSwish", "Identity",
        "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "PRelu", "QuantizeLinear",
        "QuickGelu", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt",
        "Sub", "Swish", "Tanh", "ThresholdedRelu",
    }
)  # fmt: skip
# Convolutions and poolings of ONNX put channels first; what comes after this has them last.
_TO_CHANNELS_LAST = [0, 2, 3, 1]


def neuron_axis(view: GraphView, value: ir.Value) -> int:
    """Return the axis of a tensor's neurons.

    The last one of a (N, features) tensor and of a token sequence; the channels of a feature map,
    which networks made with Keras, TensorFlow or JAX often hold last.

    Args:
        view: The graph.
        value: The tensor.
    """
    shape = view.shape(value)
    rank = len(shape) if shape else 2
    if rank <= 3:
        return rank - 1
    neighbours = {node.op_type for node, _ in value.uses()}
    producer = value.producer()
    if producer is not None:
        neighbours.add(producer.op_type)
    last = bool(neighbours & _FEATURES_LAST) or _channels_last(view, value)
    return rank - 1 if last else 1


def _channels_last(view: GraphView, value: ir.Value) -> bool:
    """Follow a feature map back, through what keeps its axes, to what put them in order."""
    node = value.producer()
    while node is not None and node.op_type in _ELEMENTWISE:
        maps = view.activation_inputs(node)
        node = maps[0].producer() if maps else None
    if node is None or node.op_type != "Transpose":
        return False
    order = node.attributes.get("perm")
    return order is not None and list(order.as_ints()) == _TO_CHANNELS_LAST


# Operators that multiply two operands, and which inputs those are. One operand being an activation
# and the other not makes it a layer with weights. The com.microsoft ones (from the third line on)
# are what ONNX Runtime's optimiser and quantizer write.
_OPERANDS = dict.fromkeys(
    ("Gemm", "MatMul", "Conv", "ConvTranspose", "DeformConv", "Einsum", "ConvInteger",
     "MatMulInteger", "LSTM", "GRU", "RNN",
     "FusedMatMul", "FusedConv", "FusedGemm", "NhwcConv", "NhwcFusedConv", "GemmFastGelu",
     "Attention", "QAttention", "MatMulNBits", "MatMulBnb4", "DynamicQuantizeMatMul",
     "DynamicQuantizeLSTM", "MatMulIntegerToFloat"),
    (0, 1),
) | dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), (0, 3))  # fmt: skip
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})
# Classifiers without hidden neurons.
_NO_HIDDEN = frozenset({"LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"})
# Depth of the middle and the shallow layer, as shares of the layers with weights. In a ResNet-18
# these are the ends of its second and first stage: the layers of the paper's Table 6.
_MIDDLE, _SHALLOW = 0.5, 0.25
# Paths of which hidden layers are read where no layer can be analysed; the deepest ones.
_MOST_PATHS = 3
_SEVERAL_PATHS = "Several paths lead to the logits; the layer is the last tensor they share."
_QUANTIZED = "The last layer is quantized; the floating-point tensor before it is analysed."
_ONLY_READ = (
    "No single layer can be analysed: each hidden layer is passed by on another path, or holds "
    "whole numbers. So the paper's statistic was left out."
)


@dataclass(frozen=True)
class Layer:
    """A tensor whose neurons can be intervened on.

    A neuron is an entry of a (N, features) tensor, a channel of a feature map, or a feature of a
    token sequence: one learned detector, wherever in the image it fires.

    Attributes:
        role: "last", "deep", "middle", "shallow", or "named" where the caller named it.
        value: The tensor.
        shape: Its shape for the smallest batch; None where it is not known.
        axis: Axis of the neurons.
        depth: Number of operators with weights between the image and the tensor.
        notes: Sentences about how it was found.
        only_read: An intervention on it would tell little: other paths lead round it, or it holds
            whole numbers. Reference heads still read it.
    """

    role: str
    value: ir.Value
    shape: tuple[int | None, ...] | None
    axis: int
    depth: int
    notes: tuple[str, ...] = ()
    only_read: bool = False

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return self.value.name or ""

    @property
    def neurons(self) -> int | None:
        """Number of neurons; None where shape inference cannot tell it."""
        return self.shape[self.axis] if self.shape else None


def weighted_operand(view: GraphView, node: ir.Node) -> ir.Value | None:
    """Return the activation that a node multiplies with weights; None for all other nodes."""
    positions = _OPERANDS.get(node.op_type, ())
    operands = [node.inputs[i] for i in positions if i < len(node.inputs)]
    found = [value for value in operands if value in view.activations]
    return found[0] if len(found) == 1 else None


def find_penultimate(view: GraphView, logits: ir.Value) -> Layer:
    """Find the activation that the last operator with weights reads.

    Where several paths lead to the logits (two heads averaged), it is the nearest tensor that all
    of them pass through.

    Raises:
        NotAClassifierError: There is no hidden tensor between the image and the logits.
    """
    value, notes = logits, list[str]()
    while (node := value.producer()) is not None:
        if node.op_type in _NO_HIDDEN:
            raise _no_hidden_layer(f"the model is a {node.op_type}")
        operand = weighted_operand(view, node)
        if operand is not None:
            return _penultimate(view, _floating(view, operand, notes), notes)
        sources = view.activation_inputs(node)
        if len(sources) == 1:
            value = sources[0]
            continue
        nearest = view.cuts(value)[-2]
        between = view.ancestors(value) - view.ancestors(nearest)
        operands = [weighted_operand(view, inner) for inner in between]
        weighted = [operand for operand in operands if operand is not None]
        if weighted:
            floating = any(operand.dtype in _FLOATS for operand in weighted)
            notes.append(_SEVERAL_PATHS if floating else _QUANTIZED)
            return _penultimate(view, nearest, notes)
        value = nearest
    raise _no_hidden_layer("no operator with weights lies between its image and its logits")


def _floating(view: GraphView, operand: ir.Value, notes: list[str]) -> ir.Value:
    """Return the operand itself, or the nearest floating-point tensor before a quantized one."""
    if operand.dtype in _FLOATS and operand not in view.blocked:
        return operand
    for value in reversed(view.cuts(operand)):
        if value.dtype in _FLOATS and value not in view.blocked:
            notes += [] if operand.dtype in _FLOATS else [_QUANTIZED]
            return value
    raise _no_hidden_layer("its last layer is quantized and no floating-point tensor precedes it")


def _no_hidden_layer(reason: str) -> NotAClassifierError:
    return NotAClassifierError(
        f"the model has no hidden layer to analyse: {reason}",
        "Causal analysis needs hidden neurons; name a tensor as `layer` if there are some.",
    )


def _penultimate(view: GraphView, value: ir.Value, notes: list[str]) -> Layer:
    layer = _layer(view, "last", value, notes)
    if layer.depth == 0:
        raise _no_hidden_layer("no layer with weights comes before the last one")
    return layer


def _read_layers(view: GraphView, logits: ir.Value) -> tuple[Layer, ...]:
    """Return layers to read where none can be analysed: those of the deepest paths to the logits.

    Of each path the operand of its last operator with weights, and cuts before that.
    """
    ends = dict.fromkeys(
        operand
        for node in _last_weighted(view, logits)
        if (operand := weighted_operand(view, node)) is not None and operand not in view.blocked
    )
    lasts = [_layer(view, "last", value, [_ONLY_READ]) for value in ends]
    hidden = [last for last in lasts if last.depth and _row_per_image(view, last.value)]
    deepest = sorted(hidden, key=lambda layer: -layer.depth)[:_MOST_PATHS]
    found = (layer for last in deepest for layer in find_layers(view, last.value, last))
    return tuple({layer.name: replace(layer, only_read=True) for layer in found}.values())


def _last_weighted(view: GraphView, logits: ir.Value) -> list[ir.Node]:
    """Return the operators with weights that the logits come from on paths without further ones."""
    found, seen, stack = list[ir.Node](), set[ir.Node](), [logits]
    while stack:
        node = stack.pop().producer()
        if node is None or node in seen or node.op_type in _NO_HIDDEN:
            continue
        seen.add(node)
        if weighted_operand(view, node) is not None:
            found.append(node)
        else:
            stack.extend(reversed(view.activation_inputs(node)))
    return found


def _layer(view: GraphView, role: str, value: ir.Value, notes: list[str]) -> Layer:
    depth = sum(weighted_operand(view, node) is not None for node in view.ancestors(value))
    return _layer_at(view, role, value, notes, depth)


def _layer_at(view: GraphView, role: str, value: ir.Value, notes: list[str], depth: int) -> Layer:
    shape = view.shape(value)
    return Layer(role, value, shape, neuron_axis(view, value), depth, tuple(notes))


def layer_named(view: GraphView, name: str, logits: ir.Value) -> Layer:
    """Return the layer of this tensor name.

    Raises:
        TensorNotFoundError: Not in the graph, not floating point, or not on a path to the logits.
    """
    value = view.value(name)
    feeds_logits = any(value in view.activation_inputs(node) for node in view.ancestors(logits))
    if value.dtype not in _FLOATS or value is logits or not feeds_logits:
        raise TensorNotFoundError(
            f"the tensor {name!r} cannot be analysed: it must be a floating-point activation "
            "before the logits",
            "`onnx-soda inspect MODEL` lists candidate layers.",
        )
    return _layer(view, "named", value, [])


def find_layers(
    view: GraphView, logits: ir.Value, last: Layer, by_stage: bool = False
) -> tuple[Layer, ...]:
    """Return the candidate layers: last, deep, middle, shallow, those that the graph has.

    Only tensors that every path passes through count, so that an intervention on one cannot be
    bypassed. Of several at the same depth the last is taken (after normalisation, activation and
    pooling). Deep is the last feature map or token sequence before the last layer.

    Args:
        view: The graph.
        logits: The scores.
        last: The last layer.
        by_stage: Of a residual network, take ends of stages as middle and shallow layer.
    """
    layers = _earlier_layers(view, logits, last)
    by_depth = {layer.depth: layer for layer in layers}
    chosen = [last]
    if layers:
        deep = next((layer for layer in reversed(layers) if _is_spatial(layer)), layers[-1])
        chosen.append(replace(deep, role="deep"))
    for role, share in (("middle", _MIDDLE), ("shallow", _SHALLOW)):
        below = [depth for depth in by_depth if depth < chosen[-1].depth]
        if by_stage:
            below = _stage_ends(view, [by_depth[depth] for depth in below], chosen[1:]) or below
        if below:
            depth = min(below, key=lambda depth: (abs(depth - share * last.depth), depth))
            chosen.append(replace(by_depth[depth], role=role))
    return tuple(chosen)


def _stage_ends(view: GraphView, layers: list[Layer], after: Sequence[Layer]) -> list[int]:
    """Return the depths at which stages of a residual network end.

    A stage is a row of blocks whose feature maps have one size; a block ends in a sum.

    Args:
        view: The graph.
        layers: Layers to choose from, one of each depth.
        after: Layers chosen already, which lie behind them.
    """
    ends = [layer for layer in sorted(layers, key=_depth) if _is_sum(view, layer.value)]
    following = [*ends[1:], *after[-1:]]
    return [
        layer.depth
        for layer, behind in zip(ends, following, strict=False)
        if _places(layer) != _places(behind)
    ]


def _depth(layer: Layer) -> int:
    return layer.depth


def _is_sum(view: GraphView, value: ir.Value) -> bool:
    """Tell whether a tensor is a sum of two activations, or an activation function of one."""
    node = value.producer()
    while node is not None and node.op_type in _ELEMENTWISE:
        maps = view.activation_inputs(node)
        if len(maps) > 1:
            return node.op_type == "Add"
        node = maps[0].producer() if maps else None
    return False


def _places(layer: Layer) -> tuple[int | None, ...]:
    """Return the sizes of a layer's axes of places."""
    return tuple(n for axis, n in enumerate(layer.shape or ()) if axis not in (0, layer.axis))


def _earlier_layers(view: GraphView, logits: ir.Value, last: Layer) -> list[Layer]:
    """Return the tensors before the last layer that all paths pass through, from the image on."""
    tensors = [
        value
        for value in view.cuts(logits)
        if value not in (view.image_value, last.value, logits)
        and value.dtype in _FLOATS
        and value not in view.blocked
        and _row_per_image(view, value)
    ]
    depths = _depths(view, logits)
    layers = [_layer_at(view, "", value, [], depths[value]) for value in tensors]
    return [layer for layer in layers if 0 < layer.depth <= last.depth]


def _depths(view: GraphView, logits: ir.Value) -> dict[ir.Value, int]:
    """Return how many operators with weights precede each tensor on the way to the logits.

    In the order of the graph. For a cut that is its depth: what stands before it leads to it.
    """
    region = view.ancestors(logits)
    depth, depths = 0, dict[ir.Value, int]()
    for node in view.model.graph:
        if node in region:
            depth += weighted_operand(view, node) is not None
            depths.update(dict.fromkeys(node.outputs, depth))
    return depths


def _row_per_image(view: GraphView, value: ir.Value) -> bool:
    """Tell whether the first axis counts images; window attention folds places into it."""
    shape = view.shape(value) or (None,)
    return shape[0] in (None, view.image.batch or 1)


def _is_spatial(layer: Layer) -> bool:
    """Tell whether a neuron of the layer has a value at several places of the image."""
    return any(size != 1 for size in _places(layer))


ROLES = ("last", "deep", "middle", "shallow")
# In front of the name of a tensor; needed where its name is one of these words.
_TENSOR = "tensor:"


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Where a classifier takes images, scores classes, and can be intervened on.

    Attributes:
        model: The file.
        view: Its graph, prepared.
        logits: The pre-softmax scores.
        layer: The layer to analyse.
        offered: The layers that the words of `--layer` stand for; the penultimate one first.
        candidates: Layers to read, by depth alone; the penultimate one first. Where no layer can
            be analysed, those that are read: see `Layer.only_read`.
    """

    model: OnnxModel
    view: GraphView
    logits: Logits
    layer: Layer
    candidates: tuple[Layer, ...]
    offered: tuple[Layer, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about choices that the graph left open."""
        return (*self.logits.notes, *self.layer.notes)


def dissect(model: OnnxModel, layer: str = "last", logits: str | None = None) -> Anatomy:
    """Find the image input, the logits and the layer to analyse.

    Args:
        model: The model.
        layer: "last", "deep", "middle", "shallow", or the name of a tensor. Where a tensor bears
            one of these words as its name, the word is meant; "tensor:deep" is the tensor.
        logits: Name of the tensor to take as logits; found where not given.

    Raises:
        NotAClassifierError: No image input, no scores over classes, or no hidden layer.
        TensorNotFoundError: A name given is not in the graph or cannot serve.
    """
    return dissect_view(model, view_graph(model), layer, logits)


def dissect_view(
    model: OnnxModel, view: GraphView, layer: str = "last", logits: str | None = None
) -> Anatomy:
    """Do what `dissect` does with a graph that is prepared already."""
    scores = find_logits(view, logits)
    if layer in ROLES:
        candidates, offered = _candidates(view, scores.value)
        chosen = _by_word(view, layer, offered)
        return Anatomy(model, view, scores, chosen, candidates, offered)
    name = layer if layer in view.values else layer.removeprefix(_TENSOR)
    return Anatomy(model, view, scores, layer_named(view, name, scores.value), ())


def _by_word(view: GraphView, word: str, offered: tuple[Layer, ...]) -> Layer:
    """Return the layer that a word stands for; say so where a tensor bears it as its name."""
    found = next((layer for layer in offered if layer.role == word), None)
    if found is None:
        words = ", ".join(dict.fromkeys(layer.role for layer in offered))
        raise TensorNotFoundError(
            f"the model has no {word} layer; it has: {words}",
            "Take one of these, or name a tensor; `onnx-soda inspect MODEL` lists the layers.",
        )
    if word not in view.values or found.name == word:
        return found
    note = f"A tensor is named {word!r}, too; `layer={_TENSOR}{word}` takes it."
    return replace(found, notes=(*found.notes, note))


def _candidates(view: GraphView, logits: ir.Value) -> tuple[tuple[Layer, ...], tuple[Layer, ...]]:
    """Return the layers to read, and those that the words stand for."""
    try:
        last = find_penultimate(view, logits)
    except NotAClassifierError:
        read = _read_layers(view, logits)
        if not read:
            raise
        return read, read
    return find_layers(view, logits, last), find_layers(view, logits, last, by_stage=True)
