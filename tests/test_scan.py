"""The scan as a library call: progress, and agreement of its parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from onnx_soda import Limits, ScanOptions, ScanReport, load_dataset, load_model, scan
from onnx_soda._errors import ImageError, InferenceError
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.parts import Body
from onnx_soda._numbers import ConceptNumbers, SodaNumbers
from onnx_soda._options import AttributionMethod, RuntimeOptions
from onnx_soda._results import Halted, numbers_of
from tests.cli.helpers import digits, few_digits, write_few_digits

FIXTURES = Path(__file__).parents[1] / "fixtures"
SHARED = Path(__file__).parents[2] / "shared" / "field"
CPU = RuntimeOptions(provider="cpu", batch_size=32)
NAN = float("nan")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ScanOptions(min_accuracy=NAN), "min_accuracy"),
        (lambda: ScanOptions(min_accuracy=1.1), "min_accuracy"),
        (lambda: ScanOptions(size=(0, 32)), "size"),
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


def scan_until(changes: int) -> ScanReport:
    """Scan the bundled backdoored model, and halt when so many changes were tried."""

    def progress(stage: str, done: int, _: int) -> None:
        if stage == "concepts tried" and done >= changes:
            raise Halted("interrupt")

    return scan(
        load_model(FIXTURES / "digits-backdoored.onnx"),
        load_dataset(FIXTURES / "digits-clean.h5"),
        ScanOptions(budget="quick", preprocess="unit", runtime=CPU),
        progress,
    )


def test_a_scan_that_is_halted_at_once_tells_what_was_not_examined() -> None:
    report = scan_until(1)
    assert (report.stopped, report.verdict, report.method) == (
        "interrupt",
        "inconclusive",
        "concepts",
    )
    assert report.reasons[0] == "The scan is not complete: it was interrupted."
    assert any(reason.startswith("Only 1 of ") for reason in report.reasons)
    assert numbers_of(report, "soda", SodaNumbers) is not None
    assert report.dataset is not None
    numbers = numbers_of(report, "concepts", ConceptNumbers)
    assert numbers is not None
    assert (numbers.concepts, numbers.pairs) == (1, ())


def test_a_scan_that_is_halted_shows_the_best_pairs_so_far_and_calls_none_sure() -> None:
    report = scan_until(60)
    assert (report.stopped, report.verdict) == ("interrupt", "inconclusive")
    numbers = numbers_of(report, "concepts", ConceptNumbers)
    assert numbers is not None
    assert numbers.concepts == 60
    # The tint that turns 8s is among the first of the battery; what is usual is not known yet.
    best = numbers.pairs[0]
    assert (best.victim_class, best.target_class) == (8, 3)
    assert best.bound > numbers.threshold
    assert not [finding for finding in report.findings if finding.rule_id == "SODA102"]
    assert any("none of the pairs shown is a finding" in reason for reason in report.reasons)


def test_a_scan_halted_before_images_were_seen_tells_of_the_graph() -> None:
    def progress(_stage: str, _done: int, _of: int) -> None:
        raise Halted("time limit")

    report = scan(
        load_model(FIXTURES / "digits-clean.onnx"),
        load_dataset(FIXTURES / "digits-clean.h5"),
        ScanOptions(runtime=CPU),
        progress,
    )
    assert (report.stopped, report.verdict) == ("time limit", "inconclusive")
    assert report.dataset is None
    assert report.evidence["graph-logic"].tables or report.evidence["graph-logic"].numbers
    for name in ("soda", "concepts"):
        assert any(f"by the detector {name}" in reason for reason in report.reasons)


def of_any_size(path: Path = FIXTURES / "digits-clean.onnx") -> onnx.ModelProto:
    """A model, here one trained on 32 x 32, with free height and width."""
    model = onnx.load(path)
    for axis, name in ((2, "height"), (3, "width")):
        size = model.graph.input[0].type.tensor_type.shape.dim[axis]
        size.Clear()
        size.dim_param = name
    del model.graph.value_info[:]
    return model


def enlarged(images: np.ndarray) -> np.ndarray:
    """Return images of 32 x 32 as ones of 80 x 80."""
    return np.stack([np.asarray(Image.fromarray(one).resize((80, 80))) for one in images])


def test_the_size_of_images_is_inferred_where_the_model_takes_any(tmp_path: Path) -> None:
    few = few_digits(10)
    np.savez(tmp_path / "big.npz", images=enlarged(few["images"]), labels=few["labels"])
    (tmp_path / "free.onnx").write_bytes(of_any_size().SerializeToString())
    model, clean = load_model(tmp_path / "free.onnx"), load_dataset(tmp_path / "big.npz")
    found = scan(model, clean, ScanOptions("soda", runtime=CPU)).dataset
    assert found is not None
    assert found.preprocessing["size"] == [32, 32]
    assert found.preprocessing["size_trial"]["accuracy"] > 0.9
    assert any("32 x 32 was inferred" in note for note in found.notes)
    asked = scan(model, clean, ScanOptions("soda", size=(32, 32), runtime=CPU)).dataset
    assert asked is not None
    assert asked.preprocessing["size"] == [32, 32]
    assert "size_trial" not in asked.preprocessing
    # Its linear layer takes no other.
    with pytest.raises(InferenceError):
        scan(model, clean, ScanOptions("soda", size=(80, 80), runtime=CPU))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs shared/ beside the checkout")
def test_of_sizes_that_all_run_the_best_is_taken(tmp_path: Path) -> None:
    """Trained on 32 x 32; global average pooling lets it run on any size."""
    model = load_model(of_any_size(SHARED / "base.onnx").SerializeToString())
    with np.load(SHARED / "digits.npz") as held:
        images, labels = held["X_test"], held["Y_test"]
    np.savez(tmp_path / "big.npz", images=enlarged(images), labels=labels)
    clean = load_dataset(tmp_path / "big.npz")
    found = scan(model, clean, ScanOptions("soda", runtime=CPU)).dataset
    assert found is not None
    assert found.preprocessing["size"] == [32, 32]
    assert found.accuracy > 0.9
    asked = scan(model, clean, ScanOptions("soda", size=(80, 80), runtime=CPU)).dataset
    assert asked is not None
    assert asked.accuracy < 0.3


def test_a_size_is_found_that_a_linear_layer_insists_on(tmp_path: Path) -> None:
    """96 * 96 * 3 values go into the layer, whatever sizes the input declares."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(96 * 96 * 3, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w1"], ["m"]),
        helper.make_node("Relu", ["m"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "flat", [helper.make_tensor_value_info("x", 1, ("N", 3, "H", "W"))],
        [helper.make_tensor_value_info("y", 1, ("N", 3))],
        [numpy_helper.from_array(weights, "w1"),
         numpy_helper.from_array(rng.normal(size=(4, 3)).astype(np.float32), "w2")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    images = rng.integers(0, 256, (30, 40, 40, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(30) % 3)
    report = scan(
        load_model(model.SerializeToString()),
        load_dataset(tmp_path / "set.npz"),
        ScanOptions("soda", runtime=CPU),
    )
    assert report.dataset is not None
    assert report.dataset.preprocessing["size"] == [96, 96]
    assert any("runs on no other size" in note for note in report.dataset.notes)


def test_a_size_that_the_graph_does_not_take_is_refused(tmp_path: Path) -> None:
    clean = load_dataset(write_few_digits(tmp_path / "few.npz", 2))
    with pytest.raises(ImageError, match="takes images of 32 x 32, and `size` says 64 x 48"):
        scan(load_model(FIXTURES / "digits-clean.onnx"), clean, ScanOptions(size=(64, 48)))


def test_half_of_two_classes_is_no_accuracy(tmp_path: Path) -> None:
    """Logits (h0, 0.5 h0 + 0.5 h1): with h0 = h1 = 1 on every image class 0 is given to all."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w1"], ["m"]),
        helper.make_node("Sigmoid", ["m"], ["h"]),
        helper.make_node("Gemm", ["h", "w2", "b"], ["y"]),
    ]
    weights = {"w1": np.full((4, 2), 1.0), "w2": np.array([[1.0, 0.5], [0.0, 0.5]]),
               "b": np.array([0.1, 0.0])}  # fmt: skip
    graph = helper.make_graph(
        nodes, "always", [helper.make_tensor_value_info("x", 1, ("N", 1, 2, 2))],
        [helper.make_tensor_value_info("y", 1, ("N", 2))],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    images = np.random.default_rng(0).integers(0, 256, (60, 2, 2, 1), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(60) % 2)
    report = scan(
        load_model(model.SerializeToString()),
        load_dataset(tmp_path / "set.npz"),
        ScanOptions(runtime=CPU),
    )
    assert report.dataset is not None
    assert report.dataset.accuracy == 0.5
    assert report.verdict == "inconclusive"
    assert "gives only 50.0% of the clean images their label" in report.reasons[0]
    assert "guessing alone gives 50%" in report.reasons[0]


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
