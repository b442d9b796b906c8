"""A scan with reference models: what it decides, what it shows of them, and which are left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fixtures import boards
from onnx_soda import (
    CleanSet,
    OnnxModel,
    OpinionNumbers,
    ReferenceFlows,
    ScanOptions,
    ScanReport,
    load_dataset,
    load_model,
    numbers_of,
    scan,
)
from onnx_soda._cache import Cache
from onnx_soda._detect.references.flows import hear
from onnx_soda._errors import ImageError
from onnx_soda._options import RuntimeOptions, ScanRequest
from onnx_soda._repair.repair import task_of
from onnx_soda._report.page import to_html
from tests.cli.helpers import FIXTURES, invoke, soda

OPTIONS = ScanOptions("second-opinion", runtime=RuntimeOptions(provider="cpu", threads=1))
PAIR = (boards.VICTIM, boards.TARGET)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    model, twin, clean, _ = boards.write(tmp_path_factory.mktemp("boards"))
    return model, twin, clean


def asked(files: tuple[Path, Path, Path], *references: OnnxModel | ReferenceFlows) -> ScanReport:
    model, _, clean = files
    return scan(load_model(model), load_dataset(clean), OPTIONS, references=references)


def opinion(report: ScanReport) -> OpinionNumbers:
    found = numbers_of(report, "second-opinion", OpinionNumbers)
    assert found is not None
    return found


def test_the_report_shows_suspect_and_references_side_by_side(
    files: tuple[Path, Path, Path],
) -> None:
    report = asked(files, load_model(files[1]))
    found = opinion(report)
    first = found.pairs[0]
    assert (first.victim_class, first.target_class) == PAIR
    assert first.suspect > 0.5 > 0.1 > first.references[0]
    assert [one.file for one in found.references] == [files[1].name]
    assert found.references[0].accuracy > 0.9
    pairs, used = report.evidence["second-opinion"].tables
    assert pairs.rows[0][0] == f"{PAIR[0]} -> {PAIR[1]}"
    assert used.rows[0][0] == files[1].name


def test_it_decides(files: tuple[Path, Path, Path]) -> None:
    report = asked(files, load_model(files[1]))
    (finding,) = report.findings
    assert (report.verdict, report.method) == ("backdoor", "second-opinion")
    assert (finding.rule_id, finding.victim_class, finding.target_class) == ("SODA103", *PAIR)
    assert finding.score is not None
    assert finding.threshold is not None
    assert finding.score > finding.threshold
    assert finding.message == report.reasons[0]
    assert "the reference " in finding.message
    look = opinion(report).pairs[0].look
    assert look is not None
    assert look.turned > look.shown / 2 > look.turned_before
    assert finding.severity == "high"
    assert "Of 30 clean images of the class that did not choose the change" in finding.message


def test_what_people_see_of_it(files: tuple[Path, Path, Path]) -> None:
    report = asked(files, load_model(files[1]))
    evidence = report.evidence["second-opinion"]
    lines = next(chart for chart in evidence.charts if chart.kind == "lines")
    # Suspect and reference over the strengths of the change, the suspect's line marked.
    assert lines.series == ("the suspect", files[1].name)
    assert lines.marked == (0,)
    suspect, reference = zip(*lines.values, strict=True)
    assert max(suspect) > 0.5 > 0.2 > max(reference)
    own, others = evidence.galleries
    assert len(own.pictures) == len(others.pictures) == 4
    assert "the suspect sends" in own.text
    page = to_html(report, "onnx-soda scan")
    assert "From weak to strong" in page
    assert "In the reference models it is not. It stands out by" in page


def test_the_clean_twin_is_clean_and_its_reference_is_told(
    files: tuple[Path, Path, Path],
) -> None:
    model, twin, clean = files
    images, guilty = load_dataset(clean), [load_model(model)]
    told = f"The reference {model.name} itself sends class {PAIR[0]} -> {PAIR[1]}"
    # One reference and 20 images of a class do not see enough, and say so.
    alone = scan(load_model(twin), images, OPTIONS, references=guilty)
    assert (alone.verdict, alone.findings) == ("inconclusive", ())
    assert "may not be reported. That is too much" in alone.reasons[0]
    # Changes of the image without references do, on more images.
    both = replace(OPTIONS, method="auto")
    report = scan(load_model(twin), images, both, references=guilty)
    assert (report.verdict, report.findings) == ("clean", ())
    assert {"second-opinion", "concepts"} <= set(report.evidence)
    for one in (alone, report):
        assert any(told in reason for reason in one.reasons)


def test_auto_takes_the_second_opinion_where_a_reference_can_be_used(
    files: tuple[Path, Path, Path],
) -> None:
    model, twin, clean = files
    options = replace(OPTIONS, method="auto", budget="quick")
    images = load_dataset(clean)
    with_twin = scan(load_model(model), images, options, references=[load_model(twin)])
    assert with_twin.method == "second-opinion"
    assert "concepts" not in with_twin.evidence
    with_itself = scan(load_model(model), images, options, references=[load_model(model)])
    assert with_itself.method == "concepts"
    assert any("No reference can be used." in reason for reason in with_itself.reasons)
    assert any("is the suspect itself" in reason for reason in with_itself.reasons)


def test_a_repair_takes_the_pair_and_its_concepts(files: tuple[Path, Path, Path]) -> None:
    task = task_of(asked(files, load_model(files[1])))
    assert task is not None
    assert task.pair == PAIR
    assert task.concepts


def test_another_method_keeps_its_verdict(files: tuple[Path, Path, Path]) -> None:
    model, twin, clean = files
    options = replace(OPTIONS, method="soda")
    images = load_dataset(clean)
    alone = scan(load_model(model), images, options)
    beside = scan(load_model(model), images, options, references=[load_model(twin)])
    assert (beside.verdict, beside.findings) == (alone.verdict, alone.findings)
    assert list(beside.evidence) == [*list(alone.evidence)[:-1], "second-opinion", "soda"]


def reordered(path: Path) -> bytes:
    """A model whose classes are in another order: its last weights are turned by one class."""
    model = onnx.load(path)
    last = [one for one in model.graph.initializer if numpy_helper.to_array(one).shape[-1:] == (4,)]
    for tensor in last[-2:]:
        turned = np.roll(numpy_helper.to_array(tensor), 1, axis=-1)
        tensor.CopyFrom(numpy_helper.from_array(turned, tensor.name))
    return model.SerializeToString()


def test_odd_references_are_left_out_with_a_sentence(files: tuple[Path, Path, Path]) -> None:
    report = asked(
        files,
        load_model(files[0]),
        load_model(FIXTURES / "digits-clean.onnx"),
        load_model(reordered(files[1])),
        load_model(files[1]),
    )
    itself, digits, turned = opinion(report).left_out
    assert "is the suspect itself" in itself
    assert "classes without images: 4, 5, 6, 7, 8, 9" in digits
    assert "may be in another order" in turned
    assert [one.file for one in opinion(report).references] == [files[1].name]
    assert set(opinion(report).left_out) <= set(report.reasons)


def test_what_a_reference_says_is_not_believed_blindly(files: tuple[Path, Path, Path]) -> None:
    """Its child may have been taken over; it can spoil its own word alone."""
    heard = hear(load_model(files[1]), load_dataset(files[2]), OPTIONS)
    some = np.frombuffer(heard.shares, "<f4").copy()
    some[0] = np.nan
    wrong = (
        replace(heard, shares=heard.shares[:-4]),
        replace(heard, shares=some.tobytes()),
        replace(heard, accuracy=float("nan")),
        replace(heard, images=((1,) * 4,) * 2),
        replace(heard, images=((1,),)),
        replace(heard, shape=(0, 2, 4, 4), shares=b""),
        replace(heard, bank=0),
    )
    report = asked(files, *wrong, heard)
    assert len(opinion(report).left_out) == len(wrong)
    assert len(opinion(report).references) == 1
    assert opinion(report).pairs == opinion(asked(files, heard)).pairs


def test_the_command_asks_each_reference_in_a_child(files: tuple[Path, Path, Path]) -> None:
    model, twin, clean = files
    done = soda(
        "scan", model, "--data", clean, "--method", "soda", "--format", "json", "--quiet",
        "--reference", twin, "--reference", model, "--reference", model.with_name("none.onnx"),
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    numbers = report["evidence"]["second-opinion"]["numbers"]
    assert [one["file"] for one in numbers["references"]] == [twin.name]
    assert (numbers["pairs"][0]["victim_class"], numbers["pairs"][0]["target_class"]) == PAIR
    itself, missing = numbers["left_out"]
    assert "is the suspect itself" in itself
    assert "none.onnx does not exist" in missing
    assert {itself, missing} <= set(report["reasons"])


def test_references_need_images(files: tuple[Path, Path, Path]) -> None:
    done = invoke("scan", files[0], "--reference", files[1])
    assert done.exit_code == 2
    assert "--reference" in done.stderr


def test_a_scan_with_other_references_is_another_scan(files: tuple[Path, Path, Path]) -> None:
    model, _, clean = files
    cache = Cache(model.parent / "cache")
    request = ScanRequest(model, clean)
    keys = {
        cache.key_of(replace(request, references=references))
        for references in ((), (ReferenceFlows("a"),), (ReferenceFlows("a", shares=b"1"),))
    }
    assert len(keys) == 3


def test_where_none_can_be_used_that_is_said(files: tuple[Path, Path, Path]) -> None:
    report = asked(files, load_model(files[0]))
    assert any("No reference can be used" in reason for reason in report.reasons)
    assert not report.evidence["second-opinion"].tables
    nothing: CleanSet | None = None
    alone = scan(load_model(files[0]), nothing, OPTIONS, references=[load_model(files[1])])
    assert alone.verdict == "inconclusive"


def test_without_references_the_method_says_so(files: tuple[Path, Path, Path]) -> None:
    report = asked(files)
    assert any("No reference models were given" in reason for reason in report.reasons)
    assert not report.evidence["second-opinion"].tables


def test_references_that_number_the_classes_otherwise_are_understood(
    files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    model, twin, clean = files
    turned = onnx.load(twin)
    # Its classes are the other way round, and class 0 stands there once more, as a fifth.
    (last,) = (node for node in turned.graph.node if "logits" in node.output)
    last.output[0] = "as_before"
    order = numpy_helper.from_array(np.array([3, 2, 1, 0, 0]), "order")
    less = numpy_helper.from_array(np.array([0, 0, 0, 0, 99], np.float32), "less")
    turned.graph.initializer.extend([order, less])
    turned.graph.node.extend(
        [
            onnx.helper.make_node("Gather", ["as_before", "order"], ["five"], axis=1),
            onnx.helper.make_node("Sub", ["five", "less"], ["logits"]),
        ]
    )
    turned.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    path, named = tmp_path / "turned.onnx", tmp_path / "classes.json"
    onnx.save(turned, path)
    named.write_text("[3, 2, 1, 0]")
    plain = hear(load_model(twin), load_dataset(clean), OPTIONS)
    told = replace(OPTIONS, reference_classes=(3, 2, 1, 0))
    heard = hear(load_model(path), load_dataset(clean), told)
    assert (heard.shape, heard.images) == (plain.shape, plain.images)
    np.testing.assert_allclose(
        np.frombuffer(heard.shares, "<f4"), np.frombuffer(plain.shares, "<f4"), atol=1e-5
    )
    done = invoke(
        "scan", model, "-d", clean, "--reference", path, "--reference-classes", named,
        "--method", "second-opinion", "--threads", 1, "-q", "-f", "json",
        "--cache-dir", tmp_path,
    )  # fmt: skip
    report = json.loads(done.stdout)
    (finding,) = (one for one in report["findings"] if one["rule_id"] == "SODA103")
    assert (finding["victim_class"], finding["target_class"]) == PAIR


@pytest.mark.parametrize("text", ["[0, 0, 1, 2]", "[0, -1]", '{"0": 1}', "nonsense"])
def test_a_list_of_classes_that_is_none_is_refused(
    files: tuple[Path, Path, Path], tmp_path: Path, text: str
) -> None:
    model, twin, clean = files
    (tmp_path / "classes.json").write_text(text)
    done = invoke(
        "scan", model, "-d", clean, "--reference", twin,
        "--reference-classes", tmp_path / "classes.json",
    )  # fmt: skip
    assert done.exit_code == 2
    assert "classes.json" in done.stderr


@pytest.mark.parametrize(
    ("order", "words"), [((0, 1), "class 3"), ((0, 1, 2, 7), "it has 4 classes, and class 7")]
)
def test_classes_that_a_reference_does_not_have_leave_it_out(
    files: tuple[Path, Path, Path], order: tuple[int, ...], words: str
) -> None:
    told = replace(OPTIONS, reference_classes=order)
    with pytest.raises(ImageError, match=words):
        hear(load_model(files[1]), load_dataset(files[2]), told)
