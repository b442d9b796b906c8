"""TensorFlow SavedModel: round trips where TensorFlow is installed, and attacks in any case."""

from __future__ import annotations

import contextlib
import importlib.util
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_soda._api import convert_file
from onnx_soda._converters.saved_model import SavedModelConverter
from onnx_soda._converters.tflite_model import BUILT_IN, TfliteConverter, read_facts
from onnx_soda._errors import ConvertError
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import Body
from onnx_soda._options import RuntimeOptions

from .sources import CLASSES, FEATURES, SIZE, keras_network, numbers
from .test_round_trips import NHWC, check_keras, check_parts, converted


def message(number: int, *parts: bytes | str) -> bytes:
    """Return a protobuf field of a length."""
    content = b"".join(one.encode() if isinstance(one, str) else one for one in parts)
    size, rest = bytearray(), len(content)
    while rest > 127:
        size.append(rest & 127 | 128)
        rest >>= 7
    return bytes([number << 3 | 2]) + bytes(size) + bytes([rest]) + content


def node(operator: str, calls: str = "") -> bytes:
    called = message(5, message(1, "f"), message(2, message(10, message(1, calls))))
    return message(1, "n") + message(2, operator) + (called if calls else b"")


def function(name: str, *nodes: bytes) -> bytes:
    return message(1, message(1, message(1, name)), *(message(3, one) for one in nodes))


def saved(
    folder: Path, nodes: tuple[bytes, ...], functions: tuple[bytes, ...], objects: bytes = b""
) -> Path:
    graph = message(2, *(message(1, one) for one in nodes), message(2, *functions))
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(message(2, graph, message(7, objects)))
    return folder


SAVER = function("save", node("SaveV2"))
ATTACKS: dict[str, tuple[tuple[bytes, ...], tuple[bytes, ...], bytes]] = {
    "python": ((node("EagerPyFunc"),), (), b""),
    "read": ((), (function("serve", node("ReadFile")),), b""),
    "write": ((), (function("serve", node("WriteFile")),), b""),
    "table": ((node("HashTableV2"),), (), b""),
    "custom": ((), (function("serve", node("NobodysOwn")),), b""),
    "saving-in-the-graph": ((node("SaveV2"),), (), b""),
    "saving-called": ((), (SAVER, function("serve", node("PartitionedCall", "save"))), b""),
    "saving-restored": ((), (SAVER,), message(2, message(1, "save"))),
    "resource": ((), (), message(1, message(10, "r"))),
    "asset": ((), (), message(1, message(5, "a"))),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_programs_that_do_more_than_compute(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConvertError) as caught:
        SavedModelConverter().precheck(saved(tmp_path / "m", *ATTACKS[name]))
    assert caught.value.rule_id == "SODA307"


def test_the_functions_that_save_are_let_in(tmp_path: Path) -> None:
    calling = (node("StatefulPartitionedCall", "save"), node("Relu"))
    SavedModelConverter().precheck(saved(tmp_path / "m", calling, (SAVER,)))


def test_a_function_in_place_of_an_operator(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="defines the function Relu"):
        SavedModelConverter().precheck(saved(tmp_path / "m", (), (function("Relu"),)))


def test_links_and_assets(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    linked = saved(tmp_path / "a", (), ())
    (linked / "variables" / "variables.index").symlink_to(secret)
    with pytest.raises(ConvertError, match="no ordinary file"):
        SavedModelConverter().precheck(linked)
    holding = saved(tmp_path / "b", (), ())
    (holding / "assets").mkdir()
    (holding / "assets" / "words.txt").write_bytes(b"x")
    with pytest.raises(ConvertError, match="assets"):
        SavedModelConverter().precheck(holding)


def test_damaged_programs(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", (node("Relu"),), (SAVER,))
    whole = (folder / "saved_model.pb").read_bytes()
    for end in range(len(whole)):
        (folder / "saved_model.pb").write_bytes(whole[:end])
        with pytest.raises(ConvertError):
            SavedModelConverter().precheck(folder)


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("softmax", [False, True])
def test_round_trip(softmax: bool, tmp_path: Path) -> None:
    tf: Any = pytest.importorskip("tensorflow", reason="needs the [tensorflow] extra")
    pytest.importorskip("tf2onnx", reason="needs the [tensorflow] extra")
    kernel, head, bias = numbers(3, 3, 3, FEATURES), numbers(FEATURES, CLASSES), numbers(CLASSES)

    class Network(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.kernel, self.head = tf.Variable(kernel - 0.5), tf.Variable(head)
            self.bias = tf.Variable(bias)

        def features(self, images: Any) -> Any:
            hidden = tf.nn.relu(tf.nn.conv2d(images, self.kernel, 1, "SAME"))
            return tf.reduce_mean(hidden, [1, 2])

        @tf.function(input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32)])
        def __call__(self, images: Any) -> Any:
            logits = tf.matmul(self.features(images), self.head) + self.bias
            return tf.nn.softmax(logits) if softmax else logits

    network = Network()
    tf.saved_model.save(network, str(tmp_path / "model"))
    made, out = converted(tmp_path / "model")
    assert made.layout == "NHWC"
    images = numbers(*NHWC)
    features = np.asarray(network.features(images))
    check_parts(out, images, features, features @ head + bias)


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
def test_what_runs_at_loading(tmp_path: Path) -> None:
    """A resource's function writes a file when TensorFlow loads the model; here it does not."""
    tf: Any = pytest.importorskip("tensorflow", reason="needs the [tensorflow] extra")
    from tensorflow.python.trackable.resource import TrackableResource

    marker = tmp_path / "marker"

    class Writing(TrackableResource):  # type: ignore[misc]
        def _create_resource(self) -> Any:
            return tf.raw_ops.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

        def _initialize(self) -> None:
            tf.io.write_file(str(marker), "x")

    class Network(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.writing = Writing()
            self.handle = self.writing.resource_handle

        @tf.function(input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32)])
        def __call__(self, images: Any) -> Any:
            return tf.reduce_mean(images, [1, 2])

    source = tmp_path / "model"
    tf.saved_model.save(Network(), str(source))
    marker.unlink(missing_ok=True)
    with pytest.raises(ConvertError) as caught:
        convert_file(source, tmp_path / "m.onnx", limits=None)
    assert caught.value.rule_id == "SODA307"
    assert not marker.exists()
    tf.saved_model.load(str(source))
    assert marker.exists()


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
def test_keras_in_the_child_process(tmp_path: Path) -> None:
    tf: Any = pytest.importorskip("tensorflow", reason="needs the [tensorflow] extra")
    layers = tf.keras.layers
    network = tf.keras.Sequential(
        [
            tf.keras.Input((SIZE, SIZE, 3)),
            layers.Conv2D(FEATURES, 3, padding="same", use_bias=False),
            layers.BatchNormalization(moving_mean_initializer="random_uniform"),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES),
        ]
    )
    network.export(str(tmp_path / "model"), verbose=False)
    made = convert_file(tmp_path / "model", tmp_path / "m.onnx")
    assert made.difference < 1e-5
    assert made.free_batch


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.parametrize("softmax", [False, True])
def test_keras_files_without_pytorch(name: str, softmax: bool, tmp_path: Path) -> None:
    if importlib.util.find_spec("torch"):
        pytest.skip("with PyTorch installed Keras runs on that")
    module = keras_network(softmax, backend="tensorflow")
    module.save(tmp_path / name)
    check_keras(tmp_path / name, module)
    made = convert_file(tmp_path / name, tmp_path / "from-child.onnx")
    assert made.versions.keys() >= {"keras", "tf2onnx"}


def lite(path: Path, softmax: bool = False, form: str = "float") -> tuple[Any, Any]:
    """Write a `.tflite` file of a network with one convolution; return network and features."""
    tf: Any = pytest.importorskip("tensorflow", reason="needs the [tensorflow] extra")
    pytest.importorskip("tf2onnx", reason="needs the [tensorflow] extra")
    keras = tf.keras
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((SIZE, SIZE, 3)),
        keras.layers.Conv2D(FEATURES, 3, padding="same", activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(CLASSES, activation="softmax" if softmax else None),
    ]
    network = keras.Sequential(layers)
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    if form != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if form == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if form.startswith("int8"):
        images = numbers(*NHWC)
        converter.representative_dataset = lambda: ([one[None]] for one in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if form == "int8 images":
        converter.inference_input_type = converter.inference_output_type = tf.int8
    path.write_bytes(converter.convert())
    return network, keras.Sequential(network.layers[:-1])


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("softmax", [False, True])
def test_float_lite(softmax: bool, tmp_path: Path) -> None:
    network, head = lite(tmp_path / "m.tflite", softmax)
    made, out = converted(tmp_path / "m.tflite")
    assert made.layout == "NHWC"
    images = numbers(*NHWC)
    features = np.asarray(head(images))
    kernel, bias = (np.asarray(one) for one in network.layers[-1].get_weights())
    check_parts(out, images, features, features @ kernel + bias)


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["float16", "dynamic", "int8", "int8 images"])
def test_quantized_lite(form: str, tmp_path: Path) -> None:
    network, _ = lite(tmp_path / "m.tflite", form=form)
    made = convert_file(tmp_path / "m.tflite", tmp_path / "m.onnx", limits=None)
    assert made.difference < 1e-3
    assert made.free_batch
    assert bool(made.notes) == (form == "int8 images")
    anatomy = dissect(load_model(tmp_path / "m.onnx"))
    assert anatomy.logits.classes == CLASSES
    images = numbers(*NHWC)
    answers = Body(anatomy, RuntimeOptions("cpu", 1)).logits(images)
    wanted = np.asarray(network(images))
    assert np.abs(answers - wanted).max() < 0.1 * np.abs(wanted).max()


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
def test_lite_operators_that_are_not_let_in(tmp_path: Path) -> None:
    source = tmp_path / "m.tflite"
    lite(source)
    content = source.read_bytes()
    facts = read_facts(content, "m")
    assert facts.subgraphs == 1
    assert facts.custom == ()
    assert set(facts.codes) <= set(BUILT_IN.values())
    for end in range(0, len(content), 97):
        with pytest.raises(ConvertError):
            read_facts(content[:end], "m")


@pytest.mark.tensorflow
def test_numbers_of_operators_are_tensorflows() -> None:
    pytest.importorskip("tensorflow", reason="needs the [tensorflow] extra")
    from tensorflow.lite.python import schema_py_generated as schema

    assert {name: getattr(schema.BuiltinOperator, name) for name in BUILT_IN} == BUILT_IN


def lite_file(code: int, custom: str = "", graphs: int = 1) -> bytes:
    """Return a file with one kind of operator, made by hand: tables behind their offsets."""
    builder = bytearray(b"\0\0\0\0TFL3")

    def put(form: str, *values: int) -> int:
        place = len(builder)
        builder.extend(struct.pack(form, *values))
        return place

    def point(place: int, target: int) -> None:
        struct.pack_into("<I", builder, place, target - place)

    places = put("<HHHHH", 10, 12, 0, 4, 8)  # Model: nothing, operator codes, subgraphs
    model = put("<iII", 0, 0, 0)
    struct.pack_into("<i", builder, model, model - places)
    point(0, model)
    codes = put("<II", 1, 0)
    point(model + 4, codes)
    lists = put("<I", graphs)
    slots = [put("<I", 0) for _ in range(graphs)]
    point(model + 8, lists)
    own = put("<HHHHHH", 12, 12, 0, 4 if custom else 0, 0, 8)  # OperatorCode: name, number
    table = put("<iIi", 0, 0, code)
    struct.pack_into("<i", builder, table, table - own)
    point(codes + 4, table)
    if custom:
        point(table + 4, put("<I", len(custom)))
        builder.extend(custom.encode() + b"\0")
    empty = put("<HH", 4, 4)
    for slot in slots:
        graph = put("<i", 0)
        struct.pack_into("<i", builder, graph, graph - empty)
        point(slot, graph)
    return bytes(builder)


@pytest.mark.parametrize(
    ("content", "words", "rule"),
    [
        (lite_file(32, "FlexReadFile"), "FlexReadFile", "SODA307"),
        (lite_file(32), "operator 32", "SODA307"),
        (lite_file(129), "operator 129", "SODA307"),
        # Not dangerous, but not to be converted either.
        (lite_file(3, graphs=2), "2 graphs", None),
    ],
)
def test_lite_files_that_are_refused(
    content: bytes, words: str, rule: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    with pytest.raises(ConvertError, match=words) as caught:
        TfliteConverter().precheck(path)
    assert caught.value.rule_id == rule


@given(st.integers(0, 90), st.binary(min_size=1, max_size=8))
def test_damaged_lite_files_end_in_an_error_of_ours(place: int, junk: bytes) -> None:
    content = bytearray(lite_file(3))
    content[place : place + len(junk)] = junk
    with contextlib.suppress(ConvertError):
        read_facts(bytes(content), "m")
