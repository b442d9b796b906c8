"""A checked model as those take it that come after: onnx's checker, onnx-ir, readers of graphs."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import onnx
from onnx import TensorProto, helper

from onnx_soda._preflight.inventory import DATA_FIELDS, take_inventory, walk
from onnx_soda._preflight.mend import is_silent


def for_checker(proto: onnx.ModelProto, external: bool) -> onnx.ModelProto:
    """Return a model for onnx's checker, with what it asks for and nobody reads.

    Given external tensors the checker opens files, which was done already, by a rule that lets
    checked links pass: empty tensors stand in their place. It does not look at the dimensions of
    what operators read, nor at those of outputs.

    Args:
        proto: The model, mended; returned as it is where nothing stands in the checker's way.
        external: Whether it has external tensors.
    """
    if not external and not any(map(is_silent, proto.graph.output)):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in take_inventory(copy).external:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.dims[:] = [0]
    for output in filter(is_silent, copy.graph.output):
        if output.type.WhichOneof("value") is None:
            output.type.tensor_type.elem_type = TensorProto.FLOAT
        output.type.tensor_type.shape.SetInParent()
    return copy


def without_maps(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with each `ZipMap` output replaced by the tensor that it is made from.

    scikit-learn exports end in one, {class: probability} per image. onnx-ir has no type for maps,
    and the tensor that goes into `ZipMap` holds the same scores.
    https://onnx.ai/onnx/operators/onnx_aionnxml_ZipMap.html

    The model itself where it has none; else a copy.
    """
    zip_maps = [n for n in model.graph.node if (n.domain, n.op_type) == ("ai.onnx.ml", "ZipMap")]
    if not zip_maps:
        return model
    nodes = [message for message in walk(model) if isinstance(message, onnx.NodeProto)]
    read = {name for node in nodes for name in node.input}
    zipped = {n.output[0]: n.input[0] for n in zip_maps if n.output[0] not in read}
    return _without(zipped, model)


def _without(zipped: dict[str, str], model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without the nodes that make some outputs, and other outputs in their place."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    nodes = [node for node in graph.node if not set(node.output) & set(zipped)]
    infos = [info for info in graph.value_info if info.name not in zipped]
    outputs: dict[str, onnx.ValueInfoProto] = {}
    for output in graph.output:
        source = zipped.get(output.name)
        tensor = (
            helper.make_tensor_value_info(source, TensorProto.FLOAT, None) if source else output
        )
        outputs.setdefault(tensor.name, tensor)
    for field, entries in (
        (graph.node, nodes),
        (graph.value_info, infos),
        (graph.output, list(outputs.values())),
    ):
        del field[:]
        field.extend(entries)
    return copy


def drop_weights(tensors: Iterable[onnx.TensorProto], most: int) -> None:
    """Take the numbers out of large tensors, in place; their dimensions and types stay.

    They are marked as lying elsewhere, with no place: whoever reads them by mistake gets an error
    instead of zeros.

    Args:
        tensors: Tensors of a model that nobody needs whole any more.
        most: Elements of a tensor that is left alone.
    """
    for tensor in tensors:
        if prod(tensor.dims) > most and tensor.data_type != TensorProto.STRING:
            for name in ("raw_data", "external_data", *DATA_FIELDS):
                tensor.ClearField(name)
            tensor.data_location = TensorProto.EXTERNAL
