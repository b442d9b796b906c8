"""Untrained networks of the sizes that people scan, built without a training framework.

Their heads are fitted to the images by least squares: the scan then meets a model with a clean
accuracy and one right preprocessing, as in real use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["write_images", "write_mlp", "write_resnet18"]

FloatArray = NDArray[np.float32]

_OPSET, _IR_VERSION = 17, 8
# ResNet-18 (He et al., CVPR 2016, table 1): channels and stride of its four stages.
_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
_BLOCKS_PER_STAGE = 2
# Residual branches are scaled down, so that values do not grow from block to block.
_BRANCH_GAIN = 0.5
# Ridge, as a share of the mean squared feature: the fit passes near all images, and rounding in
# the network does not move its answers.
_RIDGE = 1e-4
# Random colours on a grid so coarse that a convolution sees edges and surfaces.
_GRID = 8


class _Graph:
    """Nodes and weights in the making; all weights come from one seeded generator."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, values: FloatArray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], **attributes))
        return name

    def conv(
        self, source: str, channels: tuple[int, int], size: int, stride: int, gain: float = 1.0
    ) -> str:
        """Add a convolution with He's initialisation (He et al., ICCV 2015)."""
        shape = (channels[1], channels[0], size, size)
        deviation = gain * np.sqrt(2 / (channels[0] * size * size))
        values = self.rng.normal(0, deviation, shape).astype(np.float32)
        bias = self.weight(np.zeros(channels[1], dtype=np.float32))
        return self.add(
            "Conv",
            source,
            self.weight(values),
            bias,
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[size // 2] * 4,
        )

    def model(self, shape: tuple[int, ...], output: str) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *shape])
        scores = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", None])
        graph = helper.make_graph(self.nodes, "net", [image], [scores], self.weights)
        opset = helper.make_opsetid("", _OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)


def _block(graph: _Graph, source: str, channels: tuple[int, int], stride: int) -> str:
    wide = (channels[1], channels[1])
    inner = graph.add("Relu", graph.conv(source, channels, 3, stride))
    branch = graph.conv(inner, wide, 3, 1, _BRANCH_GAIN)
    changed = stride != 1 or channels[0] != channels[1]
    shortcut = graph.conv(source, channels, 1, stride, np.sqrt(0.5)) if changed else source
    return graph.add("Relu", graph.add("Add", branch, shortcut))


def _resnet18_features(graph: _Graph, small_images: bool) -> str:
    if small_images:
        value = graph.add("Relu", graph.conv("image", (3, 64), 3, 1))
    else:
        stem = graph.add("Relu", graph.conv("image", (3, 64), 7, 2))
        value = graph.add("MaxPool", stem, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    width = 64
    for channels, stride in _STAGES:
        for number in range(_BLOCKS_PER_STAGE):
            value = _block(graph, value, (width, channels), 1 if number else stride)
            width = channels
    return graph.add("Flatten", graph.add("GlobalAveragePool", value))


def _fitted(features: FloatArray, labels: NDArray[np.integer]) -> tuple[FloatArray, FloatArray]:
    """Return weights (features, classes) and bias of a ridge regression on the labels."""
    wanted = np.eye(int(labels.max()) + 1)[labels]
    centre = features.mean(axis=0, dtype=np.float64)
    moved = features - centre
    ridge = _RIDGE * np.square(moved).mean() * len(moved) * np.eye(moved.shape[1])
    weights = np.linalg.solve(moved.T @ moved + ridge, moved.T @ (wanted - wanted.mean(axis=0)))
    bias = wanted.mean(axis=0) - centre @ weights
    return weights.astype(np.float32), bias.astype(np.float32)


def _write_with_head(
    graph: _Graph, features: str, data: tuple[FloatArray, NDArray[np.integer]], path: Path
) -> None:
    images, labels = data
    body = graph.model(images.shape[1:], features).SerializeToString()
    session = ort.InferenceSession(body, providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"image": images[i : i + 32]})[0] for i in range(0, len(images), 32)]
    weights, bias = _fitted(np.concatenate(parts), labels)
    logits = graph.add("Gemm", features, graph.weight(weights), graph.weight(bias))
    onnx.save(graph.model(images.shape[1:], logits), str(path))


def write_images(path: Path, classes: int, per_class: int, side: int, seed: int = 0) -> None:
    """Write an .npz clean set of coloured random patterns, uint8 (N, side, side, 3)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    cells = rng.integers(0, 256, (len(labels), _GRID, _GRID, 3), dtype=np.uint8)
    images = cells.repeat(side // _GRID, axis=1).repeat(side // _GRID, axis=2)
    np.savez(path, images=images, labels=labels)


def _network_input(path: Path) -> tuple[FloatArray, NDArray[np.integer]]:
    """Read a clean set as NCHW floats in 0..1, the preset "unit"."""
    with np.load(path) as stored:
        images, labels = stored["images"], stored["labels"]
    return np.ascontiguousarray((images / np.float32(255)).transpose(0, 3, 1, 2)), labels


def write_resnet18(path: Path, data: Path, seed: int = 0, small_images: bool = False) -> None:
    """Write a ResNet-18 whose head is fitted to a clean set.

    Args:
        path: Where to write it.
        data: The clean set, an .npz file.
        seed: For the weights.
        small_images: In the form for images of 32 x 32 pixels, which the paper takes: the first
            convolution is 3 x 3 without a stride, and no pooling follows.
    """
    graph = _Graph(seed)
    features = _resnet18_features(graph, small_images)
    _write_with_head(graph, features, _network_input(data), path)


def write_mlp(path: Path, data: Path, neurons: int, seed: int = 0) -> None:
    """Write a network of one hidden layer whose head is fitted to a clean set."""
    graph = _Graph(seed)
    images, labels = _network_input(data)
    flat = graph.add("Flatten", "image")
    inputs = int(np.prod(images.shape[1:]))
    values = graph.rng.normal(0, np.sqrt(2 / inputs), (inputs, neurons)).astype(np.float32)
    hidden = graph.add("Relu", graph.add("MatMul", flat, graph.weight(values)))
    _write_with_head(graph, hidden, (images, labels), path)
