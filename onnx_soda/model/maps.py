"""Takes maps out of a graph: scikit-learn exports end in one, {class: probability} per image.

onnx-ir has no type for maps, and the tensor that goes into `ZipMap` holds the same scores.
https://onnx.ai/onnx/operators/onnx_aionnxml_ZipMap.html
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from onnx_soda.preflight.inventory import walk

__all__ = ["without_maps"]


def without_maps(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with each `ZipMap` output replaced by the tensor that it is made from.

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
