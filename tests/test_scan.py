"""The scan as a library call: progress, and agreement of its parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_soda import Limits, ScanOptions, ScanReport, load_dataset, load_model, scan
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.parts import Body
from onnx_soda._numbers import SodaNumbers
from onnx_soda._options import AttributionMethod, RuntimeOptions
from onnx_soda._results import numbers_of
from tests.cli.helpers import digits, few_digits, write_few_digits

FIXTURES = Path(__file__).parents[1] / "fixtures"
CPU = RuntimeOptions(provider="cpu", batch_size=32)
NAN = float("nan")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ScanOptions(min_accuracy=NAN), "min_accuracy"),
        (lambda: ScanOptions(min_accuracy=1.1), "min_accuracy"),
        (lambda: ScanOptions(threshold=float("inf")), "threshold"),
        (lambda: ScanOptions(samples_per_class=0), "samples_per_class"),
        (lambda: Limits(seconds=NAN), "seconds"),
        (lambda: Limits(memory=0), "memory"),
    ],
)
def test_numbers_out_of_range_are_refused(make: Callable[[], object], named: str) -> None:
    """A gate at NaN would let everything through."""
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize(("attribution", "interventions"), [("batched", 96), ("auto", 0)])
def test_progress_goes_up_to_all(attribution: AttributionMethod, interventions: int) -> None:
    told = defaultdict(list)
    report = scan(
        load_model(FIXTURES / "digits-clean.onnx"),
        load_dataset(FIXTURES / "digits-clean.h5"),
        ScanOptions("soda", samples_per_class=10, attribution=attribution, runtime=CPU),
        lambda stage, done, total: told[stage].append((done, total)),
    )
    assert report.coverage.samples == 100
    ends = {stage: steps[-1] for stage, steps in told.items()}
    assert ends.pop("clean images through the model") == (100, 100)
    tried, of = ends.pop("ways of preprocessing tried")
    assert 1 < tried <= of
    assert ends == (
        {"interventions on neurons": (interventions, interventions)} if interventions else {}
    )
    for steps in told.values():
        done = [step for step, _ in steps]
        assert done == sorted(set(done))


def test_the_report_does_not_depend_on_the_batch_size() -> None:
    model = load_model(FIXTURES / "digits-clean.onnx")
    clean = load_dataset(FIXTURES / "digits-clean.h5")
    reports = [
        scan(
            model,
            clean,
            ScanOptions(
                "soda", samples_per_class=10, runtime=RuntimeOptions("cpu", batch_size=size)
            ),
        )
        for size in (1, 33)
    ]
    assert reports[0].verdict == reports[1].verdict
    assert reports[0].dataset == reports[1].dataset
    pccs = [
        numbers.pcc for report in reports if (numbers := numbers_of(report, "soda", SodaNumbers))
    ]
    np.testing.assert_allclose(*pccs, atol=1e-5)


def of_old_opset(opset: int) -> onnx.ModelProto:
    """Two convolutions and a linear layer, as exporters wrote them for old runtimes."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "w2": (16, 8, 3, 3), "w3": (16, 4), "b3": (4,)}
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32) / 3, name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], strides=[2, 2]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalMaxPool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"]),
    ]
    inputs = [("x", ("N", 3, 16, 16)), *shapes.items()]  # weights are inputs there, too
    graph = helper.make_graph(
        nodes,
        "old",
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs],
        [helper.make_tensor_value_info("y", 1, ("N", 4))],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)


@pytest.mark.parametrize("opset", [7, 8])
def test_models_of_old_opsets_are_scanned(opset: int, tmp_path: Path) -> None:
    """`Max` does not broadcast in 7, and there is no `Where` in 8."""
    model = load_model(of_old_opset(opset).SerializeToString())
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 4
    images = 0.7 * rng.integers(0, 256, (4, 1, 1, 3))[labels] + rng.integers(0, 77, (80, 16, 16, 3))
    pixels = images.astype(np.uint8)
    body = Body(dissect(model), CPU)
    answers = body.logits((pixels.transpose(0, 3, 1, 2) / 255).astype(np.float32)).argmax(axis=1)
    np.savez(tmp_path / "clean.npz", images=pixels, labels=answers)
    report = scan(
        model,
        load_dataset(tmp_path / "clean.npz"),
        ScanOptions(
            layer="deep", preprocess="unit", budget="quick", allow_missing_classes=True, runtime=CPU
        ),
    )
    assert report.model.opset == opset
    assert numbers_of(report, "soda", SodaNumbers) is not None
    assert bool(report.evidence["concepts"].numbers) == (len(set(answers)) > 1)


def scan_images(images: np.ndarray, labels: np.ndarray, folder: Path) -> ScanReport:
    np.savez(folder / "some.npz", images=images, labels=labels)
    options = ScanOptions(
        budget="quick", preprocess="raw", min_accuracy=0, allow_missing_classes=True, runtime=CPU
    )
    return scan(
        load_model(FIXTURES / "digits-clean.onnx"), load_dataset(folder / "some.npz"), options
    )


def test_with_one_class_nothing_is_named(tmp_path: Path) -> None:
    """Nothing shows whether a change turns this class alone: every pair would score."""
    of_one = digits(digits()["labels"] == 6)
    report = scan_images(**of_one, folder=tmp_path)
    assert (report.verdict, report.findings) == ("inconclusive", ())
    assert not report.evidence["concepts"].numbers
    assert any("clean images of 2 classes, two of each" in reason for reason in report.reasons)


def test_one_image_of_each_class_is_no_ground_for_anything(tmp_path: Path) -> None:
    report = scan_images(**few_digits(1), folder=tmp_path)
    assert report.verdict == "inconclusive"
    assert not report.evidence["concepts"].numbers


def test_preprocessed_images_are_not_changed_as_if_they_were_pixels(tmp_path: Path) -> None:
    bundled = digits()
    report = scan_images(bundled["images"] / np.float32(127.5) - 1, bundled["labels"], tmp_path)
    assert report.verdict == "inconclusive"
    assert not report.evidence["concepts"].numbers
    assert any("on no scale of pixels" in reason for reason in report.reasons)


def test_few_images_of_each_class_are_prepared_as_the_model_was_trained(tmp_path: Path) -> None:
    """With 60 images several ways have the same accuracy; the most usual one is right."""
    report = scan(
        load_model(FIXTURES / "digits-clean.onnx"),
        load_dataset(write_few_digits(tmp_path / "few.npz", 6)),
        ScanOptions("soda", runtime=CPU),
    )
    assert report.dataset is not None
    assert report.dataset.preprocessing["name"] == "unit"
    assert any("too close to tell apart" in note for note in report.dataset.notes)


def with_outputs(*further: str) -> bytes:
    """The bundled clean model with further outputs, by what they are."""
    model = onnx.load(FIXTURES / "digits-clean.onnx")
    graph = model.graph
    last = graph.node[-1]
    kinds = {
        "softmax": helper.make_node("Softmax", [last.output[0]], ["softmax"]),
        "features": helper.make_node("Identity", [last.input[0]], ["features"]),
        "head": helper.make_node("Gemm", [*last.input], ["head"], transB=1),
        "gate": helper.make_node("ReduceSum", [graph.input[0].name], ["gate"], keepdims=0),
    }
    for name in further:
        graph.node.append(kinds[name])
        shape = () if name == "gate" else ("N", f"size of {name}")
        graph.output.append(helper.make_tensor_value_info(name, 1, shape))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("further", "unexamined"),
    [(("softmax", "features"), ()), (("head",), ("head",)), (("softmax", "gate"), ("gate",))],
)
def test_outputs_that_go_a_way_of_their_own_are_told(
    further: tuple[str, ...], unexamined: tuple[str, ...]
) -> None:
    assert dissect(load_model(with_outputs(*further))).logits.unexamined == unexamined


def test_logits_that_are_named_are_all_that_is_asked_about() -> None:
    assert dissect(load_model(with_outputs("head")), logits="logits").logits.unexamined == ()
