"""What the tests of graph logic share."""

from __future__ import annotations

import onnx

from onnx_soda._detect.graph_logic.detector import LogicEvidence, examine_logic
from onnx_soda._model.graph import view_graph
from onnx_soda._model.load import load_model
from onnx_soda._options import RuntimeOptions

CPU = RuntimeOptions(provider="cpu", threads=1)


def examine(model: onnx.ModelProto) -> LogicEvidence:
    return examine_logic(view_graph(load_model(model.SerializeToString())), CPU)


def names_one_of(nodes: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return bool(set(nodes) & set(wanted))
