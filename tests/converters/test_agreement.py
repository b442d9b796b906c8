"""A converted model has to agree with its source where the source agrees with itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_soda._converters.result import Arrays, Reference, Source, compare
from onnx_soda._errors import ConvertError

_SHAPE = ("images", 3, 2, 2)


def identity() -> onnx.ModelProto:
    """The scores are the pixels."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, _SHAPE)
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, _SHAPE)
    node = helper.make_node("Identity", ["image"], ["scores"])
    graph = helper.make_graph([node], "identity", [image], [scores])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def source(run: Reference) -> Source:
    return Source("test", Path("model.pt2"), run, (None, 3, 2, 2), ())


def chaotic(images: NDArray[np.float32]) -> Arrays:
    """A hundred thousandth of a pixel's range turns the sine by thousands of radians."""
    return [np.sin(1e9 * images.astype(np.float64)).astype(np.float32)]


def test_same_scores_agree() -> None:
    agreement = compare(identity(), source(lambda images: [images]), seed=0)
    assert agreement.difference == 0
    assert agreement.notes == ()


def test_images_that_tell_nothing_are_left_out_and_named() -> None:
    def chaotic_when_dark(images: NDArray[np.float32]) -> Arrays:
        return chaotic(images) if images.max() <= 1 else [images]

    agreement = compare(identity(), source(chaotic_when_dark), seed=0)
    assert agreement.difference == 0
    assert len(agreement.notes) == 1
    assert "from 0 to 1:" in agreement.notes[0]


def test_a_steady_difference_is_a_fault() -> None:
    # (1.01 x - x) / (1.01 x) = 0.0099 of the largest score
    with pytest.raises(ConvertError, match=r"computes something else.*0\.0099"):
        compare(identity(), source(lambda images: [1.01 * images]), seed=0)


def test_a_source_that_never_agrees_with_itself_is_refused() -> None:
    with pytest.raises(ConvertError, match="hardly differ"):
        compare(identity(), source(chaotic), seed=0)
