"""Each kind of file becomes an ONNX file that computes the same, and that a scan understands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_soda._answers import Conversion
from onnx_soda._api import convert_file
from onnx_soda._converters.result import PROVENANCE_KEY
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import Body
from onnx_soda._options import ConvertOptions, RuntimeOptions

from .sources import (
    CLASSES,
    FEATURES,
    SIZE,
    keras_network,
    numbers,
    quietly,
    save_program,
    save_script,
    torch_network,
)

NCHW, NHWC = (4, 3, SIZE, SIZE), (4, SIZE, SIZE, 3)


def converted(source: Path, **options: Any) -> tuple[Conversion, Path]:
    out = source.with_suffix(".onnx")
    with quietly():
        made = convert_file(source, out, ConvertOptions(**options), limits=None)
    assert made.difference < 1e-5
    assert made.free_batch
    assert made.batches == (1, 3)
    return made, out


def check_parts(
    out: Path, images: NDArray[Any], features: NDArray[Any], logits: NDArray[Any]
) -> None:
    """The scan's own parts pick the scores before any softmax, and what the last layer reads."""
    model = load_model(out)
    found = Body(dissect(model), RuntimeOptions("cpu", 1)).observe(images)
    np.testing.assert_allclose(found[0], logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[1].reshape(len(images), -1), features, rtol=1e-4, atol=1e-4)
    content = out.read_bytes()
    assert not any(path in content for path in (b"/tmp", b"site-packages", b".py"))
    facts = json.loads(model.metadata[PROVENANCE_KEY])
    assert set(facts) >= {"tool", "converter", "source_sha256", "versions"}


def torch_parts(module: Any, images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    import torch

    with torch.no_grad():
        features = module[:5](torch.from_numpy(images))
        return features.numpy(), module[5](features).numpy()


@pytest.mark.pytorch
@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("free.pt2", save_program),
        ("fixed.pt2", lambda module, path: save_program(module, path, free=False)),
        ("traced.pt", lambda module, path: save_script(module, path, trace=True)),
        ("scripted.pt", lambda module, path: save_script(module, path, trace=False)),
    ],
)
def test_torch_programs(
    name: str, save: Callable[[Any, Path], None], softmax: bool, tmp_path: Path
) -> None:
    module = torch_network(softmax)
    save(module, tmp_path / name)
    made, out = converted(tmp_path / name)
    images = numbers(*NCHW)
    assert made.layout == "NCHW"
    check_parts(out, images, *torch_parts(module, images))


@pytest.mark.pytorch
def test_a_program_for_one_number_of_images(tmp_path: Path) -> None:
    """What reshapes by the batch that it was exported with keeps it, and says so."""
    import torch

    class Reshaping(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = torch_network()

        def forward(self, images: Any) -> Any:
            return self.network(images).reshape(2, CLASSES) + torch.ones(2, 1)

    source, out = tmp_path / "m.pt2", tmp_path / "m.onnx"
    save_program(Reshaping().eval(), source, free=False)
    made = convert_file(source, out, limits=None)
    assert not made.free_batch
    assert made.batches == (2,)
    assert "exactly 2 images" in made.notes[0]


@pytest.mark.pytorch
@pytest.mark.parametrize("kind", ["legacy", "safetensors", "checkpoint"])
def test_bare_weights(kind: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision", reason="needs the [pytorch] extra")
    torch.manual_seed(0)
    module = torchvision.models.squeezenet1_1(num_classes=CLASSES).eval()
    weights, source = module.state_dict(), tmp_path / "weights.bin"
    if kind == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(weights, source)
    elif kind == "checkpoint":
        wrapped = {f"module.{name}": value for name, value in weights.items()}
        torch.save({"state_dict": wrapped, "epoch": 3}, source)
    else:
        torch.save(weights, source, _use_new_zipfile_serialization=False)
    made, out = converted(source, arch="torchvision:squeezenet1_1", size=64)
    assert "5 classes" in made.notes[0]
    with torch.no_grad():
        images = numbers(2, 3, 64, 64)
        wanted = module(torch.from_numpy(images)).numpy()
    found = Body(dissect(load_model(out)), RuntimeOptions("cpu", 1)).logits(images)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def check_keras(source: Path, module: Any) -> None:
    """A saved network of `keras_network` becomes the same in ONNX."""
    made, out = converted(source)
    assert made.layout == "NHWC"
    images = 255 * numbers(*NHWC)
    features: Any = images
    for layer in module.layers[:-1]:
        features = layer(features)
    features = np.asarray(features.detach() if hasattr(features, "detach") else features)
    with quietly():
        kernel, bias = module.layers[-1].get_weights()
    check_parts(out, images, features, features @ kernel + bias)
    facts = json.loads(load_model(out).metadata[PROVENANCE_KEY])
    assert facts["value_range"] == [0, 255]


@pytest.mark.keras
@pytest.mark.parametrize(
    ("name", "softmax"), [("model.keras", True), ("model.h5", True), ("no-ending", False)]
)
def test_keras(name: str, softmax: bool, tmp_path: Path) -> None:
    module = keras_network(softmax)
    source = tmp_path / name
    with quietly():
        if name == "no-ending":
            module.save(tmp_path / "model.keras")
            (tmp_path / "model.keras").rename(source)
        else:
            module.save(source)
    check_keras(source, module)


@pytest.mark.sklearn
def test_scikit_learn(tmp_path: Path) -> None:
    skops = pytest.importorskip("skops.io", reason="needs the [sklearn] extra")
    pytest.importorskip("skl2onnx", reason="needs the [sklearn] extra")
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images, labels = numbers(120, 64), np.arange(120) % CLASSES
    perceptron = MLPClassifier((FEATURES,), max_iter=5, random_state=0)
    pipeline = make_pipeline(StandardScaler(), perceptron)
    others = (LogisticRegression(), RandomForestClassifier(4, random_state=0))
    with quietly():
        for name, model in enumerate((*others, pipeline)):
            source = tmp_path / f"{name}.skops"
            skops.dump(model.fit(images, labels), source)
            made, out = converted(source)
            assert made.layout == "flat"
    hidden = np.maximum(
        pipeline[0].transform(images) @ perceptron.coefs_[0] + perceptron.intercepts_[0], 0
    )
    logits = hidden @ perceptron.coefs_[1] + perceptron.intercepts_[1]
    check_parts(out, images, hidden, logits)
    facts = json.loads(load_model(out).metadata[PROVENANCE_KEY])
    assert facts["class_names"] == [str(number) for number in range(CLASSES)]


@pytest.mark.pytorch
def test_the_child_process_does_the_same(tmp_path: Path) -> None:
    """Held in by Landlock, seccomp and limits, the exporter still works."""
    source = tmp_path / "m.pt2"
    save_program(torch_network(), source)
    made = convert_file(source, tmp_path / "m.onnx")
    assert made.difference < 1e-5
    assert sorted(one.name for one in tmp_path.iterdir()) == ["m.onnx", "m.pt2"]
    assert onnx.load(tmp_path / "m.onnx").graph.node
