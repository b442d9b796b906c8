"""Files that ONNX Runtime loads and stricter readers refuse: scanned, told, and never changed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_soda._errors import ModelError
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import Body
from onnx_soda._options import RuntimeOptions
from onnx_soda._repair.files import read_proto, write_model

CPU = RuntimeOptions(provider="cpu", threads=1)
FIELD = Path(__file__).resolve().parents[3] / "shared" / "field"
IMAGES = np.random.default_rng(0).random((3, 1, 4, 4), dtype=np.float32)


def classifier(ir_version: int = 8, opset: int = 17) -> onnx.ModelProto:
    """Return a small network with random weights."""
    rng = np.random.default_rng(1)
    weights = {"V": (16, 8), "W": (8, 3)}
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["f"], name="flat"),
            helper.make_node("MatMul", ["f", "V"], ["m"], name="first"),
            helper.make_node("Relu", ["m"], ["h"], name="relu"),
            helper.make_node("MatMul", ["h", "W"], ["y"], name="head"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, ir_version=ir_version, opset_imports=imports)


def nodes_reversed() -> onnx.ModelProto:
    model = classifier()
    nodes = onnx.GraphProto(node=list(reversed(model.graph.node)))
    del model.graph.node[:]
    model.graph.node.extend(nodes.node)
    return model


def behind_an_inner_graph() -> onnx.ModelProto:
    """What the branches of an If take from outside is made behind it."""
    model = classifier()

    def branch(operator: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(operator, ["y"], ["b"])], "b", [], [output])

    choice = helper.make_node(
        "If", ["yes"], ["z"], "choice", then_branch=branch("Neg"), else_branch=branch("Relu")
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.insert(0, choice)
    model.graph.output[0].name = "z"
    return model


def output_without_shape() -> onnx.ModelProto:
    model = classifier()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def output_without_type() -> onnx.ModelProto:
    model = classifier()
    model.graph.output[0].ClearField("type")
    return model


def own_operator_without_import() -> onnx.ModelProto:
    model = classifier()
    relu = model.graph.node[2]
    relu.op_type, relu.domain = "Gelu", "com.microsoft"
    return model


def standard_without_import() -> onnx.ModelProto:
    model = classifier()
    model.opset_import[0].domain, model.opset_import[0].version = "com.microsoft", 1
    return model


def imported_twice() -> onnx.ModelProto:
    model = classifier()
    model.opset_import.add(domain="", version=17)
    return model


def weights_not_listed() -> onnx.ModelProto:
    return classifier(ir_version=3, opset=9)


def graph_without_name() -> onnx.ModelProto:
    model = classifier()
    model.graph.ClearField("name")
    return model


def weight_without_name() -> onnx.ModelProto:
    model = classifier()
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), ""))
    return model


def key_twice() -> onnx.ModelProto:
    model = classifier()
    for value in ("old", "new"):
        model.metadata_props.add(key="names", value=value)
    return model


def two_versions() -> onnx.ModelProto:
    """Softmax of opset 11 is over all axes but the first, that of 13 over the last one."""
    model = classifier(opset=17)
    model.opset_import.add(domain="ai.onnx", version=11)
    model.graph.node[0].op_type = "Softmax"
    model.graph.node.insert(1, helper.make_node("Flatten", ["f"], ["g"]))
    model.graph.node[2].input[0] = "g"
    return model


def function_of_another_version() -> onnx.ModelProto:
    """As ONNX Runtime reads it, Softmax is over the last axis, by the model's opset."""
    model = classifier()
    model.functions.append(
        helper.make_function(
            "own", "F", ["a"], ["b"],
            [helper.make_node("Softmax", ["a"], ["s"]), helper.make_node("Flatten", ["s"], ["b"])],
            [helper.make_opsetid("", 11)],
        )
    )  # fmt: skip
    model.opset_import.add(domain="own", version=1)
    flat = model.graph.node[0]
    flat.op_type, flat.domain = "F", "own"
    return model


def input_without_shape() -> onnx.ModelProto:
    model = classifier()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return model


def convolution_without_shape() -> onnx.ModelProto:
    model = classifier()
    kernel = np.random.default_rng(2).normal(size=(1, 1, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(kernel, "K"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half"))
    model.graph.node.insert(0, helper.make_node("Sub", ["x", "half"], ["s"]))
    model.graph.node.insert(1, helper.make_node("Conv", ["s", "K"], ["c"], pads=[1, 1, 1, 1]))
    model.graph.node[2].input[0] = "c"
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return model


def second_input_unused() -> onnx.ModelProto:
    """Something reads it, and no output needs that."""
    model = classifier()
    model.graph.input.append(helper.make_tensor_value_info("u", TensorProto.FLOAT, ["N", 2]))
    model.graph.node.append(helper.make_node("Neg", ["u"], ["v"]))
    return model


CASES: dict[Callable[[], onnx.ModelProto], tuple[str, str]] = {
    nodes_reversed: ("put in order", "MatMul 'head'"),
    behind_an_inner_graph: ("put in order", "If 'choice'"),
    output_without_shape: ("does not say its shape", "y"),
    output_without_type: ("does not say its shape", "y"),
    own_operator_without_import: ("set com.microsoft was used and not imported", "Gelu 'relu'"),
    standard_without_import: ("set ai.onnx was used and not imported", "Flatten 'flat'"),
    imported_twice: ("imported twice, in the same version", "ai.onnx"),
    two_versions: ("in the versions 17 and 11; the last one counts", "ai.onnx"),
    function_of_another_version: ("reads it by the model's, 17", "own::F"),
    input_without_shape: ("an input does not say its shape", "x"),
    convolution_without_shape: ("an input does not say its shape", "x"),
    second_input_unused: ("an input that no output needs", "u"),
    weights_not_listed: ("2 weights were not listed as inputs, as IR version 3 asks", "V"),
    graph_without_name: ("1 graphs had no name", ""),
    weight_without_name: ("1 weights without a name", ""),
    key_twice: ("the last value was kept", "names"),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_the_runtime_loads_is_read_as_the_runtime_reads_it(
    case: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    content = case().SerializeToString()
    path.write_bytes(content)
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    asked = {one.name for one in session.get_inputs()} - {"x"}
    others = {name: np.zeros((len(IMAGES), 2), np.float32) for name in asked}
    (scores,) = session.run(None, {"x": IMAGES, **others})
    model = load_model(path)
    anatomy = dissect(model)
    images = IMAGES.reshape(anatomy.view.image.concrete_shape(len(IMAGES), 4, 4))
    found = Body(anatomy, CPU).logits(images)
    np.testing.assert_allclose(found, scores, rtol=1e-5, atol=1e-6)
    told = [finding for finding in model.findings if finding.rule_id == "SODA320"]
    words, place = CASES[case]
    assert [(words in one.message, one.location, one.severity) for one in told] == [
        (True, place, "info")
    ]
    assert model.sha256 == hashlib.sha256(content).hexdigest(), "the digest is the file's"
    assert path.read_bytes() == content


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_a_repair_writes_loads_everywhere(
    case: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    (tmp_path / "m.onnx").write_bytes(case().SerializeToString())
    model = load_model(tmp_path / "m.onnx")
    write_model(read_proto(model), model, tmp_path / "out.onnx")
    again = load_model(tmp_path / "out.onnx")
    ort.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)
    left = {one.location for one in again.findings if one.rule_id == "SODA320"}
    assert left <= {"u"}, "an input that is not needed stays: callers give it"


def test_the_version_of_the_format_is_told_as_the_file_says_it() -> None:
    assert load_model(weights_not_listed().SerializeToString()).ir_version == 3


def test_one_domain_has_two_names() -> None:
    """Nodes of "ai.onnx" are those of "", by definition: nothing to tell."""
    model = classifier()
    for node in model.graph.node:
        node.domain = "ai.onnx"
    loaded = load_model(model.SerializeToString())
    assert loaded.findings == ()
    assert Body(dissect(loaded), CPU).logits(IMAGES).shape == (3, 3)


def waiting_for_itself() -> onnx.ModelProto:
    model = classifier()
    model.graph.node.append(helper.make_node("Add", ["p", "y"], ["q"]))
    model.graph.node.append(helper.make_node("Neg", ["q"], ["p"], name="back"))
    return model


def without_a_type() -> onnx.ModelProto:
    model = classifier()
    model.graph.input[0].ClearField("type")
    return model


def without_shape_and_layer() -> onnx.ModelProto:
    """A matrix product takes an input of any number of axes."""
    model = classifier()
    model.graph.node[0].op_type = "Identity"
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return model


def unknown_attribute() -> onnx.ModelProto:
    model = classifier()
    model.graph.node[2].attribute.append(helper.make_attribute("weird", 1))
    return model


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (waiting_for_itself, "its Add 'q' waits for its own result"),
        (without_a_type, "does not say the type of 'x'"),
        (without_shape_and_layer, "does not say its shape, so its layout cannot be told"),
        (unknown_attribute, "Unrecognized attribute: weird .* Name: relu"),
    ],
)
def test_what_cannot_be_read_in_one_way_is_refused_by_name(
    case: Callable[[], onnx.ModelProto], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        dissect(load_model(case().SerializeToString()))


def test_what_the_checker_refuses_and_the_runtime_loads_is_scanned() -> None:
    """Files of IR version 2 import no operator sets, says the checker."""
    model = classifier(opset=9)
    for weight in model.graph.initializer:
        model.graph.input.add(name=weight.name).type.CopyFrom(
            helper.make_tensor_type_proto(weight.data_type, weight.dims)
        )
    model.ir_version = 2
    loaded = load_model(model.SerializeToString())
    (told,) = loaded.findings
    assert "ONNX Runtime loads it" in told.message
    assert "IR version < 3" in told.location
    assert Body(dissect(loaded), CPU).logits(IMAGES).shape == (3, 3)


@pytest.mark.skipif(not FIELD.is_dir(), reason=f"no files in {FIELD}")
@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("fp16_keep_io.onnx", "put in order"),
        ("output_without_shape.onnx", "does not say its shape"),
        ("qoperator_without_import.onnx", "com.microsoft was used and not imported"),
        ("ir3_weights_not_inputs.onnx", "14 weights were not listed"),
    ],
)
def test_files_of_users(file: str, words: str) -> None:
    """A scan without images cannot end better than "inconclusive": 3."""
    command = [sys.executable, "-m", "onnx_soda", "scan", str(FIELD / file), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    findings = json.loads(done.stdout)["findings"]
    (mended,) = [one for one in findings if one["rule_id"] == "SODA320"]
    assert words in mended["message"]
    assert {one["severity"] for one in findings} == {"info"}
