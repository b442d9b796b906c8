"""What to convert: the whole graph, else up to the logits, else the head; the first that holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx2torch
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx2torch.node_converters import get_converter
from onnx2torch.onnx_graph import OnnxGraph
from torch import fx, nn

from onnx_soda._bridge.normalise import Prepared, prepare
from onnx_soda._bridge.operators.registry import OWN_DOMAIN, OWN_OPERATORS
from onnx_soda._errors import (
    ConversionError,
    ExternalDataError,
    NotAClassifierError,
    ParityError,
    RepairError,
    first_line,
)
from onnx_soda._model.anatomy import Anatomy, dissect
from onnx_soda._model.graph import GraphView, view_graph
from onnx_soda._model.load import OnnxModel, load_model
from onnx_soda._model.parts import Body, extract_body, extract_tail, serialise
from onnx_soda._model.runtime import Session, relative_difference, tolerance_of
from onnx_soda._options import RuntimeOptions

# Operators named in an error; more do not help.
_NAMED = 5
# Axes of the weights of a convolution over images.
_PLANES = 4
_ADVICE = (
    "Export the model with operators that `onnx-soda explain bridge` lists, or repair another "
    "version."
)


@dataclass(frozen=True, eq=False)
class Converted:
    """A torch module with the weights of the graph that it came from.

    Attributes:
        module: In evaluation mode; takes the graph's inputs in order. Returns a tensor, or a list
            where the graph has several outputs.
        parameters: Its parameters, by the name of the tensor in the file.
    """

    module: fx.GraphModule
    parameters: Mapping[str, nn.Parameter]


def convert(prepared: Prepared) -> Converted:
    """Convert a prepared graph with onnx2torch and the converters of `operators`.

    Raises:
        ConversionError: Names the operators, with opset and node, that cannot be converted.
    """
    unknown = [name for name, reason in _complaints(prepared) if reason is None]
    if unknown:
        rest = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        raise ConversionError(f"no converter for {', '.join(unknown[:_NAMED])}{rest}", _ADVICE)
    try:
        module = onnx2torch.convert(prepared.model).eval()
    except Exception as error:
        named = [f"{name}: {reason}" for name, reason in _complaints(prepared, try_all=True)]
        raise ConversionError(
            f"cannot be converted: {'; '.join(named[:_NAMED]) or first_line(error)}", _ADVICE
        ) from error
    parameters = {
        weight.name: module.get_parameter(f"{OWN_DOMAIN}/{weight.node}.value")
        for weight in prepared.weights
    }
    _lay_out(parameters)
    return Converted(module, parameters)


def _lay_out(parameters: Mapping[str, nn.Parameter]) -> None:
    """Put the weights of convolutions in memory so that they are trained fastest on a processor.

    Shapes and values stay the same; activations follow. See torch's tutorial on channels last.
    """
    for weight in parameters.values():
        if weight.dim() == _PLANES:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def _complaints(prepared: Prepared, try_all: bool = False) -> Iterator[tuple[str, str | None]]:
    """Yield nodes that cannot be converted, with the reason; None where there is no converter."""
    graph = OnnxGraph(prepared.model.graph)
    opsets = {entry.domain: entry.version for entry in prepared.model.opset_import}
    for node in graph.nodes.values():
        name = prepared.nodes.get(node.name, node.name)
        try:
            converter = get_converter(node.operation_type, opsets[node.domain], node.domain)
        except (NotImplementedError, KeyError):
            yield name, None
            continue
        if try_all:
            try:
                converter(node, graph)
            except Exception as error:  # noqa: BLE001 - converters raise anything
                yield name, first_line(error)


def run(
    converted: Converted, prepared: Prepared, inputs: Sequence[NDArray[Any]]
) -> list[NDArray[Any]]:
    """Run the module once without gradient.

    Args:
        converted: The module.
        prepared: The graph that it came from, to name a node that fails.
        inputs: Its inputs, in order.

    Raises:
        ConversionError: An operator of it does not run; names the node.
    """
    tensors = [torch.from_numpy(np.array(array)) for array in inputs]
    tracker = _Tracker(converted.module)
    try:
        with torch.no_grad():
            outputs = tracker.run(*tensors)
    except Exception as error:
        failed = prepared.nodes.get(tracker.at.removeprefix(f"{OWN_DOMAIN}/"), tracker.at)
        raise ConversionError(f"{failed} does not run: {first_line(error)}", _ADVICE) from error
    found = outputs if isinstance(outputs, list | tuple) else [outputs]
    return [np.asarray(tensor.numpy()) for tensor in found]


class _Tracker(fx.Interpreter):
    """Runs a module node by node, and remembers at which node it is.

    Attributes:
        at: Name of the module that was called last.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.at = "the graph"
        # Otherwise the message of an error gets the graph's code appended.
        self.extra_traceback = False

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run a node."""
        self.at = str(target)
        return super().call_module(target, args, kwargs)


# A protobuf message cannot be larger (https://protobuf.dev/programming-guides/proto-limits/).
_MAX_BYTES = 2**31 - 1
# Random images for the check, where the model takes any number.
_IMAGES = 2
_CPU = RuntimeOptions(provider="cpu")


@dataclass(frozen=True, eq=False)
class GraphPart:
    """A part of a classifier to convert.

    Attributes:
        name: What to call it in an error.
        scope: "full" or "head".
        graph: The part, as a model of its own.
        outputs: Names of its outputs.
        feed: Returns its inputs, in order, for images.
    """

    name: str
    scope: str
    graph: ir.Model
    outputs: tuple[str, ...]
    feed: Callable[[NDArray[Any]], list[NDArray[Any]]]


@dataclass(frozen=True, eq=False)
class Checked:
    """A part that was converted, and computes what ONNX Runtime computes.

    Attributes:
        part: The part.
        prepared: Its graph as onnx2torch read it.
        converted: The module.
        parity: Largest relative difference to ONNX Runtime.
        notes: Sentences about what is not as in the file.
    """

    part: GraphPart
    prepared: Prepared
    converted: Converted
    parity: float
    notes: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs of the module."""
        return tuple(value.name or "" for value in self.part.graph.graph.inputs)


def convert_best(
    model: onnx.ModelProto,
    stored: frozenset[str],
    images: NDArray[Any] | None,
    outputs: Sequence[str] | None,
    seed: int,
    head_only: bool = False,
) -> Checked:
    """Convert the largest part that can be; see `bridge.to_torch`.

    Args:
        model: The model.
        stored: Names of the tensors that its main graph stores.
        images: Inputs for the check; random where None.
        outputs: Tensors wanted; the graph's outputs where None.
        seed: For the random images.
        head_only: Convert the head and nothing else.
    """
    loaded = _load(model)
    view = view_graph(loaded)
    shown = _images(view, images, seed)
    problems: list[tuple[str, RepairError]] = []
    parts = _head_alone(loaded) if head_only else _parts(loaded, view, outputs)
    for part in parts:
        try:
            found = _checked(part, stored, shown)
        except (ConversionError, ParityError) as error:
            problems.append((part.name, error))
            continue
        return replace(found, notes=(*_why_partial(part, problems), *found.notes))
    (name, first), *others = problems
    more = "".join(f"; {other}: {error.message}" for other, error in others)
    raise type(first)(f"{name}: {first.message}{more}", first.advice) from first


def convert_tail(graph: ir.Model, inputs: Sequence[NDArray[Any]]) -> nn.Module:
    """Convert a part that ends in the logits; see `bridge.tail_to_torch`."""
    whole = ir.external_data.load_to_model(graph.clone())
    names = tuple(value.name or "" for value in whole.graph.outputs)
    part = GraphPart("the tail", "head", whole, names, lambda _: list(inputs))
    return _checked(part, frozenset(), inputs[0]).converted.module


def _load(model: onnx.ModelProto) -> OnnxModel:
    if any(tensor.data_location for tensor in model.graph.initializer):
        raise ExternalDataError(
            "the model's weights lie beside it and were not loaded",
            "Read it with onnx.load(path), which loads them too.",
        )
    if model.ByteSize() > _MAX_BYTES:
        raise ConversionError(
            f"the model has {model.ByteSize()} bytes, over {_MAX_BYTES} that one message may have",
            "Models of this size cannot be repaired yet.",
        )
    return load_model(model.SerializeToString())


def _images(view: GraphView, images: NDArray[Any] | None, seed: int) -> NDArray[Any]:
    """Return inputs for the check, as many as the model insists on."""
    image = view.image
    dtype = image.numpy_dtype()
    if images is None:
        rng = np.random.default_rng(seed)
        shape = image.concrete_shape(image.batch or _IMAGES)
        whole = np.issubdtype(dtype, np.integer)
        images = rng.integers(0, 256, shape) if whole else rng.random(shape)
    if image.batch:
        images = images[np.arange(image.batch) % len(images)]
    return images.astype(dtype)


def _parts(
    loaded: OnnxModel, view: GraphView, outputs: Sequence[str] | None
) -> Iterator[GraphPart]:
    own = tuple(value.name or "" for value in view.model.graph.outputs)
    wanted = own if outputs is None else [view.value(name).name or "" for name in outputs]
    names = tuple(dict.fromkeys(wanted))  # each tensor once
    yield GraphPart("the graph", "full", extract_body(view, names), names, lambda images: [images])
    try:
        anatomy = dissect(loaded)
    except NotAClassifierError:  # no logits to fall back to
        return
    logits = anatomy.logits.value.name or ""
    if outputs is None and names != (logits,):
        body = extract_body(anatomy.view, [logits])
        yield GraphPart("up to the logits", "full", body, (logits,), lambda images: [images])
    if (outputs is None or names == (logits,)) and not anatomy.layer.only_read:
        yield _head(anatomy, logits)


def _head_alone(loaded: OnnxModel) -> Iterator[GraphPart]:
    anatomy = dissect(loaded)
    if anatomy.layer.only_read:
        raise ConversionError(
            "no head can be converted: no single layer holds what the scores depend on",
            "Convert the whole graph.",
        )
    yield _head(anatomy, anatomy.logits.value.name or "")


def _head(anatomy: Anatomy, logits: str) -> GraphPart:
    head = extract_tail(anatomy.view, anatomy.layer.value, anatomy.logits.value)

    def feed(images: NDArray[Any]) -> list[NDArray[Any]]:
        body = Body(anatomy, _CPU, tuple(side.name for side in head.sides))
        _, layer, sides = body.observe(images)
        return [layer, *sides.values()]

    return GraphPart("the head", "head", head.model, (logits,), feed)


def _why_partial(part: GraphPart, problems: Sequence[tuple[str, RepairError]]) -> tuple[str, ...]:
    if not problems:
        return ()
    kind = (
        f"Only the head, from {part.graph.graph.inputs[0].name!r} on, was converted"
        if part.scope == "head"
        else f"The module returns the logits {part.outputs[0]!r}, not the file's outputs"
    )
    return (f"{kind}: {problems[-1][1].message}.",)


def _checked(part: GraphPart, stored: frozenset[str], images: NDArray[Any]) -> Checked:
    prepared = prepare(part.graph, stored, OWN_DOMAIN, OWN_OPERATORS)
    converted = convert(prepared)
    inputs = part.feed(images)
    wanted = _run_onnx(prepared.reference, inputs)
    parity = relative_difference(run(converted, prepared, inputs), wanted)
    if not parity <= tolerance_of(wanted):
        raise ParityError(
            f"the torch module differs from ONNX Runtime by {parity:.1e} of the largest value",
            "Please report it, with the model.",
        )
    notes = (_say_quantized(part, inputs, wanted),) if prepared.quantized else ()
    return Checked(part, prepared, converted, parity, notes)


def _run_onnx(graph: ir.Model, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    model = serialise(graph, None)
    session = Session(model, _CPU)
    feeds = dict(zip(model.inputs, inputs, strict=True))
    return session.run(session.upload(feeds), whole=True)


def _say_quantized(
    part: GraphPart, inputs: Sequence[NDArray[Any]], floats: Sequence[NDArray[Any]]
) -> str:
    quantized = [array.astype(np.float64) for array in _run_onnx(part.graph, inputs)]
    difference = relative_difference(floats, quantized)
    return (
        "The model is quantized: the module computes with floats and without rounding, and "
        f"differs from the file by {difference:.1e} of the largest value."
    )
