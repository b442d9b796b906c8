"""Every head style: the right tensors are picked, and their values are those worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from fixtures.graphs import HEADS, build, hidden, logits
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import Body
from onnx_soda._options import RuntimeOptions

HEAD_FILES = Path(__file__).parents[2] / "fixtures" / "heads"
CPU = RuntimeOptions(provider="cpu", threads=1)
# p0 p1 p2 p3 of five images; small whole numbers, so that quantized heads are exact too.
IMAGES = np.array([[0, 0, 0, 9], [1, 0, 0, 0], [0, 2, 1, 5], [3, 1, 2, 0], [2, 2, 2, 2]])


@pytest.mark.parametrize("head", HEADS)
def test_logits_and_penultimate_tensor_are_picked(head: str) -> None:
    anatomy = dissect(load_model(build(head).SerializeToString()))
    style = HEADS[head]
    assert anatomy.logits.value.name == style.logits
    assert anatomy.layer.name == style.layer
    assert anatomy.layer.neurons == 3
    assert anatomy.logits.classes == 3


@pytest.mark.parametrize("head", HEADS)
def test_the_body_gives_the_values_worked_out_by_hand(head: str) -> None:
    anatomy = dissect(load_model(build(head).SerializeToString()))
    body = Body(anatomy, CPU)
    image = anatomy.view.image
    images = IMAGES.reshape(-1, *image.concrete_shape(1, 2, 2)[1:]).astype(image.numpy_dtype())
    scores, layer, _ = body.observe(images)
    assert scores.shape == (5, 3)
    if HEADS[head].plain:
        np.testing.assert_allclose(scores, logits(IMAGES), rtol=1e-6)
        neurons = layer.reshape(5, 3, -1)
        np.testing.assert_allclose(neurons, hidden(IMAGES)[:, :, None].repeat(neurons.shape[2], 2))


@pytest.mark.parametrize("head", HEADS)
def test_probabilities_of_the_file_are_those_of_the_picked_logits(head: str) -> None:
    """The picked logits order the classes as the file's own first output does."""
    model = build(head)
    anatomy = dissect(load_model(model.SerializeToString()))
    image = anatomy.view.image
    batch = IMAGES[: image.batch or 4].reshape(image.concrete_shape(image.batch or 4, 2, 2))
    batch = batch.astype(image.numpy_dtype())
    settings = ort.SessionOptions()
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in model.graph.output]
    outputs = dict(zip(names, session.run(names, {"x": batch}), strict=True))
    picked = Body(anatomy, CPU).logits(batch)
    own = np.asarray(outputs[anatomy.logits.output])
    if np.issubdtype(own.dtype, np.integer):
        np.testing.assert_array_equal(own.reshape(len(picked), -1)[:, 0], picked.argmax(axis=1))
    elif own.size == picked.size:
        own_order = own.reshape(picked.shape).argmax(axis=1)
        np.testing.assert_array_equal(own_order, picked.argmax(axis=1))


def test_the_head_files_are_the_graphs_of_this_module() -> None:
    files = {path.stem: onnx.load(path) for path in HEAD_FILES.glob("*.onnx")}
    assert files == {name: build(name) for name in HEADS}


def test_other_outputs_are_named() -> None:
    anatomy = dissect(load_model(build("features_and_logits").SerializeToString()))
    assert anatomy.notes == ("The model has other outputs (embedding); the scores of y are used.",)


def test_layer_and_logits_can_be_named() -> None:
    model = load_model(build("logits_and_auxiliary").SerializeToString())
    anatomy = dissect(model, layer="flat", logits="aux")
    assert (anatomy.layer.name, anatomy.logits.value.name) == ("flat", "aux")
