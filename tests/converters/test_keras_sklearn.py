"""Keras and scikit-learn files to ONNX; files that would run code are refused."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from onnx_soda.converters.protocol import Conversion
from onnx_soda.errors import SodaError, UnsafeSourceError
from onnx_soda.model.anatomy import dissect
from onnx_soda.model.load import load_model
from onnx_soda.sandbox.files import convert_file

pytestmark = pytest.mark.filterwarnings("ignore")

FEATURES, CLASSES = 12, 5
KERAS = f"""
import keras
from keras import layers as L
def network(softmax):
    return keras.Sequential([
        keras.Input((16, 16, 3)), L.Rescaling(1 / 255), L.Conv2D(8, 3, activation="relu"),
        L.BatchNormalization(), L.MaxPooling2D(), L.Conv2D({FEATURES}, 3, activation="relu"),
        L.GlobalAveragePooling2D(), L.Dense({CLASSES}, activation="softmax" if softmax else None),
    ])
"""


def run_keras(code: str) -> None:
    """Run code in a process of its own: Keras chooses its backend when it is imported."""
    if find_spec("keras") is None:
        pytest.skip("needs the [keras] extra")
    subprocess.run(
        [sys.executable, "-c", KERAS + code], check=True, capture_output=True,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )  # fmt: skip


def convert(source: Path) -> Conversion:
    return convert_file(source, source.with_name("out.onnx"))


@pytest.mark.parametrize(("name", "softmax"), [("m.keras", True), ("m.h5", False)])
def test_a_keras_network_computes_the_same_and_is_understood(
    name: str, softmax: bool, tmp_path: Path
) -> None:
    run_keras(f"network({softmax}).save({str(tmp_path / name)!r})")
    made = convert(tmp_path / name)
    assert made.difference < 1e-5
    assert made.free_batch
    assert made.layout == "NHWC"
    anatomy = dissect(load_model(tmp_path / "out.onnx"))
    assert anatomy.view.image.layout == "NHWC"
    assert anatomy.logits.classes == CLASSES
    assert anatomy.layer.neurons == FEATURES
    assert ("Softmax" in anatomy.logits.stripped) == softmax


@pytest.mark.parametrize("name", ["m.keras", pytest.param("m.h5", marks=pytest.mark.slow)])
def test_a_lambda_layer_is_refused_and_does_not_run(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    run_keras(f"""
import os
model = keras.Sequential([
    keras.Input((16, 16, 3)),
    L.Lambda(lambda x: x if os.path.exists({str(tmp_path)!r}) else os.mkdir({str(marker)!r})),
    L.Flatten(), L.Dense(3),
])
model.save({str(tmp_path / name)!r})
""")
    with pytest.raises(UnsafeSourceError, match="Lambda") as caught:
        convert(tmp_path / name)
    assert caught.value.rule_id == "SODA307"
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_a_class_that_is_not_keras_own_is_refused(tmp_path: Path) -> None:
    run_keras(f"network(True).save({str(tmp_path / 'honest.keras')!r})")
    with (
        zipfile.ZipFile(tmp_path / "honest.keras") as honest,
        zipfile.ZipFile(tmp_path / "evil.keras", "w") as evil,
    ):
        for name in honest.namelist():
            content = honest.read(name)
            if name == "config.json":
                content = content.replace(b'"module": "keras.layers"', b'"module": "os"', 1)
            evil.writestr(name, content)
    with pytest.raises(UnsafeSourceError):
        convert(tmp_path / "evil.keras")


def test_a_scikit_learn_classifier_computes_the_same(tmp_path: Path) -> None:
    skops = pytest.importorskip("skops.io", reason="needs the [sklearn] extra")
    networks = pytest.importorskip("sklearn.neural_network")
    data = pytest.importorskip("sklearn.datasets").load_digits()
    trained = networks.MLPClassifier((FEATURES,), max_iter=30).fit(data.data, data.target)
    skops.dump(trained, tmp_path / "mlp.skops")
    made = convert(tmp_path / "mlp.skops")
    assert made.difference < 1e-3
    anatomy = dissect(load_model(tmp_path / "out.onnx"))
    assert anatomy.logits.classes == 10
    assert anatomy.layer.neurons == FEATURES


def test_a_skops_file_with_another_type_is_refused(tmp_path: Path) -> None:
    skops = pytest.importorskip("skops.io", reason="needs the [sklearn] extra")
    skops.dump({"run": os.system}, tmp_path / "evil.skops")
    with pytest.raises(SodaError):
        convert(tmp_path / "evil.skops")
    assert {path.name for path in tmp_path.iterdir()} == {"evil.skops"}
