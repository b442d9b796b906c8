"""What the graph of a file decides is told in words by `onnx-soda check`, too; nothing is run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import onnx
import onnx.parser
import pytest

from fixtures.gates import HONEST_GATES
from fixtures.graphs import build
from fixtures.lookalikes import LOOKALIKES
from fixtures.sketches import build_sketch
from fixtures.trojans import TROJANS
from onnx_soda import FileNumbers, GraphDecisions, check_files, numbers_of, report_schema
from onnx_soda._report.formats import FORMATS
from tests.check.samples import zipped
from tests.cli.helpers import soda

FIELD = Path(__file__).parents[3] / "shared/field"
WORDS = "takes 10 stored numbers where mean(part of the image) > 0.9, else 'y'"
TROJAN = build_sketch(TROJANS["colour_sum_where"])
NOT_TOLD = "What the graph of m.onnx decides is not told: "


@pytest.fixture
def trojan(tmp_path: Path) -> Path:
    onnx.save(TROJAN, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def look(path: Path) -> tuple[dict[str, GraphDecisions], tuple[str, ...]]:
    """Return what graphs decide by the name of the part, and the sentences of the report."""
    (found,) = check_files([path], limits=None)
    assert found.report is not None
    numbers = numbers_of(found.report, "files", FileNumbers)
    assert numbers is not None
    return dict(numbers.decisions), found.report.reasons


def test_a_decision_is_told_and_changes_no_verdict(trojan: Path) -> None:
    done = soda("check", trojan)
    assert (done.returncode, done.stderr) == (0, "")
    words = " ".join(done.stdout.split())
    assert "m.onnx: NO FINDING" in words
    assert f"out Where the input {WORDS}" in words
    assert "A scan would report a decision in the graph of m.onnx (SODA201 to SODA205)." in words
    assert "does not look for backdoors" in words


def test_every_form_with_evidence_has_the_words(trojan: Path, tmp_path: Path) -> None:
    shown = ("text", "json", "html", "markdown", "sarif")
    files = {form: tmp_path / form for form in FORMATS.names if form in shown}
    assert len(files) == len(shown)
    done = soda("check", trojan, *(word for form in files for word in ("-f", f"{form}={form}")),
                cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = {form: " ".join(file.read_text("utf-8").split()) for form, file in files.items()}
    for form, text in told.items():
        assert "What the graph decides, and on what" in text, form
        assert "takes 10 stored numbers where mean" in text, form
    report = json.loads(files["json"].read_text("utf-8"))
    jsonschema.Draft202012Validator(report_schema()).validate(report)
    (one,) = report["evidence"]["files"]["numbers"]["decisions"]["m.onnx"]["shown"]
    assert one == {"node": "out", "operator": "Where", "by": "input", "words": WORDS,
                   "severity": "high", "places": 1}  # fmt: skip
    assert report["findings"] == [], "a decision is evidence, no finding about the file"


def test_a_check_says_what_a_scan_says(trojan: Path) -> None:
    """The scan adds what it saw when it ran images."""
    scanned = json.loads(soda("scan", trojan, "-q", "--no-cache", "-f", "json").stdout)
    (seen,) = scanned["evidence"]["graph-logic"]["numbers"]["decisions"]["shown"]
    (one,) = look(trojan)[0]["m.onnx"].shown
    assert seen["words"].startswith(one.words)
    assert (seen["node"], seen["by"], seen["severity"]) == (one.node, one.by, one.severity)


def test_in_an_archive_each_graph_is_told_by_its_name(tmp_path: Path) -> None:
    leaky = build_sketch(LOOKALIKES["leaky_by_where"]).SerializeToString()
    inside = {"a/one.onnx": TROJAN.SerializeToString(), "two.onnx": leaky,
              "plain.onnx": build("gemm").SerializeToString()}  # fmt: skip
    (tmp_path / "both.zip").write_bytes(zipped(inside))
    done = soda("check", tmp_path / "both.zip")
    words = " ".join(done.stdout.split())
    assert "What the graph decides, and on what: a/one.onnx" in words
    assert "What the graph decides, and on what: two.onnx" in words
    assert "on what: plain.onnx" not in words
    assert "a decision in the graph of a/one.onnx" in words
    assert "a decision in the graph of two.onnx" not in words, "an activation function"


def test_honest_and_other_graphs_are_told_as_before_a_scan(tmp_path: Path) -> None:
    """Every graph of the fixtures: what `inspect` tells of it, `check` tells."""
    from onnx_soda import inspect_file

    for name, sketch in {**TROJANS, **LOOKALIKES, **HONEST_GATES}.items():
        path = tmp_path / f"{name}.onnx"
        onnx.save(build_sketch(sketch), path)
        told, _ = look(path)
        expected = inspect_file(path, limits=None).decisions
        assert told.get(path.name, GraphDecisions()) == expected, name


@pytest.mark.parametrize("name", ["skipped_block", "reject_label", "pre_scale_if_over_one"])
def test_files_of_users(name: str) -> None:
    if not FIELD.exists():
        pytest.skip("the shared files are not here")
    told, _ = look(FIELD / f"{name}.onnx")
    (one,) = told[f"{name}.onnx"].shown
    assert one.by == "input"


def test_labels_and_probabilities_of_scikit_learn(tmp_path: Path) -> None:
    """onnx-ir has no type for the map at the end; the label there is the place of the largest."""
    onnx.save(build("label_and_probabilities"), tmp_path / "m.onnx")
    assert not [text for text in look(tmp_path / "m.onnx")[1] if "not told" in text]


def test_a_graph_of_too_many_nodes_has_them_counted(tmp_path: Path) -> None:
    steps = "".join(f"n{i} = Sin({f'n{i - 1}' if i else 'x'})  " for i in range(3_996))
    rest = "m = Greater(n3995, h)  y = Where(m, n3995, x)"
    text = (
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N,4] x) => (float[N,4] y) '
        "<float h = {0.5}> { %s }"
    )
    onnx.save(onnx.parser.parse_model(text % (steps + rest)), tmp_path / "m.onnx")
    told, _ = look(tmp_path / "m.onnx")
    assert [one.operator for one in told["m.onnx"].shown] == ["Where"]
    more = "".join(f"k{i} = Cos({f'k{i - 1}' if i else 'n3995'})  " for i in range(3))
    onnx.save(onnx.parser.parse_model(text % (steps + more + rest)), tmp_path / "m.onnx")
    told, reasons = look(tmp_path / "m.onnx")
    assert told == {}
    assert (
        f"{NOT_TOLD}it has 4,001 nodes, and 4,000 of a file are followed. What may decide: "
        "1 Where, 1 Greater." in reasons
    )


def test_what_onnx_objects_to_is_not_told_and_has_its_verdict_all_the_same(tmp_path: Path) -> None:
    odd = onnx.ModelProto.FromString(TROJAN.SerializeToString())
    odd.graph.node[0].attribute.add(name="odd", i=1, type=onnx.AttributeProto.INT)
    onnx.save(odd, tmp_path / "m.onnx")
    done = soda("check", tmp_path / "m.onnx")
    assert done.returncode == 0
    assert "m.onnx decides is not told: Unrecognized attribute: odd" in " ".join(
        done.stdout.split()
    )


def test_weights_beside_a_refused_model_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret").write_bytes(bytes(2**20))
    model = onnx.ModelProto.FromString(TROJAN.SerializeToString())
    outside(model, "../secret")
    onnx.save(model, tmp_path / "inside/m.onnx")
    done = soda("check", tmp_path / "inside/m.onnx", "-f", "json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["verdict"]) == (4, "unsafe")
    assert report["evidence"]["files"]["numbers"]["decisions"] == {}


def test_weights_beside_a_model_may_be_what_a_decision_chooses(tmp_path: Path) -> None:
    """Small ones are read, from the file that was checked."""
    model = onnx.ModelProto.FromString(TROJAN.SerializeToString())
    outside(model, "m.data")
    (tmp_path / "m.data").write_bytes(b"".join(t.raw_data for t in TROJAN.graph.initializer))
    onnx.save(model, tmp_path / "m.onnx")
    (one,) = look(tmp_path / "m.onnx")[0]["m.onnx"].shown
    assert one.words == WORDS


def outside(model: onnx.ModelProto, location: str) -> None:
    """Put all weights of a model into one file, one behind the other."""
    place = 0
    for tensor in model.graph.initializer:
        size = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", place), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        place += size


def test_what_decides_nothing_waits_for_no_reader_of_graphs(trojan: Path, tmp_path: Path) -> None:
    """Without onnx-ir for a convolution with scores; never with a runtime."""
    onnx.save(build("conv_relu_pool"), tmp_path / "plain.onnx")
    program = (
        "import sys\nfrom onnx_soda import check_files\n"
        "for name in sys.argv[1:]:\n"
        "    check_files([name], limits=None)\n"
        "    print(sorted({'torch', 'onnxruntime', 'onnx_ir'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "plain.onnx"), str(trojan)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["[]", "['onnx_ir']"], done.stderr
