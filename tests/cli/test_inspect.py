"""`onnx-soda inspect`: what is in a file, for people and as data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .helpers import CLEAN_MODEL, FIXTURES, complaint, graph, invoke, soda


def test_json_has_what_is_in_the_file(tmp_path: Path) -> None:
    done = soda("inspect", CLEAN_MODEL, "--format", "json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    manifest = json.loads((FIXTURES / "digits.json").read_text())
    assert found["sha256"] == manifest["files"][CLEAN_MODEL.name]["sha256"]
    assert (found["file"], found["opset"], found["ir_version"]) == (CLEAN_MODEL.name, 17, 8)
    assert found["producer"].startswith("pytorch ")
    assert found["inputs"] == [{"name": "images", "dtype": "FLOAT", "shape": ["N", 3, 32, 32]}]
    assert found["outputs"] == [{"name": "logits", "dtype": "FLOAT", "shape": ["N", 10]}]
    assert (found["layout"], found["problem"]) == ("NCHW", None)
    assert found["logits"] == {
        "name": "logits", "classes": 10, "output": "logits", "stripped": [],
    }  # fmt: skip
    layers = {layer["role"]: layer for layer in found["layers"]}
    assert list(layers) == ["last", "deep", "middle", "shallow"]
    assert (layers["last"]["neurons"], layers["last"]["shape"]) == (96, [1, 96])
    depths = [layer["depth"] for layer in layers.values()]
    assert depths == sorted(depths, reverse=True)


@pytest.mark.parametrize(
    ("body", "weights", "output", "kind"),
    [
        ("c = Conv(x, K)  y = Relu(c)", "float[3,1,1,1] K = {1,2,3}", "float[N,3,2,2] y",
         "a segmenter"),
        ("f = Flatten(x)  m = MatMul(f, W)  y = LpNormalization(m)",
         "float[4,3] W = {1,2,3, 4,5,6, 7,8,9, 1,0,1}", "float[N,3] y", "an embedding"),
        # The mean over rows: a number for each column.
        ("c = Conv(x, K)  y = ReduceMean<axes = [1, 2], keepdims = 0>(c)",
         "float[3,1,1,1] K = {1,2,3}", "float[N,2] y", "step by step"),
        # A decision that graph logic would report leads to no class here.
        ("m = ReduceMax<keepdims = 1>(x)  b = Less(m, half)  c = Conv(x, K)  n = Neg(c)  "
         "y = Where(b, c, n)", "float[3,1,1,1] K = {1,2,3}, float half = {0.5}",
         "float[N,3,2,2] y", "a segmenter"),
    ],
)  # fmt: skip
def test_what_has_no_classes_is_refused_by_all(
    body: str, weights: str, output: str, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "m.onnx").write_bytes(graph(body, weights, output))
    for command in ("inspect", "scan"):
        done = soda(command, "m.onnx", cwd=tmp_path)
        assert done.returncode == 2
        said = complaint(done.stderr)
        assert "is not one score per class: it seems to be" in said
        assert kind in said


def test_what_the_graph_decides_is_told_of_a_model_without_classes(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(
        graph(
            "m = ReduceMax<keepdims = 1>(x)  b = Less(m, half)  c = Conv(x, K)  n = Neg(c)  "
            "y = Where(b, c, n)",
            "float[3,1,1,1] K = {1,2,3}, float half = {0.5}",
            "float[N,3,2,2] y",
        )
    )
    words = "takes 'c' where max(the image) < 0.5, else 'n'"
    text, data = (invoke("inspect", tmp_path / "m.onnx", "-f", form) for form in ("text", "json"))
    assert words in text.stdout
    (one,) = json.loads(data.stdout)["decisions"]["shown"]
    assert (one["node"], one["operator"], one["by"], one["words"]) == ("y", "Where", "input", words)


def test_every_layer_named_can_be_scanned() -> None:
    layers = json.loads(invoke("inspect", CLEAN_MODEL, "-f", "json").stdout)["layers"]
    for layer in layers[:2]:
        by_name = invoke("scan", CLEAN_MODEL, "-f", "json", "--layer", layer["name"])
        by_role = invoke("scan", CLEAN_MODEL, "-f", "json", "--layer", layer["role"])
        assert json.loads(by_name.stdout)["model"] == json.loads(by_role.stdout)["model"]
        assert json.loads(by_name.stdout)["model"]["penultimate"] == layer["name"]


def test_text_names_what_was_picked_and_what_was_stripped() -> None:
    done = invoke("inspect", FIXTURES / "heads" / "label_and_probabilities.onnx")
    assert (done.exit_code, done.stderr) == (0, "")
    words = done.stdout.split()
    for word in ("opset", "parameters", "layout", "role", "neurons", "Softmax"):
        assert word in words or f"{word}," in words
    assert "y: 3 classes, before Softmax" in done.stdout


def test_a_model_that_cannot_be_scanned_is_described_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "regression.onnx"
    path.write_bytes(
        graph(
            "f = Flatten(x)  h = Relu(f)  y = MatMul(h, A)",
            "float[4,1] A = {1,2,3,4}",
            "float[N,1] y",
        )
    )
    text, data = invoke("inspect", path), invoke("inspect", path, "-f", "json")
    for done in (text, data):
        assert done.exit_code == 2
        assert "a single class" in complaint(done.stderr)
    assert "parameters    4" in text.stdout
    found = json.loads(data.stdout)
    assert "a single class" in found["problem"]
    assert found["advice"]
    assert (found["logits"], found["layers"], found["parameters"]) == (None, [], 4)


def test_classes_that_only_the_output_declares(tmp_path: Path) -> None:
    """onnx infers no shapes behind operators of ONNX Runtime."""
    body = "f = Flatten(x)  m = MatMul(f, W)  h = Relu(m)  y = com.microsoft.FusedMatMul(h, A)"
    weights = """float[4,3] W = {1,0,0, 0,1,0, 0,0,1, 0,0,0},
                 float[3,3] A = {1,2,3, 4,5,6, 7,8,1}"""
    path = tmp_path / "model.onnx"
    path.write_bytes(graph(body, weights, opsets='"" : 17, "com.microsoft" : 1'))
    found = json.loads(invoke("inspect", path, "-f", "json").stdout)
    assert found["logits"]["classes"] == 3


def test_a_file_that_is_no_model() -> None:
    done = invoke("inspect", FIXTURES / "digits-clean.h5")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "an HDF5 file" in complaint(done.stderr)


def test_it_goes_to_a_file(tmp_path: Path) -> None:
    done = invoke("inspect", CLEAN_MODEL, "-f", "json", "-o", tmp_path / "m.json")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((tmp_path / "m.json").read_text())["opset"] == 17
