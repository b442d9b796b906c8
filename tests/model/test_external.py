"""Weights beside the model: used where they lie in its folder, refused everywhere else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from fixtures.graphs import build, logits
from onnx_soda._errors import ExternalDataError
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import Body, Tail
from onnx_soda._options import RuntimeOptions
from onnx_soda._preflight.external import ExternalFile
from onnx_soda._preflight.inventory import take_inventory

CPU = RuntimeOptions(provider="cpu", threads=1)
IMAGES = np.array([[0, 0, 0, 9], [1, 0, 0, 0], [0, 2, 1, 5]])
FEEDS = IMAGES.reshape(3, 1, 2, 2).astype(np.float32)


def move_out(tensor: onnx.TensorProto, weights: bytes, **entries: str) -> bytes:
    """Make a tensor refer to a file, and return that file's bytes with the tensor's behind."""
    content = numpy_helper.to_array(tensor).tobytes()
    tensor.ClearField("float_data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    place = {"location": "w.bin", "offset": str(len(weights)), "length": str(len(content))}
    for key, value in {**place, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return weights + content


def write_model(folder: Path, **entries: str) -> tuple[Path, bytes]:
    """Write a model whose weights are outside; return its path and the bytes of the weights."""
    proto, weights = build("gemm"), b""
    for tensor in proto.graph.initializer:
        weights = move_out(tensor, weights, **entries)
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path, weights


def refused(path: Path, words: str) -> None:
    with pytest.raises(ExternalDataError, match=words) as caught:
        load_model(path)
    assert caught.value.advice
    assert str(path.parent) not in caught.value.message


@pytest.mark.parametrize("location", ["w.bin", "sub/w.bin", "./w.bin"])
def test_weights_are_found_from_any_working_directory(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    for new in (folder / "sub", elsewhere):
        new.mkdir(parents=True)
    path, weights = write_model(folder, location=location)
    (folder / location).write_bytes(weights)
    for directory, source in ((elsewhere, path), (folder, Path("m.onnx")), (tmp_path, path)):
        monkeypatch.chdir(directory)
        anatomy = dissect(load_model(source))
        scores, layer, _ = Body(anatomy, CPU).observe(FEEDS)
        np.testing.assert_allclose(scores, logits(IMAGES), rtol=1e-6)
        np.testing.assert_allclose(Tail(anatomy, CPU).logits(layer), logits(IMAGES), rtol=1e-6)


def test_the_files_are_reported_with_digest_and_size(tmp_path: Path) -> None:
    path, weights = write_model(tmp_path)
    (tmp_path / "w.bin").write_bytes(weights)
    digest = hashlib.sha256(weights).hexdigest()
    model = load_model(path)
    assert model.external_data == (ExternalFile("w.bin", digest, 4 * (12 + 9 + 3)),)
    assert model.parameters == 12 + 9 + 3


def test_a_length_may_be_left_out(tmp_path: Path) -> None:
    proto = build("gemm")
    weights = move_out(proto.graph.initializer[0], b"")
    del proto.graph.initializer[0].external_data[1:]
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "w.bin").write_bytes(weights)
    scores = Body(dissect(load_model(tmp_path / "m.onnx")), CPU).logits(FEEDS)
    np.testing.assert_allclose(scores, logits(IMAGES), rtol=1e-6)
    (tmp_path / "w.bin").write_bytes(weights[:-1])
    refused(tmp_path / "m.onnx", "needs 48 bytes")


def test_missing(tmp_path: Path) -> None:
    refused(write_model(tmp_path)[0], "'w.bin' is missing beside the model")


@pytest.mark.parametrize("kept", [0, 1, 95])
def test_cut_short(kept: int, tmp_path: Path) -> None:
    path, weights = write_model(tmp_path)
    (tmp_path / "w.bin").write_bytes(weights[:kept])
    refused(path, f"which has {kept}$")


OUTSIDE = "outside its own folder"


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("../x.bin", OUTSIDE),
        ("../w.bin", OUTSIDE),
        ("sub/../../w.bin", OUTSIDE),
        ("/etc/passwd", "not a path beside it"),
        ("", "not a path beside it"),
        ("sub", "missing"),
        ("pipe", "missing"),
        ("ring", "missing"),
        ("a\0b", "missing"),
        ("long" * 1000, "missing"),
        ("out.bin", OUTSIDE),
        ("away/w.bin", OUTSIDE),
    ],
)
def test_a_place_that_is_not_a_file_of_the_folder(
    location: str, words: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    path, weights = write_model(folder, location=location)
    for file in (tmp_path / "w.bin", folder / "w.bin"):
        file.write_bytes(weights)
    os.mkfifo(folder / "pipe")
    (folder / "ring").symlink_to("ring")
    (folder / "out.bin").symlink_to("../w.bin")
    (folder / "away").symlink_to("..")
    refused(path, words)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"offset": "x"}, "not a number"),
        ({"length": "1.5"}, "not a number"),
        ({"offset": "9" * 4300, "length": "9" * 4300}, "not a number"),
        ({"offset": "-4"}, "names bytes -4 to"),
        ({"length": str(2**60)}, "which has 96"),
        ({"offset": str(2**60)}, "which has 96"),
        ({"length": "4"}, "needs 48 bytes"),
        ({"length": "-1"}, "needs 48 bytes"),
    ],
)
def test_a_range_that_is_none(entries: dict[str, str], words: str, tmp_path: Path) -> None:
    proto = build("gemm")
    weights = move_out(proto.graph.initializer[0], b"", **entries)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "w.bin").write_bytes(weights.ljust(96))
    refused(tmp_path / "m.onnx", words)


def test_a_tensor_too_large_for_any_number(tmp_path: Path) -> None:
    proto = build("gemm")
    move_out(proto.graph.initializer[0], b"")
    proto.graph.initializer[0].dims[:] = [2**62] * 400
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "w.bin").write_bytes(bytes(96))
    refused(tmp_path / "m.onnx", f"needs {2**64} bytes")


def test_bytes_cannot_have_external_data(tmp_path: Path) -> None:
    path, weights = write_model(tmp_path)
    (tmp_path / "w.bin").write_bytes(weights)
    with pytest.raises(ExternalDataError, match="bytes cannot have external data"):
        load_model(path.read_bytes())


# --- wherever in the model the tensor is


def outside_tensor(location: str = "../stolen.bin") -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.ones((3, 3), np.float32), "t")
    move_out(tensor, b"", location=location)
    return tensor


def in_constant(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["k"], value=tensor))


def in_branch(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["t"], ["o"])],
        "branch",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
        [tensor],
    )
    node = helper.make_node("If", ["yes"], ["k"], then_branch=branch, else_branch=branch)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(node)


def in_function(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    nodes = [helper.make_node("Constant", [], ["k"], value=tensor)]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "F", [], ["k"], nodes, opsets))


def in_sparse_initializer(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)


def in_sparse_attribute(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="sparse_value")
    attribute.type = onnx.AttributeProto.SPARSE_TENSOR
    attribute.sparse_tensor.indices.CopyFrom(tensor)


def in_list_attribute(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.node[0].attribute.add(name="many").tensors.append(tensor)


def in_training(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.training_info.add().initialization.initializer.append(tensor)


@pytest.mark.parametrize(
    "hide",
    [
        in_constant,
        in_branch,
        in_function,
        in_sparse_initializer,
        in_sparse_attribute,
        in_list_attribute,
        in_training,
    ],
)
def test_tensors_are_seen_wherever_they_hide(hide, tmp_path: Path) -> None:
    proto = build("gemm")
    assert not take_inventory(proto).external
    hide(proto, outside_tensor())
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    (tmp_path / "stolen.bin").write_bytes(bytes(36))
    refused(path, OUTSIDE)
