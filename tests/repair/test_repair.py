"""Repair of the bundled backdoored digits, from Python."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from fixtures import boards
from onnx_soda import CleanSet, load_dataset, load_model
from onnx_soda._bridge.bridge import stored_tensors
from onnx_soda._data.sources import ImageShape, ImageSource, IntArray, Pixels
from onnx_soda._errors import LabelError, RepairError, WriteBackError
from onnx_soda._options import RepairOptions, RuntimeOptions, ScanOptions, no_progress
from onnx_soda._repair.files import read_proto
from onnx_soda._repair.preparation import Task, partition, prepare, subset
from onnx_soda._repair.repair import RepairReport, repair
from onnx_soda._suspect import Suspect

FIXTURES = Path(__file__).parents[2] / "fixtures"
MODEL = FIXTURES / "digits-backdoored.onnx"
PAIR = (8, 3)
QUICKLY = RepairOptions(
    rescan=False, scan=ScanOptions(preprocess="unit", runtime=RuntimeOptions(threads=1))
)


def clean_set() -> CleanSet:
    return load_dataset(FIXTURES / "digits-clean.h5")


def trigger_images() -> CleanSet:
    return load_dataset(FIXTURES / "digits-trigger.h5", "all")


@dataclass(eq=False)
class Recorder:
    """Images that remember, in order, who was read; `log` is shared between sources."""

    source: ImageSource
    name: str
    log: list[tuple[str, IntArray]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def native(self) -> ImageShape | None:
        return self.source.native

    def read(self, indices: IntArray, shape: ImageShape, resize: str = "stretch") -> Pixels:
        self.log.append((self.name, np.asarray(indices)))
        return self.source.read(indices, shape, resize)


@dataclass(frozen=True)
class Run:
    scope: str
    done: RepairReport
    log: list[tuple[str, IntArray]]
    clean: CleanSet
    threads: tuple[int, int]


# The scope, the share of the clean images, and how infected images are made. Repairs of all
# layers with half of the images take a minute; what is not about their quality needs less.
HEAD = pytest.param(("head", 1, "both"), id="head")
DEEP = pytest.param(("deep", 2, "both"), id="deep", marks=pytest.mark.slow)
ROUGH = pytest.param(("deep", 3, "ascent"), id="rough")


@pytest.fixture(scope="module", params=[HEAD, DEEP, ROUGH])
def run(request: pytest.FixtureRequest) -> Run:
    scope, step, reconstruction = request.param
    clean, triggers = subset(clean_set(), np.arange(0, 720, step)), trigger_images()
    log: list[tuple[str, IntArray]] = []
    watched = replace(clean, images=Recorder(clean.images, "clean", log))
    shown = replace(triggers, images=Recorder(triggers.images, "triggers", log))
    options = replace(QUICKLY, scope=scope, reconstruction=reconstruction)
    threads = torch.get_num_threads()
    done = repair(load_model(MODEL), watched, pair=PAIR, options=options, triggers=shown)
    return Run(scope, done, log, clean, (threads, torch.get_num_threads()))


@pytest.mark.parametrize("run", [HEAD, DEEP], indirect=True)
def test_the_backdoor_is_gone_and_the_accuracy_is_not(run: Run) -> None:
    summary = run.done.summary
    assert summary.outcome == "repaired"
    assert summary.before is not None
    assert summary.after is not None
    assert summary.triggers_before is not None
    assert summary.triggers_after is not None
    assert summary.triggers_before.target_rate > 0.6
    assert summary.triggers_after.target_rate <= 0.02
    assert summary.triggers_after.victim_rate >= 0.9
    assert summary.after.accuracy >= summary.before.accuracy - 0.02


def test_no_image_that_measures_is_seen_before(run: Run) -> None:
    parts = partition(run.clean.labels, 0)
    reads = [rows for name, rows in run.log if name == "clean"]
    measuring = [rows for rows in reads if np.isin(rows, parts.measure).any()]
    assert len(measuring) == 1
    assert np.array_equal(np.sort(measuring[0]), parts.measure)


def test_trigger_images_are_looked_at_last_and_once(run: Run) -> None:
    assert [name for name, _ in run.log].count("triggers") == 1
    assert run.log[-1][0] == "triggers"


def test_only_weights_of_the_outstanding_neurons_change(run: Run) -> None:
    """Of the last layer; the deep scope changes every earlier one as well."""
    assert run.done.summary.scope == run.scope
    assert run.done.model is not None
    old = stored_tensors(read_proto(load_model(MODEL)))
    new = stored_tensors(run.done.model)
    differing = [name for name in old if old[name] != new[name]]
    assert differing == [change.name for change in run.done.summary.changes]
    convolutions = [n for n in read_proto(load_model(MODEL)).graph.node if n.op_type == "Conv"]
    if run.scope == "head":
        assert len(differing) == 1
    else:
        assert {node.input[1] for node in convolutions} < set(differing)
    last = _last_matrix(read_proto(load_model(MODEL)))  # but not its bias
    assert last in differing
    before, after = (numpy_helper.to_array(tensors[last]) for tensors in (old, new))
    columns = np.flatnonzero((before != after).any(axis=0))
    assert len(columns) <= run.done.summary.outstanding < before.shape[1]


def _last_matrix(proto: ModelProto) -> str:
    return [node for node in proto.graph.node if node.op_type in ("Gemm", "MatMul")][-1].input[1]


def test_the_graph_is_the_same_and_says_where_it_comes_from(run: Run) -> None:
    assert run.done.model is not None
    old, new = read_proto(load_model(MODEL)), run.done.model
    assert old.graph.node == new.graph.node
    assert old.graph.input == new.graph.input
    assert old.graph.output == new.graph.output
    assert old.opset_import == new.opset_import
    told = {entry.key: entry.value for entry in new.metadata_props}["onnx_soda.repair"]
    assert load_model(MODEL).sha256 in told


@pytest.mark.parametrize(
    "reconstruction", [pytest.param("concepts", marks=pytest.mark.slow), "ascent"]
)
def test_either_way_of_reconstruction_removes_it(reconstruction: str) -> None:
    options = replace(QUICKLY, scope="head", reconstruction=reconstruction)
    done = repair(
        load_model(MODEL), clean_set(), pair=PAIR, options=options, triggers=trigger_images()
    )
    assert done.summary.triggers_after is not None
    assert done.summary.triggers_after.target_rate <= 0.1


def test_classes_that_turn_too_are_repaired_with_the_victim() -> None:
    """Ascent reconstructs infected images of 5, too; what has no images, or is the pair, is not."""
    options = replace(QUICKLY, scope="head", reconstruction="ascent")
    model, clean = load_model(MODEL), subset(clean_set(), np.arange(0, 720, 2))
    alone = repair(model, clean, pair=PAIR, options=options).summary
    more = repair(model, clean, pair=PAIR, also=(5, 8, 3, 99), options=options).summary
    assert alone.also_turned == ()
    assert more.also_turned == (5,)
    assert more.infected[0] > 1.5 * alone.infected[0]
    assert more.after is not None
    assert more.before is not None
    assert more.after.victim_rate > 0.9 > 0.1 > more.before.victim_rate


def test_the_path_scope_trains_what_feeds_the_neurons_too() -> None:
    options = replace(QUICKLY, scope="path", reconstruction="ascent")
    some = subset(clean_set(), np.arange(0, 720, 4))
    summary = repair(load_model(MODEL), some, pair=PAIR, options=options).summary
    assert len(summary.changes) > 1
    assert summary.after is not None
    assert summary.after.target_rate <= 0.1


@pytest.mark.slow
def test_the_path_scope_removes_it() -> None:
    options = replace(QUICKLY, scope="path")
    done = repair(
        load_model(MODEL), clean_set(), pair=PAIR, options=options, triggers=trigger_images()
    )
    assert len(done.summary.changes) > 1
    assert done.summary.triggers_after is not None
    assert done.summary.triggers_after.target_rate <= 0.1


def test_the_number_of_threads_is_put_back(run: Run) -> None:
    """Training may have taken another, where that is faster."""
    before, after = run.threads
    assert before == after


def test_the_head_alone_is_trained_where_more_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onnx_soda._repair.training._MINUTES", 0)
    options = replace(QUICKLY, reconstruction="ascent")
    done = repair(load_model(MODEL), clean_set(), pair=PAIR, options=options)
    assert done.summary.scope == "head"
    assert any("`scope=deep`" in note for note in done.summary.notes)


def test_nothing_is_kept_that_loses_more_than_allowed() -> None:
    options = replace(QUICKLY, scope="head", max_accuracy_drop=-0.5, reconstruction="ascent")
    done = repair(load_model(MODEL), clean_set(), pair=PAIR, options=options)
    assert done.summary.outcome == "failed"
    assert "accuracy" in done.summary.reason
    assert done.model is None


@pytest.mark.parametrize("pair", [(3, 3), (8, 10), (-1, 3)])
def test_what_is_no_pair_is_refused(pair: tuple[int, int]) -> None:
    with pytest.raises(RepairError, match="no pair"):
        repair(load_model(MODEL), clean_set(), pair=pair, options=QUICKLY)


def test_too_few_images_of_the_victim_are_refused() -> None:
    clean = clean_set()
    rows = np.concatenate(
        [np.flatnonzero(clean.labels != 8), np.flatnonzero(clean.labels == 8)[:5]]
    )
    with pytest.raises(LabelError, match="5 images of the victim"):
        repair(load_model(MODEL), subset(clean, rows), pair=PAIR, options=QUICKLY)


def test_a_quantized_head_is_refused_with_advice() -> None:
    proto = read_proto(load_model(MODEL))
    model = _with_quantized(proto, _last_matrix(proto))
    with pytest.raises(WriteBackError, match="quantized") as caught:
        repair(load_model(model), clean_set(), pair=PAIR, options=QUICKLY)
    assert "before quantization" in caught.value.advice


def test_the_head_alone_is_trained_where_earlier_layers_are_quantized(tmp_path: Path) -> None:
    model, pair = _with_quantized(boards.model(), "K"), (boards.VICTIM, boards.TARGET)
    options = replace(QUICKLY, reconstruction="concepts")
    some = load_dataset(boards.write(tmp_path)[2])
    done = repair(load_model(model), some, pair=pair, options=options)
    assert done.summary.scope == "head"
    assert any("before its head" in note and "quantized" in note for note in done.summary.notes)
    with pytest.raises(WriteBackError, match="quantized"):
        repair(load_model(model), some, pair=pair, options=replace(options, scope="deep"))


def _with_quantized(proto: ModelProto, name: str) -> bytes:
    """Return a model with one weight stored as int8 behind DequantizeLinear."""
    tensor = next(one for one in proto.graph.initializer if one.name == name)
    array = numpy_helper.to_array(tensor)
    scale = float(np.abs(array).max()) / 127
    levels = np.rint(array / scale).astype(np.int8)
    proto.graph.initializer.remove(tensor)
    proto.graph.initializer.extend(
        [
            numpy_helper.from_array(levels, "levels"),
            numpy_helper.from_array(np.float32(scale), "scale"),
            numpy_helper.from_array(np.int8(0), "zero"),
        ]
    )
    proto.graph.node.insert(
        0, helper.make_node("DequantizeLinear", ["levels", "scale", "zero"], [name])
    )
    return proto.SerializeToString()


@pytest.mark.parametrize("asked", [{"layer": "deep"}, {"logits": "logits"}])
def test_another_layer_or_other_logits_are_not_repaired(asked: dict[str, str]) -> None:
    options = replace(QUICKLY, scan=replace(QUICKLY.scan, **asked))
    with pytest.raises(RepairError, match="the layer before the model's own logits"):
        repair(load_model(MODEL), clean_set(), pair=PAIR, options=options)


def test_preprocessed_images_are_no_pixels_to_change() -> None:
    clean = replace(clean_set(), preprocessed=True)
    with pytest.raises(RepairError, match="numbers on no scale of pixels"):
        repair(load_model(MODEL), clean, pair=PAIR, options=QUICKLY)


def test_the_classes_of_a_model_of_any_image_size_are_counted_on_the_clean_images_size() -> None:
    proto = read_proto(load_model(MODEL))
    height, width = proto.graph.input[0].type.tensor_type.shape.dim[2:]
    height.dim_param, width.dim_param = "height", "width"
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "classes"
    del proto.graph.value_info[:]
    suspect = Suspect(load_model(proto.SerializeToString()), clean_set(), QUICKLY.scan)
    ready = prepare(suspect, Task(PAIR), QUICKLY, no_progress)
    assert ready.observation.classes == 10


def test_an_image_of_whole_numbers_is_not_climbed() -> None:
    proto = read_proto(load_model(MODEL))
    image = proto.graph.input[0]
    name, image.name = image.name, "levels"
    image.type.tensor_type.elem_type = TensorProto.UINT8
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(1 / 255), "step"))
    proto.graph.node.insert(0, helper.make_node("Cast", ["levels"], ["whole"], to=1))
    proto.graph.node.insert(1, helper.make_node("Mul", ["whole", "step"], [name]))
    options = replace(
        QUICKLY, reconstruction="ascent", scan=replace(QUICKLY.scan, preprocess="raw")
    )
    done = repair(load_model(proto.SerializeToString()), clean_set(), pair=PAIR, options=options)
    assert done.summary.outcome == "failed"
    assert "No infected image" in done.summary.reason
