"""What the installed ONNX Runtime accepts: the newest opset and IR version, by trying them.

ONNX Runtime has no call that tells these numbers, so a one-node model is stamped with a version
and offered to it. A try takes about a millisecond and only models newer than what every supported
runtime accepts need one.
"""

from __future__ import annotations

from functools import cache

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from onnx_soda.errors import UnsupportedModelError
from onnx_soda.preflight.functions import STANDARD_DOMAINS
from onnx_soda.preflight.inventory import Inventory
from onnx_soda.rules.file_safety import RULE_OPERATORS

__all__ = ["check_operators", "check_versions", "newest_ir_version", "newest_opset"]

# ONNX Runtime 1.31, the oldest that pyproject.toml admits, takes at least these (measured).
_ALWAYS_ACCEPTED_OPSET = 23
_ALWAYS_ACCEPTED_IR = 11


def _accepted(opset: int, ir_version: int) -> bool:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [output])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - ONNX Runtime's exceptions share no public base class
        return False
    return True


@cache
def newest_opset() -> int:
    """Return the newest `ai.onnx` opset that the installed ONNX Runtime accepts."""
    opset = _ALWAYS_ACCEPTED_OPSET
    while _accepted(opset + 1, 8):
        opset += 1
    return opset


@cache
def newest_ir_version() -> int:
    """Return the newest IR version that the installed ONNX Runtime accepts."""
    version = _ALWAYS_ACCEPTED_IR
    while _accepted(17, version + 1):
        version += 1
    return version


def check_versions(model: onnx.ModelProto, opset: int, file: str) -> None:
    """Refuse a model that is newer than the installed ONNX Runtime.

    Raises:
        UnsupportedModelError: Names the model's number and the runtime's.
    """
    newer = []
    if opset > _ALWAYS_ACCEPTED_OPSET and opset > newest_opset():
        newer.append(f"opset {opset} (newest supported: {newest_opset()})")
    if model.ir_version > _ALWAYS_ACCEPTED_IR and model.ir_version > newest_ir_version():
        newer.append(f"IR version {model.ir_version} (newest supported: {newest_ir_version()})")
    if newer:
        raise UnsupportedModelError(
            f"{file} is newer than ONNX Runtime {ort.__version__}: {' and '.join(newer)}",
            "Upgrade ONNX Runtime, or export the model for an older opset.",
        )


def check_operators(inventory: Inventory, file: str) -> None:
    """Refuse operators that ONNX Runtime does not implement and the model does not define.

    Looks into subgraphs and functions too.

    Raises:
        UnsupportedModelError: Names the operators and their domains.
    """
    own = {(f.domain, f.name, f.overload) for f in inventory.model.functions}
    foreign = sorted(
        {
            f"{node.domain}::{node.op_type}"[:80]
            for node in inventory.nodes
            if node.domain not in STANDARD_DOMAINS
            and (node.domain, node.op_type, node.overload) not in own
        }
    )
    if foreign:
        raise UnsupportedModelError(
            f"{file} uses unknown operators: {', '.join(foreign[:5])}",
            "onnx-soda never loads custom operator libraries; export with standard operators.",
            rule_id=RULE_OPERATORS,
        )
