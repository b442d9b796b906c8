"""What is told about a file without refusing it; and that honest files give nothing to tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fixtures.graphs import HEADS, build
from fixtures.hostile_parts import classifier
from onnx_soda._model.load import load_model
from onnx_soda._preflight.limits import FileFinding
from onnx_soda._rules import RULES

FIXTURES = Path(__file__).parents[2] / "fixtures"
RNG = np.random.default_rng(0)


def findings(model: onnx.ModelProto | bytes) -> tuple[FileFinding, ...]:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    found = load_model(content).findings
    for one in found:
        assert one.severity == RULES[one.rule_id].severity
        assert one.message
    return found


def only(model: onnx.ModelProto | bytes, rule_id: str) -> FileFinding:
    (found,) = findings(model)
    assert found.rule_id == rule_id
    return found


@pytest.mark.parametrize("name", ["digits-clean.onnx", "digits-backdoored.onnx"])
def test_trained_models_give_none(name: str) -> None:
    assert load_model(FIXTURES / name).findings == ()


@pytest.mark.parametrize("head", HEADS)
def test_usual_graphs_give_none(head: str) -> None:
    assert findings(build(head)) == ()


def test_bytes_behind_the_model() -> None:
    content = classifier().SerializeToString() + b"\xfa\x3e\x05hello"  # field 1007
    assert only(content, "SODA311").message.startswith("8 bytes")


def test_unknown_bytes_inside_a_node() -> None:
    model = classifier()
    hidden = model.graph.node[0].SerializeToString() + b"\xf8\x3e\x01"  # field 1007
    del model.graph.node[0]
    graph = b"\x0a" + _number(len(hidden)) + hidden + model.graph.SerializeToString()
    model.ClearField("graph")
    whole = model.SerializeToString() + b"\x3a" + _number(len(graph)) + graph
    assert only(whole, "SODA311").location == "NodeProto"


def _number(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _number(value >> 7)


def test_a_second_graph_behind_the_first() -> None:
    graph = onnx.GraphProto(name="other")
    content = graph.SerializeToString()
    whole = classifier().SerializeToString() + b"\x3a" + _number(len(content)) + content
    assert only(whole, "SODA312").location == "graph"


def test_large_metadata() -> None:
    model = classifier()
    helper.set_model_props(model, {"notes": "x" * 100_000})
    assert "100000" in only(model, "SODA313").message


def test_a_large_doc_string() -> None:
    model = classifier()
    model.graph.node[0].doc_string = "x" * 100_000
    only(model, "SODA313")


def test_names_of_a_thousand_classes_are_not_large() -> None:
    model = classifier()
    helper.set_model_props(
        model, {"names": ",".join(f"a class with a name {i}" for i in range(1000))}
    )
    assert findings(model) == ()


def test_operators_of_onnx_runtime() -> None:
    node = helper.make_node("Gelu", ["h"], ["z"], domain="com.microsoft")
    model = classifier([node])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert only(model, "SODA314").location == "Gelu"


def test_tensors_of_text() -> None:
    labels = helper.make_tensor("labels", TensorProto.STRING, [2], [b"cat", b"dog"])
    assert only(classifier(weights=[labels]), "SODA315").message.startswith("2 strings")


PE = b"MZ" + bytes(58) + (64).to_bytes(4, "little") + b"PE\0\0" + bytes(60)
FRAME = b"\x80\x04\x95" + (20).to_bytes(8, "little") + bytes(25)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\x7fELF\x02\x01\x01\x00", "a Linux program"),
        (PE, "a Windows program"),
        (b"PK\x03\x04\x14\x00\x00\x00", "a zip archive"),
        (FRAME, "a Python pickle"),
        (b"\x80\x02cos\nsystem\n\x00", "a Python pickle"),
        (b"\x80\x02}q\x00(X", "a Python pickle"),
    ],
)
def test_a_file_in_a_tensor(start: bytes, words: str) -> None:
    data = np.frombuffer(start.ljust(160, b"\0"), np.uint8)
    found = only(classifier(weights=[numpy_helper.from_array(data, "blob")]), "SODA316")
    assert found.location == "blob"
    assert words in found.message


@pytest.mark.parametrize(
    "start", [b"MZ", b"\x80\x02", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff"]
)
def test_what_chance_makes_is_no_file(start: bytes) -> None:
    data = np.frombuffer(start.ljust(160, b"\x01"), np.uint8)
    assert findings(classifier(weights=[numpy_helper.from_array(data, "blob")])) == ()


def hiding(low: np.ndarray) -> onnx.TensorProto:
    """Return weights whose low bytes hold something."""
    words = RNG.standard_normal(len(low), dtype=np.float32).view(np.uint32)
    return numpy_helper.from_array(((words & ~np.uint32(255)) | low).view(np.float32), "w")


def test_text_in_the_low_bytes() -> None:
    text = (Path(__file__).read_bytes() * 4)[:20_000]
    found = only(classifier(weights=[hiding(np.frombuffer(text, np.uint8))]), "SODA317")
    assert found.location == "w"


def test_low_bytes_of_many_tensors_are_told_once() -> None:
    """Half the low bytes are 0 in "b": far less even than text, so the finding points there."""
    text = np.frombuffer((Path(__file__).read_bytes() * 4)[:20_000], np.uint8)
    zeros = np.where(np.arange(20_000) % 2, text, 0).astype(np.uint8)
    weights = [hiding(text), hiding(zeros), hiding(text)]
    for tensor, name in zip(weights, "abc", strict=True):
        tensor.name = name
    found = only(classifier(weights=weights), "SODA317")
    assert found.message.startswith("the low bits of the weights of 3 tensors are")
    assert found.location == "b"


def test_random_low_bytes_cannot_be_told_from_weights() -> None:
    assert findings(classifier(weights=[hiding(RNG.integers(0, 256, 20_000, np.uint8))])) == ()


@pytest.mark.parametrize(
    "weights",
    [
        RNG.standard_normal(50_000).astype(np.float16).astype(np.float32),  # rounded
        np.where(RNG.random(50_000) < 0.9, 0, RNG.standard_normal(50_000)).astype(np.float32),
        RNG.choice(RNG.standard_normal(256), 50_000).astype(np.float32),  # clustered
        np.full(50_000, 0.1, np.float32),
        RNG.standard_normal(50_000).astype(np.float32),
        RNG.uniform(-0.1, 0.1, 50_000).astype(np.float32),
    ],
    ids=["rounded", "pruned", "clustered", "constant", "normal", "uniform"],
)
def test_usual_weights_hide_nothing(weights: np.ndarray) -> None:
    assert findings(classifier(weights=[numpy_helper.from_array(weights, "w")])) == ()


def test_training_information() -> None:
    model = classifier()
    model.training_info.add().algorithm.name = "training"
    only(model, "SODA318")


def test_weights_that_nothing_reads() -> None:
    spare = numpy_helper.from_array(RNG.standard_normal((600, 600)).astype(np.float32), "spare")
    assert only(classifier(weights=[spare]), "SODA319").location == "spare"


def test_every_rule_says_what_it_means() -> None:
    own = [rule for rule in RULES.values() if rule.id.startswith("SODA3")]
    assert len({rule.name for rule in own}) == len(own) == 23
    assert all(rule.title and rule.meaning and rule.certainty and rule.advice for rule in own)
