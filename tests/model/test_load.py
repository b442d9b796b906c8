"""Files that are models, files that are not, and files that were made to break the reader."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from fixtures.graphs import HEADS, build
from onnx_soda._errors import (
    ModelError,
    ModelFileError,
    NotAClassifierError,
    SodaError,
    UnsupportedModelError,
)
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import Body
from onnx_soda._options import RuntimeOptions
from onnx_soda._preflight.definitions import newest_ir_version, newest_opset
from onnx_soda._summary import summarise

DIGITS = Path(__file__).parents[2] / "fixtures" / "digits-clean.onnx"
GEMM = build("gemm").SerializeToString()
CPU = RuntimeOptions(provider="cpu", threads=1)
WEIGHTS = "float[4,3] W = {1,0,0, 0,1,0, 0,0,1, 0,0,0}, float[3,3] A = {1,-2,3, 2,4,0, -3,6,0}"
TRUNK = "f = Flatten(x)  m = MatMul(f, W)  h = Relu(m)"
FUNCTION = '<domain: "own", opset_import: ["" : 17, "own" : 1]>'


def parse(body: str, functions: str = "", weights: str = WEIGHTS) -> onnx.ModelProto:
    domains = '"" : 17, "com.microsoft" : 1, "ai.onnx.ml" : 3, "own" : 1, "nobody" : 1'
    return onnx.parser.parse_model(
        f"<ir_version: 8, opset_import: [{domains}]>\n"
        f"g (float[N,1,2,2] x) => (float[N,3] y) <{weights}> {{ {body} }}\n{functions}"
    )


def refused(source: Path | bytes, words: str, kind: type[ModelError] = ModelFileError) -> None:
    with pytest.raises(kind, match=words) as caught:
        load_model(source)
    assert caught.value.advice
    if isinstance(source, Path):
        assert source.name in caught.value.message
        assert str(source.parent) not in caught.value.message


def look_into(content: bytes) -> None:
    """Do all that is done to a model before it is run; our own errors are all right."""
    try:
        model = load_model(content)
        summarise(model)
        dissect(model)
    except SodaError as error:
        assert error.message  # noqa: PT017 - whether it raises is not the question


# --- what is a model


def test_a_path_and_its_bytes_give_the_same_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(GEMM)
    from_path, from_text, from_bytes = load_model(path), load_model(str(path)), load_model(GEMM)
    assert (from_path.file, from_path.folder) == ("m.onnx", tmp_path)
    assert (from_bytes.file, from_bytes.folder) == ("<bytes>", None)
    for model in (from_path, from_text, from_bytes):
        assert model.sha256 == hashlib.sha256(GEMM).hexdigest()
        assert (model.opset, model.ir_version, model.external_data) == (17, 8, ())


def test_producer_and_metadata_are_read() -> None:
    proto = build("gemm")
    proto.producer_name, proto.producer_version = "maker", "1.2"
    helper.set_model_props(proto, {"author": "somebody"})
    model = load_model(proto.SerializeToString())
    assert model.producer == "maker 1.2"
    assert model.metadata == {"author": "somebody"}
    assert load_model(GEMM).producer == ""


@pytest.mark.parametrize(
    ("head", "parameters"),
    [
        ("gemm", 12 + 9 + 3),
        ("weight_constant", 12 + 9 + 3),  # the 9 are in a Constant node
        ("conv_pool", 12 + 9 + 3),  # its shapes and axes are int64: no parameters
        ("qdq", 12 + 9 + 3 + 3),  # int8 weights, two scales and a zero point
    ],
)
def test_parameters_are_counted(head: str, parameters: int) -> None:
    assert load_model(build(head).SerializeToString()).parameters == parameters


def test_operators_of_onnx_runtime_are_allowed() -> None:
    model = load_model(parse(f"{TRUNK}  y = com.microsoft.FusedMatMul(h, A)").SerializeToString())
    anatomy = dissect(model)
    assert anatomy.layer.name == "h"
    image = np.array([3, 1, 2, 0], dtype=np.float32).reshape(1, 1, 2, 2)
    np.testing.assert_allclose(Body(anatomy, CPU).logits(image), [[-1, 10, 9]])


def test_the_newest_versions_of_the_runtime_are_taken() -> None:
    proto = build("gemm")
    proto.ir_version = newest_ir_version()
    proto.opset_import[0].version = newest_opset()
    model = load_model(proto.SerializeToString())
    assert (model.opset, model.ir_version) == (newest_opset(), newest_ir_version())
    assert Body(dissect(model), CPU).logits(np.zeros((1, 1, 2, 2), np.float32)).shape == (1, 3)


# --- what is none


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "m.onnx", "m.onnx does not exist")


def test_a_folder(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder")


def pickled() -> bytes:
    return pickle.dumps({"weights": [1.0, 2.0]})


def torch_archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled())
    return stream.getvalue()


def hdf5() -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["weights"] = [1.0]
    return stream.getvalue()


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "JPEG")
    return stream.getvalue()


FOREIGN = {
    "empty": (b"", "is empty"),
    "pickle": (pickled(), "a Python pickle, which can run code"),
    "torch": (torch_archive(), "a zip archive, as PyTorch"),
    "hdf5": (hdf5(), "an HDF5 file, as Keras"),
    "gzip": (gzip.compress(GEMM), "a gzip archive"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "jpeg": (jpeg(), "a JPEG image"),
    "page": (b"<!DOCTYPE html><html>404</html>", "a web page"),
    "safetensors": ((2).to_bytes(8, "little") + b"{}", "a safetensors file"),
    "text": (b"This is not a model.\n" * 20, "cannot be read as ONNX"),
    "graphless": (onnx.ModelProto(ir_version=8).SerializeToString(), "holds no ONNX graph"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_files_are_named_for_what_they_are(kind: str, tmp_path: Path) -> None:
    content, words = FOREIGN[kind]
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(path, words)


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("m.onnx")
        info.size = len(GEMM)
        archive.addfile(info, io.BytesIO(GEMM))
    return stream.getvalue()


ADVICE = {
    "gzip": (gzip.compress(GEMM), "Unpack it first"),
    "bzip2": (bz2.compress(GEMM), "Unpack it first"),
    "xz": (lzma.compress(GEMM), "Unpack it first"),
    "tar": (tarred(), "Unpack it first"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "page": (b"\n <!doctype html>\n<title>404</title>", "Download the raw file"),
    "server": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "raw file"),
    "ort": (bytes([20, 0, 0, 0]) + b"ORTM" + bytes(60), "the .onnx file that it was made from"),
    "hdf5": (hdf5(), "`onnx-soda convert`"),
    "jpeg": (jpeg(), "Give the .onnx file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ADVICE)
def test_the_advice_fits_what_the_file_is(kind: str, tmp_path: Path) -> None:
    content, words = ADVICE[kind]
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        load_model(path)
    assert words in caught.value.advice


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes(seed: int) -> None:
    refused(np.random.default_rng(seed).bytes(2000), "<bytes>")


def test_a_model_cut_short_anywhere_is_refused() -> None:
    content = DIGITS.read_bytes()
    ends = {*range(1, 40), *range(40, len(content), 9973), *range(len(content) - 40, len(content))}
    for end in sorted(ends):
        refused(content[:end], "<bytes>")


def test_no_outputs() -> None:
    proto = build("gemm")
    del proto.graph.output[:]
    refused(proto.SerializeToString(), "has no outputs", NotAClassifierError)


def test_no_opset() -> None:
    proto = build("gemm")
    del proto.opset_import[:]
    refused(proto.SerializeToString(), "does not say which opset")


def test_a_graph_that_is_not_valid() -> None:
    proto = build("gemm")
    proto.graph.node[0].input[0] = "nowhere"
    refused(proto.SerializeToString(), "is not valid ONNX: .*nowhere")


def test_names_that_are_not_text() -> None:
    content = GEMM.replace(b"flat", b"fl\xff\xfe")
    assert content != GEMM
    refused(content, "is damaged: .* is not text")


# --- newer than the runtime, or unknown to it


@pytest.mark.parametrize("newer", ["opset", "ir"])
def test_a_model_newer_than_the_runtime_names_both_numbers(newer: str) -> None:
    proto = build("gemm")
    if newer == "opset":
        proto.opset_import[0].version = newest_opset() + 1
        words = rf"opset {newest_opset() + 1} \(newest supported: {newest_opset()}\)"
    else:
        proto.ir_version = newest_ir_version() + 1
        words = rf"IR version {newest_ir_version() + 1} \(newest supported: {newest_ir_version()}\)"
    with pytest.raises(Exception, match=r"(?i)opset|ir[ _]version"):  # the runtime says so too
        ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    refused(proto.SerializeToString(), words, UnsupportedModelError)


def branch(domain: str, output: str) -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node("Relu", ["h"], [output], domain=domain)],
        output,
        [],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
    )


def unknown_in_a_branch() -> onnx.ModelProto:
    proto = parse(f"{TRUNK}  c = Identity(h)  y = MatMul(c, A)")
    node = next(node for node in proto.graph.node if node.op_type == "Identity")
    node.CopyFrom(
        helper.make_node(
            "If", ["yes"], ["c"], then_branch=branch("", "t"), else_branch=branch("nobody", "o")
        )
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    return proto


UNKNOWN = {
    "graph": parse(f"{TRUNK}  c = nobody.Relu(h)  y = MatMul(c, A)"),
    "branch": unknown_in_a_branch(),
    "function": parse(
        f"{TRUNK}  c = own.Pass(h)  y = MatMul(c, A)",
        f"{FUNCTION} Pass (a) => (b) {{ b = nobody.Relu(a) }}",
    ),
}


@pytest.mark.parametrize("place", UNKNOWN)
def test_operators_that_nobody_knows(place: str) -> None:
    content = UNKNOWN[place].SerializeToString()
    refused(content, "unknown operators: nobody::Relu", UnsupportedModelError)


# --- maps, which onnx-ir has no type for


def map_info(name: str) -> onnx.ValueInfoProto:
    scores = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    by_class = helper.make_map_type_proto(TensorProto.INT64, scores)
    return helper.make_value_info(name, helper.make_sequence_type_proto(by_class))


def test_a_map_output_is_read_as_the_scores_it_is_made_from() -> None:
    model = load_model(build("zipmap").SerializeToString())
    assert [output.name for output in model.ir.graph.outputs] == ["label", "p"]
    anatomy = dissect(model)
    assert (anatomy.logits.value.name, anatomy.layer.name) == ("y", "h")


@pytest.mark.parametrize("name", ["z", "left_over"])
def test_shape_notes_about_maps_do_no_harm(name: str) -> None:
    proto = build("zipmap")
    proto.graph.value_info.append(map_info(name))
    assert dissect(load_model(proto.SerializeToString())).logits.value.name == "y"


def test_two_maps_of_the_same_scores_are_one_output() -> None:
    proto = build("zipmap")
    again = proto.graph.node.add()
    again.CopyFrom(next(node for node in proto.graph.node if node.op_type == "ZipMap"))
    again.output[0] = "z2"
    proto.graph.output.append(map_info("z2"))
    model = load_model(proto.SerializeToString())
    assert [output.name for output in model.ir.graph.outputs] == ["label", "p"]


def test_a_model_without_maps_is_left_alone() -> None:
    model = load_model(GEMM)
    assert [node.op_type for node in model.ir.graph] == ["Flatten", "MatMul", "Relu", "Gemm"]


# --- made to break the reader: whatever comes, only our own errors


def mutated(content: bytes, changes: list[tuple[int, int, int]]) -> bytes:
    changed = bytearray(content)
    for kind, place, byte in changes:
        at = place % len(changed)
        if kind == 0:
            changed[at] = byte
        elif kind == 1:
            changed[at] ^= 1 << byte % 8
        elif kind == 2 and len(changed) > 4:
            del changed[at : at + 1 + byte % 3]
        else:
            changed[at:at] = bytes([byte])
    return bytes(changed)


CHANGES = st.tuples(st.integers(0, 3), st.integers(0, 10_000), st.integers(0, 255))


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(sorted(HEADS)), st.lists(CHANGES, min_size=1, max_size=6))
def test_damaged_bytes_give_only_our_own_errors(
    head: str, changes: list[tuple[int, int, int]]
) -> None:
    look_into(mutated(build(head).SerializeToString(), changes))


def damaged(proto: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Yield copies with one thing wrong, all of which protobuf takes."""
    operators = ("Div", "ZipMap", "MatMulInteger", "Transpose", "Constant", "TopK", "Conv")
    for index in range(len(proto.graph.node)):
        for change in (
            lambda node: node.ClearField("input"),
            lambda node: node.ClearField("output"),
            lambda node: node.ClearField("attribute"),
            lambda node: node.input.append("x"),
            lambda node: node.output.append("more"),
            *(lambda node, o=operator: setattr(node, "op_type", o) for operator in operators),
            *(
                lambda node, o=operator: (
                    setattr(node, "op_type", o),
                    setattr(node, "domain", "com.microsoft"),
                )
                for operator in operators
            ),
        ):
            copy = onnx.ModelProto()
            copy.CopyFrom(proto)
            copy.opset_import.append(helper.make_opsetid("com.microsoft", 1))
            change(copy.graph.node[index])
            yield copy


@pytest.mark.parametrize("head", ["keras", "qdq", "softmax_written_out", "zipmap", "conv_pool"])
def test_damaged_nodes_give_only_our_own_errors(head: str) -> None:
    for proto in damaged(build(head)):
        look_into(proto.SerializeToString())


@pytest.mark.parametrize(
    "body",
    [
        f"{TRUNK}  z = MatMul(h, A)  y = com.microsoft.Div(z)",
        f"{TRUNK}  z = MatMul(h, A)  e = Exp(z)  s = com.microsoft.ReduceSum()  y = Div(e, s)",
        f"{TRUNK}  z = MatMul(h, A)  y = com.microsoft.ZipMap(z)",
        f"{TRUNK}  k = com.microsoft.Constant<value = 1>()  y = MatMul(h, A)",
        f't = com.microsoft.Transpose<perm = "a">(x)  {TRUNK.replace("x", "t")}  y = MatMul(h, A)',
    ],
)
def test_operators_that_share_a_name_with_a_standard_one(body: str) -> None:
    """Their inputs and attributes are whatever their author liked; no checker looks at them."""
    proto = parse(body)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "C"
    look_into(proto.SerializeToString())


def test_a_classifier_of_whole_numbers_alone_has_no_layer() -> None:
    """Nothing before the last layer is floating point, so there is nothing to intervene on."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (uint8[N,1,2,2] x) => (float[N,3] y) '
        "<int8[4,3] A = {1,2,3, 4,5,6, 7,8,9, 1,0,1}> "
        "{ f = Flatten(x)  i = MatMulInteger(f, A)  y = Cast<to=1>(i) }"
    )
    model = load_model(onnx.parser.parse_model(text).SerializeToString())
    with pytest.raises(NotAClassifierError, match="no floating-point tensor precedes it"):
        dissect(model)


def test_functions_that_multiply_are_refused_before_they_fill_the_memory() -> None:
    """40 functions, each calling the next twice: 2**40 nodes from four kilobytes."""
    functions = "".join(
        f"{FUNCTION} F{i} (a) => (b) {{ c = own.F{i + 1}(a)  b = own.F{i + 1}(c) }}\n"
        for i in range(40)
    )
    proto = parse(
        f"{TRUNK}  c = own.F0(h)  y = MatMul(c, A)",
        f"{functions}{FUNCTION} F40 (a) => (b) {{ b = Relu(a) }}",
    )
    with pytest.raises(UnsupportedModelError, match="once its functions are put in"):
        dissect(load_model(proto.SerializeToString()))


@pytest.mark.parametrize(
    "functions",
    [
        f"{FUNCTION} F (a) => (b) {{ b = own.F(a) }}",
        f"{FUNCTION} F (a) => (b) {{ b = own.G(a) }}\n{FUNCTION} G (a) => (b) {{ b = own.F(a) }}",
        f"{FUNCTION} F () => (b) {{ b = Constant<value_float = 1.0>() }}",
        '<domain: "own", opset_import: ["" : 9]> F (a) => (b) { b = ReduceSum<axes = [1]>(a) }',
    ],
)
def test_functions_that_cannot_be_put_in(functions: str) -> None:
    proto = parse(f"{TRUNK}  c = own.F(h)  y = MatMul(c, A)", functions)
    with pytest.raises(ModelFileError, match="is not valid ONNX"):
        dissect(load_model(proto.SerializeToString()))
