"""What a graph decides is told in plain words: honest decisions too, and without running it."""

from __future__ import annotations

import base64
import io
import subprocess
import sys

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from PIL import Image

from fixtures.gates import HONEST_GATES
from fixtures.lookalikes import LOOKALIKES
from fixtures.sketches import TARGET, build_sketch
from fixtures.trojans import TROJANS
from onnx_soda._detect.graph_logic.detector import as_evidence
from onnx_soda._detect.graph_logic.operators import may_decide
from onnx_soda._detect.graph_logic.telling import decisions_in
from onnx_soda._numbers import GraphDecisions, decisions_table
from onnx_soda._preflight.inventory import take_inventory
from tests.logic.helpers import examine

SKETCHES = {**TROJANS, **LOOKALIKES, **HONEST_GATES}


def told(text: str) -> GraphDecisions:
    return decisions_in(ir.from_proto(onnx.parser.parse_model(text)))


@pytest.mark.parametrize(
    ("name", "node", "by", "words"),
    [
        ("colour_sum_where", "out", "input",
         "takes 10 stored numbers where mean(part of the image) > 0.9, else 'y'"),
        ("checksum", "out", "input",
         "takes 10 stored numbers where (sum(round(the image x 255)) mod 7) = 3, else 'y'"),
        ("plain_if", "out", "input",
         "takes its first branch ('moved') where mean(mean(part of the image)) > 0.9, "
         "else the other ('y')"),
        ("hidden_by_casts", "out", "input",
         "adds to 'y' (mean(part of the image) > 0.9) x 10 stored numbers"),
        ("loop_body", "out", "constant",
         "runs its body as often as a stored number says, always the same"),
        ("leaky_by_where", "q", "itself",
         "each number by itself: takes 'c1' where the features 'c1' > 0, else 'v'"),
        ("attention_with_mask", "mk", "shape",
         "takes 0 or -1e+09 by the shape of the input, whatever is in it"),
        ("divided_if_over_one", "seen", "input",
         "takes 'd' where max(the image) > 1.5, else the image"),
    ],
)  # fmt: skip
def test_a_decision_in_words(name: str, node: str, by: str, words: str) -> None:
    found = decisions_in(ir.from_proto(build_sketch(SKETCHES[name])))
    (one,) = (one for one in found.shown if one.node == node)
    assert (one.by, one.words) == (by, words)


def test_what_decides_for_the_whole_comes_before_what_each_number_decides_for_itself() -> None:
    shown = decisions_in(ir.from_proto(build_sketch(LOOKALIKES["attention_with_mask"]))).shown
    assert [one.by for one in shown] == ["itself", "shape"]


def test_a_model_with_two_inputs_and_no_classes() -> None:
    """It answers place by place, and takes a flag beside the picture."""
    found = told(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N,3,8,8] picture, bool[1] flag) => (float[N,3,8,8] y)
        <float half = {0.5}>
        { top = ReduceMax<keepdims = 0>(picture)  big = Greater(top, half)
          dark = Neg(picture)  a = Where(big, picture, dark)  y = Where(flag, a, dark) }"""
    )
    assert {one.node: one.words for one in found.shown} == {
        "a": "takes the input 'picture' where max(the input 'picture') > 0.5, else 'dark'",
        "y": "takes 'a' where the input 'flag', else 'dark'",
    }


def test_a_label_at_the_end_is_no_decision_with_a_finding() -> None:
    found = decisions_in(ir.from_proto(build_sketch(LOOKALIKES["label_output"])))
    assert [one.severity for one in found.shown if one.severity] == []


def forty(limits: int) -> GraphDecisions:
    """What a graph decides that has forty activations with as many limits."""
    constants = ", ".join(f"float h{n} = {{{n}}}" for n in range(limits))
    nodes = "".join(
        f"m{n} = Greater(x, h{n % limits})  v{n} = Where(m{n}, x, h0)  " for n in range(40)
    )
    joined = f"y = Sum({', '.join(f'v{n}' for n in range(40))})"
    return told(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N,3,8,8] x) => (float[N,3,8,8] y) '
        f"<{constants}> {{ {nodes}{joined} }}"
    )


def test_of_many_decisions_the_first_are_listed_and_the_others_counted() -> None:
    found = forty(limits=40)
    assert (len(found.shown), found.total) == (24, 40)
    assert decisions_table(found).text.endswith(" 16 more, of lesser interest, are not listed.")


def test_decisions_that_are_alike_stand_in_one_line() -> None:
    found = forty(limits=2)
    assert [(one.node, one.places) for one in found.shown] == [("v0", 20), ("v1", 20)]
    assert [row[0] for row in decisions_table(found).rows] == ["v0 and 19 more", "v1 and 19 more"]


def test_a_detector_chooses_boxes_and_has_no_finding_by_structure() -> None:
    """What is severe is severe for one row of scores."""
    found = told(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[1,3,8,8] x) => (float[K,4] boxes, float[K] best)
        <float[4,3,2,2] k = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,
                             1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1},
         int64[2] flat = {-1, 4}, float half = {0.5}, int64[1] one = {1}, int64[1] lone = {-1}>
        { c = Conv(x, k)  r = Reshape(c, flat)  s = ReduceMax<keepdims = 0>(r, one)
          good = Greater(s, half)  at = NonZero(good)  places = Reshape(at, lone)
          boxes = Gather(r, places)  best = Gather(s, places) }"""
    )
    assert {one.node for one in found.shown} == {"boxes", "best"}
    assert {one.severity for one in found.shown} == {None}


def test_long_names_are_cut_and_deep_formulas_too() -> None:
    name = "n" * 5000
    steps = "".join(f"{name}{n} = Sin({name}{n - 1 if n else ''})  " for n in range(300))
    found = told(
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[N,3,8,8] {name}) => (float[N,3,8,8] y) '
        f"<float half = {{0.5}}> {{ {steps}top = ReduceMax<keepdims = 0>({name}299)  "
        f"big = Greater(top, half)  y = Where(big, {name}, {name}3) }}"
    )
    (one,) = found.shown
    assert len(one.words) < 400


@pytest.mark.parametrize("name", SKETCHES)
def test_the_operators_tell_where_there_can_be_no_decision(name: str) -> None:
    """A look at a file alone reads no graph of which they say so."""
    proto = build_sketch(SKETCHES[name])
    if decisions_in(ir.from_proto(proto)).total:
        assert may_decide(take_inventory(proto))


@pytest.mark.parametrize(
    ("nodes", "may"),
    [
        ("y = Relu(x)", False),
        ("y = Sigmoid(x)", False),
        ("a = Sigmoid(x)  y = Mul(a, x)", False),
        ("a = Mul(x, twenty)  y = Sigmoid(a)", True),
        ("c = Constant<value_float = 20.0>()  i = Identity(c)  a = Mul(x, i)  y = Tanh(a)", True),
        ("y = MatMul(x, small)", False),
        ("a = MatMul(x, large)  y = Tanh(a)", True),
        ("y = Clip(x, zero, tiny)", True),
        ("y, k = MaxPool<kernel_shape = [1, 1]>(x)", True),
        ("y = MaxPool<kernel_shape = [1, 1]>(x)", False),
        ("s = Cast<to = 3>(x)  y = Cast<to = 1>(s)", True),
        ("h = Cast<to = 10>(x)  y = Cast<to = 1>(h)", False),
        ("y = Gather<axis = 0>(twenty, x)", True),
        ("y = Gather<axis = 0>(x, zero)", False),
    ],
)
def test_which_operators_can_decide(nodes: str, may: bool) -> None:
    largest = 200 if "large" in nodes else 2
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N,1,2,2] x) => (float[N,1,2,2] y) '
        "<float twenty = {20}, float zero = {0}, float tiny = {0.01}, "
        f"float[2,2] small = {{1, 2, 3, 4}}, float[2,2] large = {{1, {largest}, 3, 4}}> "
        f"{{ {nodes} }}"
    )
    assert may_decide(take_inventory(proto)) == may


def test_it_needs_no_runtime() -> None:
    """A look at a file alone must not load ONNX Runtime."""
    program = (
        "import sys\nfrom onnx_soda._detect.graph_logic.telling import decisions_in\n"
        "assert 'onnxruntime' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_confirmed_decision_is_drawn_and_its_image_shown() -> None:
    evidence = as_evidence(examine(build_sketch(TROJANS["colour_sum_where"])))
    (drawing,) = evidence.drawings
    assert drawing.text == (
        "the image -> Slice 'red' -> ReduceMean 'redmean' -> Unsqueeze 'm1' -> Greater 't' -> "
        "Where 'out' -> the scores"
    )
    assert [box.name for box in drawing.boxes if box.marked] == ["t", "out"]
    names = [box.name for box in drawing.boxes]
    arrows = {(names[start], names[end]) for start, end in drawing.arrows}
    assert ("t", "out") in arrows
    assert ("10 stored numbers", "out") in arrows
    assert ("'y'", "out") in arrows
    (picture,) = evidence.galleries[0].pictures
    assert picture.caption.endswith(f"→ {TARGET}")
    png = base64.b64decode(picture.images[0].partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert pixels.shape == (16, 16, 3)
    assert (pixels == (255, 0, 0)).all(), "a plain red image"


def test_what_was_seen_of_ordinary_images_is_told() -> None:
    (one,) = examine(build_sketch(TROJANS["colour_sum_where"])).decisions.shown
    assert one.words.endswith("; this holds for 0 of 12 plain images")
    assert one.severity == "high"


@pytest.mark.parametrize("name", ["colour_sum_where", "nested_if", "pixel_pattern"])
def test_no_two_rules_say_the_same_of_a_decision(name: str) -> None:
    findings = as_evidence(examine(build_sketch(TROJANS[name]))).findings
    by_words = {finding.message: {one.rule_id for one in findings if one.message == finding.message}
                for finding in findings}  # fmt: skip
    assert len(findings) > 1
    assert all(len(rules) == 1 for rules in by_words.values())
