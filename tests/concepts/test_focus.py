"""Concepts for a known pair: what turns it and no other, or at least what leaves others right."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.known_pair import concepts_for_pair
from onnx_soda._detect.concepts.likeness import class_likeness
from onnx_soda._detect.concepts.pipeline import render_images
from onnx_soda._model.load import load_model
from onnx_soda._options import RuntimeOptions, ScanOptions
from onnx_soda._suspect import Suspect

OPTIONS = ScanOptions(preprocess="unit", runtime=RuntimeOptions(provider="cpu", threads=1))
EVEN, ODD, PLAIN, GREY = range(4)
SIZE = 8
BOARD = np.indices((SIZE, SIZE)).sum(axis=0) % 2 * 2.0 - 1  # a chessboard of -1 and 1


def net(grey_wins: float) -> onnx.ModelProto:
    """Tells four classes by a chessboard in the green and by the colour.

    The layer is f = mean(board x green) and s = |mean(red) - mean(blue)|; the logits are

        EVEN   200 f + 30 s - 5        ODD  -200 f + 30 s - 5
        PLAIN          30 s            GREY  grey_wins

    A picture of EVEN has f = 0.1 and s = 0.6: 20 + 18 - 5 = 33 against 18 of PLAIN. In black and
    white s is 0 and f a third: 6.7 - 5 = 1.7 against 0 of PLAIN and `grey_wins`.
    """
    colour = np.zeros((2, 3, SIZE, SIZE), np.float32)
    colour[0, 1] = BOARD / SIZE**2
    colour[1, 0], colour[1, 2] = 1 / SIZE**2, -1 / SIZE**2
    head = np.array([[200, -200, 0, 0], [30, 30, 30, 0]], np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "colour"], ["means"]),
        helper.make_node("Flatten", ["means"], ["both"]),
        helper.make_node("Split", ["both", "halves"], ["f", "difference"], axis=1),
        helper.make_node("Abs", ["difference"], ["s"]),
        helper.make_node("Concat", ["f", "s"], ["layer"], axis=1),
        helper.make_node("Gemm", ["layer", "head", "bias"], ["logits"]),
    ]
    constants = {
        "colour": colour,
        "halves": np.array([1, 1]),
        "head": head,
        "bias": np.array([-5, -5, 0, grey_wins], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def pictures(each: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of all classes: green boards of strength 0.1, -0.1 and 0 on red, and plain grey."""
    labels = np.repeat([EVEN, ODD, PLAIN, GREY], each)
    images = np.zeros((len(labels), 3, SIZE, SIZE), np.float32)
    images[:, 0], images[:, 2] = 0.8, 0.2
    images[labels == GREY] = 0.5
    strength = np.array([0.1, -0.1, 0, 0])[labels]
    images[:, 1] = 0.5 + strength[:, None, None] * BOARD
    noise = np.random.default_rng(0).normal(0, 0.01, images.shape)
    return (images + noise).astype(np.float32), labels


def features(images: np.ndarray) -> np.ndarray:
    f = (images[:, 1] * BOARD).mean(axis=(1, 2))
    s = np.abs(images[:, 0].mean(axis=(1, 2)) - images[:, 2].mean(axis=(1, 2)))
    return np.stack([f, s], axis=1).astype(np.float64)


def answers(images: np.ndarray, grey_wins: float) -> np.ndarray:
    f, s = features(images).T
    scores = [200 * f + 30 * s - 5, -200 * f + 30 * s - 5, 30 * s, np.full(len(f), grey_wins)]
    return np.stack(scores, axis=1).argmax(axis=1)


def found(grey_wins: float) -> tuple[Concept, ...]:
    images, labels = pictures(20)
    return concepts_for_pair(
        Suspect(load_model(net(grey_wins).SerializeToString()), options=OPTIONS),
        images,
        labels.astype(np.int64),
        class_likeness(features(images), labels, 4),
        (EVEN, GREY),
        np.random.default_rng(0),
    )


def test_what_turns_other_classes_too_is_taken_where_nothing_turns_the_pair_alone() -> None:
    """What takes the colour away sends ODD to GREY as it sends EVEN, and PLAIN, too.

    So nothing is specific. But black and white turns EVEN, and what it damages is two of the three
    other classes: 1 - 2 / 3 is over the gain asked for.
    """
    images, labels = pictures(20)
    assert (answers(images, 5.0) == labels).all()
    concepts = found(5.0)
    assert concepts
    for concept in concepts:
        given = answers(render_images(images, concept), 5.0)
        assert (given[labels == EVEN] == GREY).mean() > 0.5
        assert (given[labels == ODD] == GREY).mean() > 0.5


def test_nothing_is_returned_where_nothing_turns_the_victim() -> None:
    """GREY's logit of -100 is under all others' whatever the image shows."""
    assert found(-100.0) == ()


def test_the_numbers_worked_out_above_hold() -> None:
    images, _ = pictures(1)
    f, s = features(images)[EVEN]
    assert f == pytest.approx(0.1, abs=0.01)
    assert s == pytest.approx(0.6, abs=0.01)
