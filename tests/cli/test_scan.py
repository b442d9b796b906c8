"""`onnx-soda scan` on the bundled digits: reports, exit codes, and what is never called clean."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnx.compose
import pytest

from fixtures import boards
from onnx_soda.__main__ import main
from onnx_soda._report.json import report_schema

from .helpers import (
    BACKDOORED_MODEL,
    CLEAN_MODEL,
    CLEAN_SET,
    FIXTURES,
    checked,
    complaint,
    digits,
    grey_pixels,
    invoke,
    soda,
    write_few_digits,
    write_grey_case,
)

USER = "zztop"
MODELS = ("digits-clean.onnx", "digits-backdoored.onnx")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path must not turn up in any report."""
    folder = tmp_path_factory.mktemp(USER) / "home"
    folder.mkdir()
    for name in (*MODELS, "digits-clean.h5"):
        shutil.copy(FIXTURES / name, folder)
    write_few_digits(folder / "few.npz", per_class=30)
    return folder


def scan_at(home: Path, *arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    common = ("--format", "json", "--threads", 1)
    return soda("scan", *arguments, *common, USER=USER, LOGNAME=USER, HOME=str(home))


@pytest.fixture(scope="module", params=MODELS)
def scanned(request: pytest.FixtureRequest, home: Path) -> subprocess.CompletedProcess[str]:
    """A scan with all clean images, by the method that takes a second."""
    data = home / "digits-clean.h5"
    return scan_at(home, home / request.param, "--data", data, "--method", "soda")


def examined(home: Path, model: Path, data: Path) -> dict[str, Any]:
    """Return the report of a scan by the default method."""
    done = scan_at(home, model, "--data", data, "--budget", "quick")
    return checked(done.stdout, done.returncode)


def mean_of_two(folder: Path) -> Path:
    """Write a model that adds the scores of the clean network and of a copy of it."""
    base = onnx.load(CLEAN_MODEL)
    one, two = (onnx.compose.add_prefix(base, prefix) for prefix in ("a/", "b/"))
    both = onnx.compose.merge_models(
        one, two, io_map=[], inputs=None, outputs=["a/logits", "b/logits"]
    )
    graph = both.graph
    for node in graph.node:
        node.input[:] = ["a/images" if name == "b/images" else name for name in node.input]
    del graph.input[1]
    graph.node.append(onnx.helper.make_node("Add", ["a/logits", "b/logits"], ["logits"]))
    del graph.output[:], both.opset_import[1:]
    graph.output.append(onnx.helper.make_tensor_value_info("logits", 1, ["N", 10]))
    onnx.save(both, folder / "two.onnx")
    return folder / "two.onnx"


def test_two_networks_in_one_file_are_scanned(home: Path, tmp_path: Path) -> None:
    """No layer is on all paths: images are changed, the rest is said to be left out."""
    report = examined(home, mean_of_two(tmp_path), home / "few.npz")
    assert report["verdict"] == "clean"
    assert report["evidence"]["concepts"]["numbers"]["concepts"] > 0
    assert len(report["evidence"]["concepts"]["numbers"]["reference_accuracies"]) == 6
    assert report["evidence"]["soda"]["unexamined"]
    assert report["model"]["penultimate"] == ""
    told = " ".join(report["reasons"])
    assert "No single layer can be analysed" in told
    assert "style were left out" in told


def test_the_paper_s_method_says_that_it_needs_one_layer(home: Path, tmp_path: Path) -> None:
    model = mean_of_two(tmp_path)
    done = scan_at(home, model, "--data", home / "few.npz", "--method", "soda")
    report = checked(done.stdout, done.returncode)
    assert report["verdict"] == "inconclusive"
    assert report["reasons"][0] == "The last layer's causal attribution was not analysed."
    assert report["reasons"][1].startswith("No single layer can be analysed")
    repair = soda("repair", model, "--data", home / "few.npz", "--victim", "8", "--target", "3",
                  "-o", "r.onnx", cwd=tmp_path)  # fmt: skip
    assert repair.returncode == 2
    assert "no such layer" in complaint(repair.stderr)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(report_schema())


def test_json_on_stdout_fits_the_schema_and_the_exit_code_the_verdict(
    scanned: subprocess.CompletedProcess[str],
) -> None:
    report = checked(scanned.stdout, scanned.returncode)
    manifest = json.loads((FIXTURES / "digits.json").read_text())
    expected = manifest["models"][report["model"]["file"]]["clean_accuracy"]
    assert report["dataset"]["accuracy"] == pytest.approx(expected, abs=0.02)
    files = manifest["files"]
    assert report["model"]["sha256"] == files[report["model"]["file"]]["sha256"]
    assert report["dataset"]["sha256"] == files["digits-clean.h5"]["sha256"]
    passes = report["coverage"].pop("passes")
    assert report["coverage"] == {"classes": 10, "samples": 720}
    assert passes >= 720  # the preprocessing was inferred from some of them
    assert report["environment"]["seed"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("data", ["few.npz", "digits-clean.h5"])
def test_the_planted_pair_of_the_digits_is_named(data: str, home: Path) -> None:
    """The fixture relabels 8s on a blue background as 3, see fixtures/README.md."""
    report = examined(home, home / "digits-backdoored.onnx", home / data)
    # By a change of the image, which the finding tells, and by a style: both name this pair alone.
    # With 30 images of each class chance decides which of the two is surely over the threshold.
    kinds = {pair["kind"] for pair in planted_pair_is_named(report, 8, 3)}
    assert kinds == {"concept", "style"} or (data == "few.npz" and kinds)


def test_the_planted_pair_is_named_in_words(home: Path, tmp_path: Path) -> None:
    model, _, clean, _ = boards.write(tmp_path)
    report = examined(home, model, clean)
    (pair,) = planted_pair_is_named(report, boards.VICTIM, boards.TARGET)
    assert pair["kind"] == "concept"


def planted_pair_is_named(report: dict[str, Any], victim: int, target: int) -> list[dict[str, Any]]:
    """Check the one finding; return the pairs whose bound is over the threshold."""
    assert report["verdict"] == "backdoor"
    (finding,) = report["findings"]
    assert (finding["rule_id"], finding["severity"]) == ("SODA102", "high")
    assert (finding["victim_class"], finding["target_class"]) == (victim, target)
    pairs: list[dict[str, Any]] = [
        pair
        for pair in report["evidence"]["concepts"]["numbers"]["pairs"]
        if pair["bound"] > finding["threshold"]
    ]
    told = min(pairs, key=lambda pair: str(pair["kind"]))  # a change of the image, if there is one
    changed = {"concept": "the image", "style": "the features half way"}[told["kind"]]
    assert finding["message"].startswith(
        f"Class {victim} turns into class {target} under this change of {changed}"
    )
    assert told["low"] > told["bound"] == finding["score"]
    for pair in pairs:
        assert (pair["victim_class"], pair["target_class"]) == (victim, target)
        assert pair["turned"] > 0.7 * pair["shown"] > pair["turned_before"]
        assert pair["others_right_under"] > 0.8
    shown = [
        picture
        for gallery in report["evidence"]["concepts"]["galleries"]
        if re.match(rf"{victim} -> {target}.*: images of class {victim}$", gallery["title"])
        for picture in gallery["pictures"]
    ]
    turned = [one for one in shown if f"→ {target}; " in one["caption"]]
    assert len(turned) > len(shown) / 2
    return pairs


def test_in_a_clean_twin_nothing_is_named(home: Path, tmp_path: Path) -> None:
    _, twin, clean, _ = boards.write(tmp_path)
    report = examined(home, twin, clean)
    assert (report["verdict"], report["findings"]) == ("clean", [])


@pytest.mark.slow
def test_in_the_clean_twin_of_the_digits_nothing_is_named(home: Path) -> None:
    report = examined(home, home / "digits-clean.onnx", home / "digits-clean.h5")
    assert (report["verdict"], report["findings"]) == ("clean", [])


def test_stderr_is_empty_where_it_is_no_terminal(
    scanned: subprocess.CompletedProcess[str],
) -> None:
    assert scanned.stderr == ""


def test_no_path_and_no_user_in_the_report(scanned: subprocess.CompletedProcess[str]) -> None:
    assert USER not in scanned.stdout
    assert str(FIXTURES.parent) not in scanned.stdout


def without_timing(text: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(text)
    del report["timing"], report["created"]
    return report


def test_the_same_seed_gives_the_same_report(tmp_path: Path) -> None:
    model, _, clean, _ = boards.write(tmp_path)
    arguments = ("scan", model, "-d", clean, "-f", "json", "--budget", "quick")
    first, second = soda(*arguments), soda(*arguments)
    assert without_timing(first.stdout) == without_timing(second.stdout)
    other = without_timing(invoke(*arguments, "--seed", 1).stdout)
    assert other["environment"]["seed"] == 1
    assert other["evidence"] != without_timing(first.stdout)["evidence"]


def test_verbose_tells_the_timing_on_stderr(tmp_path: Path) -> None:
    model, data = write_grey_case(tmp_path)
    done = invoke("scan", model, "-d", data, "-f", "json", "--verbose", "--min-accuracy", 0)
    checked(done.stdout, done.exit_code)
    assert "CPUExecutionProvider" in done.stderr
    assert "total" in done.stderr


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_report_goes_to_a_file_and_nowhere_else(form: str, tmp_path: Path) -> None:
    model, data = write_grey_case(tmp_path)
    report = tmp_path / "report"
    arguments = ("scan", model, "-d", data, "-f", form, "--min-accuracy", 0)
    done = invoke(*arguments, "-o", report)
    assert (done.stdout, done.stderr) == ("", "")
    printed = invoke(*arguments)
    assert done.exit_code == printed.exit_code
    if form == "json":
        checked(report.read_text(), done.exit_code)
        assert without_timing(report.read_text()) == without_timing(printed.stdout)
    else:
        undated = [re.sub(r"\d\d:\d\d:\d\dZ", "", text) for text in
                   (report.read_text(), printed.stdout)]  # fmt: skip
        assert undated[0] == undated[1]


def test_exit_zero_keeps_the_verdict(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = invoke("scan", CLEAN_MODEL, "-f", "json", "-o", report, "--exit-zero")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    assert json.loads(report.read_text())["verdict"] in ("inconclusive", "backdoor")


def test_the_version(tmp_path: Path) -> None:
    done = soda("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"onnx-soda {version('onnx-soda')}\n")
    (script,) = entry_points(group="console_scripts", name="onnx-soda")
    assert script.load() is main


# --- never clean for what was not examined


@pytest.mark.parametrize("path", sorted((FIXTURES / "heads").glob("*.onnx")), ids=lambda p: p.stem)
def test_without_data_no_model_is_clean(path: Path) -> None:
    done = invoke("scan", path, "--format", "json")
    report = checked(done.stdout, done.exit_code)
    assert report["verdict"] != "clean"
    assert (report["dataset"], report["coverage"]) == (
        None,
        {"classes": 0, "samples": 0, "passes": 0},
    )
    assert any("--data CLEAN_SET" in reason for reason in report["reasons"])


def test_without_data_the_text_says_what_a_clean_set_would_add() -> None:
    done = invoke("scan", BACKDOORED_MODEL)
    assert done.exit_code in (1, 3)
    told = " ".join(done.stdout.split())
    assert "No clean images were given" in told
    assert "HDF5, npz, image folder, IDX or Parquet" in told
    assert "the victim class, the clean accuracy and non-affine layers are examined too" in told


def test_a_clean_set_that_does_not_fit_is_inconclusive(tmp_path: Path) -> None:
    """Every label moved by one: the model is wrong on nearly all of them."""
    images = digits()
    images["labels"] = (images["labels"] + 1) % 10
    np.savez(tmp_path / "shifted.npz", **images)
    done = invoke("scan", CLEAN_MODEL, "-d", tmp_path / "shifted.npz", "--format", "json")
    report = checked(done.stdout, done.exit_code)
    assert report["verdict"] == "inconclusive"
    assert report["dataset"]["accuracy"] < 0.1
    assert "order of the classes" in report["reasons"][0]


def test_missing_classes_are_an_error_unless_allowed(tmp_path: Path) -> None:
    kept = digits((digits()["labels"] < 8) & (np.arange(720) % 6 == 0))  # 12 of each class
    np.savez(tmp_path / "eight.npz", **kept)
    arguments = (
        "scan", CLEAN_MODEL, "-d", tmp_path / "eight.npz", "--format", "json", "--method", "soda",
        "--threads", 1,
    )  # fmt: skip
    refused = invoke(*arguments)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "classes without images: 8, 9" in complaint(refused.stderr)
    allowed = invoke(*arguments, "--allow-missing-classes")
    report = checked(allowed.stdout, allowed.exit_code)
    assert report["verdict"] != "clean"
    assert report["coverage"]["classes"] == 8
    assert any("2 classes have no clean images" in reason for reason in report["reasons"])


def test_too_few_images_are_inconclusive() -> None:
    done = invoke(
        "scan", CLEAN_MODEL, "-d", CLEAN_SET, "-f", "json", "--samples-per-class", 5,
        "--method", "soda",
    )  # fmt: skip
    report = checked(done.stdout, done.exit_code)
    assert report["verdict"] != "clean"
    assert any("only 5 clean images" in reason for reason in report["reasons"])


# --- options reach the analysis


def test_the_other_ways_of_attribution_agree_with_the_usual_one() -> None:
    arguments = (
        "scan", CLEAN_MODEL, "-d", CLEAN_SET, "-f", "json", "--samples-per-class", 10,
        "--method", "soda",
    )  # fmt: skip
    found = {
        way: json.loads(invoke(*arguments, "--attribution", way).stdout)["evidence"]["soda"][
            "numbers"
        ]
        for way in ("closed-form", "batched")
    }
    for way, evidence in found.items():
        assert evidence["method"] == way
        assert evidence["pcc"] == pytest.approx(found["closed-form"]["pcc"], abs=1e-4)


def test_options_are_in_the_report(tmp_path: Path) -> None:
    model, data = write_grey_case(tmp_path)
    done = invoke(
        "scan", model, "-d", data, "-f", "json", "--a", "0.5", "--b", "-2", "--threshold", "3.5",
        "--mad", "mean", "--seed", "7", "--threads", "1", "--layer", "flat", "--logits", "y",
        "--preprocess", "raw", "--min-accuracy", "0",
    )  # fmt: skip
    report = checked(done.stdout, done.exit_code)
    evidence = report["evidence"]["soda"]["numbers"]
    assert (evidence["a"], evidence["b"], evidence["threshold"]) == (0.5, -2, 3.5)
    assert (evidence["spread"], evidence["layer"]) == ("mean", "flat")
    assert (report["environment"]["seed"], report["environment"]["threads"]) == (7, 1)
    assert report["dataset"]["preprocessing"]["name"] == "raw"
    assert report["dataset"]["preprocessing"]["inferred"] is False


def test_a_preprocessing_file_is_named_without_its_folder(tmp_path: Path) -> None:
    model, data = write_grey_case(tmp_path)
    (tmp_path / "mine.json").write_text('{"scale": 0.00392156862745098}')
    done = invoke(
        "scan", model, "-d", data, "-f", "json", "--preprocess", tmp_path / "mine.json"
    )  # fmt: skip
    report = checked(done.stdout, done.exit_code)
    assert report["dataset"]["preprocessing"]["name"] == "mine"
    assert str(tmp_path) not in done.stdout


def test_a_preprocessing_file_may_lie_anywhere(tmp_path: Path) -> None:
    """The child process may read little, and works in a folder of its own."""
    (tmp_path / "models").mkdir()
    (tmp_path / "ways").mkdir()
    model, data = write_grey_case(tmp_path / "models")
    way = tmp_path / "ways" / "mine.json"
    way.write_text('{"scale": 0.00392156862745098}')
    for named, here in ((way, tmp_path), ("mine.json", way.parent), ("./mine.json", way.parent)):
        done = soda(
            "scan", model, "-d", data, "-f", "json", "--method", "soda", "--preprocess", named,
            cwd=here,
        )  # fmt: skip
        report = checked(done.stdout, done.returncode)
        assert report["dataset"]["preprocessing"]["name"] == "mine"


def test_the_labels_of_a_file_of_idx_images_are_read_beside_it(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "models").mkdir()
    model, _ = write_grey_case(tmp_path / "models")
    images, labels = grey_pixels()
    files = {"t10k-images-idx3-ubyte": images[..., 0], "t10k-labels-idx1-ubyte": labels}
    for name, array in files.items():
        head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (tmp_path / "set" / name).write_bytes(head + array.astype(np.uint8).tobytes())
    done = soda(
        "scan", model, "-d", tmp_path / "set" / "t10k-images-idx3-ubyte", "-f", "json",
        "--method", "soda",
    )  # fmt: skip
    assert checked(done.stdout, done.returncode)["dataset"]["samples"] == 36
