"""Nets of one hidden layer with a head of one's own, and images that fill the layer as wanted.

The hidden layer is h = relu(pixels), or the pixels themselves; the scores are h A + bias.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_soda import RuntimeOptions, ScanOptions, load_dataset, load_model, numbers_of, scan
from onnx_soda._numbers import BaselineNumbers

CPU = RuntimeOptions(provider="cpu", threads=1)
LEVEL = 0.2
"""Pixels are multiples of this, so that they are the same as whole numbers from 0 to 255."""


def net(head: NDArray[np.float64], bias: NDArray[np.float64] | None = None) -> bytes:
    """Return a net with this head, shape (neurons, classes), for images of 1 x neurons pixels."""
    neurons, classes = head.shape
    weights = {"I": np.eye(neurons), "A": head, "bias": np.zeros(classes) if bias is None else bias}
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "I"], ["mixed"]),
        helper.make_node("Relu", ["mixed"], ["h"]),
        helper.make_node("MatMul", ["h", "A"], ["m"]),
        helper.make_node("Add", ["m", "bias"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 1, neurons])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def write_images(path: Path, hidden: NDArray[np.float64], each: int = 12) -> Path:
    """Write so many images of each class, whose hidden layer is its row."""
    pixels = np.rint(255 * hidden).astype(np.uint8)[:, np.newaxis, :, np.newaxis]
    np.savez(path, images=pixels.repeat(each, axis=0), labels=np.arange(len(hidden)).repeat(each))
    return path


def told(
    model: bytes, images: Path | None, method: str, **options: Any
) -> tuple[BaselineNumbers, str]:
    """Scan with a detector; return its numbers and what it says in sentences."""
    chosen = ScanOptions(method=method, preprocess="unit", runtime=CPU, **options)
    clean = None if images is None else load_dataset(images)
    report = scan(load_model(model), clean, chosen)
    numbers = numbers_of(report, method, BaselineNumbers)
    assert numbers is not None
    return numbers, " ".join(report.evidence[method].reasons)
