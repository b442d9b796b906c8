"""Turns a prepared graph into a torch module, and says which node is to blame where it cannot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx2torch
import torch
from numpy.typing import NDArray
from onnx2torch.node_converters import get_converter
from onnx2torch.onnx_graph import OnnxGraph
from torch import fx, nn

from onnx_soda.errors import ConversionError, first_line
from onnx_soda.repair.normalise import Prepared
from onnx_soda.repair.operators.registry import OWN_DOMAIN

__all__ = ["Converted", "convert", "run"]

# Operators named in an error; more do not help.
_NAMED = 5
_ADVICE = "Export the model with operators that docs/bridge.md lists, or repair another version."


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
    return Converted(module, parameters)


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
