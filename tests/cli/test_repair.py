"""`onnx-soda repair` and `onnx-soda diff`, as users run them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from fixtures import boards
from onnx_soda._results import SCHEMA_VERSION

from .helpers import invoke, soda

PAIR = ("--victim", boards.VICTIM, "--target", boards.TARGET)
QUICK = ("--no-rescan", "--quiet", "--threads", 1)


@dataclass(frozen=True)
class Case:
    """A net with a backdoor, its clean twin, clean images, trigger images."""

    model: Path
    twin: Path
    clean: Path
    triggers: Path


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(*boards.write(tmp_path_factory.mktemp("boards")))


def here(*arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    """Run the command in this process: importing torch in one of its own takes seconds."""
    done = invoke(*arguments)
    return subprocess.CompletedProcess((), done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def repaired(
    case: Case, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, object], str]:
    folder = tmp_path_factory.mktemp("repaired")
    path, report = folder / "out.onnx", folder / "report.json"
    result = soda(
        "repair", case.model, "--data", case.clean, "-o", path, *PAIR, *QUICK,
        "--scope", "head", "--trigger-images", case.triggers, "--format", "json",
        "--report-output", report,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return path, json.loads(report.read_text()), result.stdout


def test_the_report_proves_the_repair(repaired: tuple[Path, dict[str, object], str]) -> None:
    _, report, printed = repaired
    assert printed == ""
    proof = report["repair"]
    assert isinstance(proof, dict)
    assert proof["outcome"] == "repaired"
    assert (proof["victim_class"], proof["target_class"]) == (boards.VICTIM, boards.TARGET)
    assert proof["triggers_before"]["target_rate"] > 0.6
    assert proof["triggers_after"]["target_rate"] <= 0.02
    assert report["schema_version"] == SCHEMA_VERSION


def test_a_file_that_had_to_be_mended_is_repaired_into_a_valid_one(
    case: Case, tmp_path: Path
) -> None:
    """Nodes in the wrong order, no shape of input and output: ONNX Runtime loads it so."""
    model = onnx.load(case.model)
    nodes = onnx.GraphProto(node=list(reversed(model.graph.node)))
    del model.graph.node[:]
    model.graph.node.extend(nodes.node)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    source, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    source.write_bytes(model.SerializeToString())
    result = here(
        "repair", source, "-d", case.clean, "-o", out, *PAIR, "--scope", "head",
        "--trigger-images", case.triggers, "--quiet", "--threads", 1, "--format", "json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    proof = json.loads(result.stdout)["repair"]
    assert proof["outcome"] == "repaired"
    assert proof["triggers_before"]["target_rate"] > 0.6
    assert proof["triggers_after"]["target_rate"] <= 0.02
    repaired = onnx.load(out)
    onnx.checker.check_model(repaired, full_check=True)
    shapes = [
        [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*repaired.graph.input, *repaired.graph.output)
    ]
    assert shapes == [[0, 3, 0, 0], [0, 4]]


def test_diff_shows_what_was_changed(
    case: Case, repaired: tuple[Path, dict[str, object], str]
) -> None:
    path, report, _ = repaired
    result = soda("diff", case.model, path, "--format", "json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["same_graph"]
    proof = report["repair"]
    assert isinstance(proof, dict)
    assert found["changes"] == proof["changes"]
    text = soda("diff", case.model, path).stdout
    assert found["changes"][0]["name"] in text
    assert "The graphs are the same." in text


def test_text_says_what_was_done(case: Case, tmp_path: Path) -> None:
    result = here(
        "repair", case.model, "-d", case.clean, "-o", tmp_path / "out.onnx", *PAIR,
        "--reconstruction", "concepts", "--budget", "quick", "--quiet", "--threads", 1,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "boards.onnx: REPAIRED" in result.stdout
    assert re.search(r"^neurons .*, scope (deep|head)$", result.stdout, re.MULTILINE)
    assert re.search(r"^new scan +clean$", result.stdout, re.MULTILINE)
    assert "1 -> 3" in result.stdout
    assert "Written: out.onnx" in result.stdout
    assert (tmp_path / "out.onnx").is_file()


def test_a_clean_model_is_left_alone(case: Case, tmp_path: Path) -> None:
    result = here(
        "repair", case.twin, "-d", case.clean, "-o", tmp_path / "out.onnx", *QUICK,
        "--budget", "quick",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "NOTHING TO REPAIR" in result.stdout
    assert not list(tmp_path.iterdir())


def test_a_report_names_the_pair_and_must_be_about_the_model(case: Case, tmp_path: Path) -> None:
    report = tmp_path / "scan.json"
    here(
        "scan", case.model, "-d", case.clean, "--budget", "quick", "--threads", 1, "-q",
        "-f", "json", "-o", report,
    )  # fmt: skip
    out = tmp_path / "out.onnx"
    result = soda(
        "repair", case.model, "-d", case.clean, "-o", out, "--report", report, *QUICK,
        "--reconstruction", "ascent", "--scope", "head",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 -> 3" in result.stdout
    assert "turned too" not in result.stdout
    told = json.loads(report.read_text())
    for pair in told["evidence"]["concepts"]["numbers"]["pairs"]:
        pair["also_turned"] = [0]
    report.write_text(json.dumps(told))
    both = here(
        "repair", case.model, "-d", case.clean, "-o", out, "--report", report, *QUICK,
        "--reconstruction", "ascent", "--scope", "head",
    )  # fmt: skip
    assert both.returncode in (0, 3), both.stdout + both.stderr
    assert "class 0, turned too" in both.stdout
    other = here("repair", case.twin, "-d", case.clean, "-o", out, "--report", report, *QUICK)
    assert other.returncode == 2
    assert "about another model" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--victim", 8), "go together"),
        ((*PAIR, "--top", "0"), "over 0"),
        ((*PAIR, "--top", "many"), "neither a share"),
        (("--victim", 8, "--target", 8), "no pair"),
        (("--report", __file__), "no report"),
        (("--report", "missing.json"), "cannot be read"),
    ],
)
def test_wrong_usage_is_told_and_nothing_is_written(
    arguments: tuple[str | int | Path, ...], said: str, case: Case, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    result = here("repair", case.model, "-d", case.clean, "-o", out, *QUICK, *arguments)
    assert result.returncode == 2
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not out.exists()


def test_the_model_itself_is_not_written_over(case: Case, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(case.model.read_bytes())
    result = soda(
        "repair", model, "-d", case.clean, "-o", model, *PAIR, *QUICK,
        "--reconstruction", "ascent",
    )  # fmt: skip
    assert result.returncode == 2
    assert model.read_bytes() == case.model.read_bytes()


def test_without_torch_the_extra_is_named(case: Case, tmp_path: Path) -> None:
    arguments = [
        "onnx-soda", "repair", str(case.model), "-d", str(case.clean), "-o",
        str(tmp_path / "out.onnx"), "--no-sandbox",
    ]  # fmt: skip
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from onnx_soda._cli.app import main\n"
        f"sys.argv = {arguments!r}\nmain()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert 'In a checkout of onnx-soda: pip install ".[repair]"' in result.stderr


def test_a_full_export_has_the_same_face(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = here(
        "repair", case.model, "-d", case.clean, "-o", out, *PAIR, *QUICK,
        "--reconstruction", "ascent", "--scope", "head", "--export", "torch",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    old, new = onnx.load(case.model), onnx.load(out)
    assert [one.name for one in new.graph.input] == [one.name for one in old.graph.input]
    assert [one.name for one in new.graph.output] == [one.name for one in old.graph.output]
    assert "onnx_soda.repair" in {entry.key for entry in new.metadata_props}
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    shape = [size if isinstance(size, int) else 5 for size in session.get_inputs()[0].shape]
    assert (
        len(session.run(None, {session.get_inputs()[0].name: np.zeros(shape, np.float32)})[0]) == 5
    )


def test_a_new_scan_finds_what_a_repair_of_another_pair_leaves(case: Case, tmp_path: Path) -> None:
    # 0 -> 2 is no backdoor; ascent finds infected images of any pair, and 1 -> 3 stays.
    result = here(
        "repair", case.model, "-d", case.clean, "-o", tmp_path / "out.onnx",
        "--victim", 0, "--target", 2, "--reconstruction", "ascent", "--scope", "head",
        "--budget", "quick", "--quiet", "--threads", 1,
    )  # fmt: skip
    assert result.returncode == 3, result.stdout + result.stderr
    assert "PARTLY REPAIRED" in result.stdout
    assert "backdoor 1 -> 3" in result.stdout
    assert "The new scan finds a backdoor in the repaired model: 1 -> 3." in result.stdout
    assert (tmp_path / "out.onnx").is_file()


def test_a_reference_finds_the_pair_for_the_repair(case: Case, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    done = here(
        "repair", case.model, "--data", case.clean, "--reference", case.twin,
        "-o", tmp_path / "repaired.onnx", "--scope", "head", "--quiet", "--threads", 1,
        "--format", "json", "--report-output", told,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    answer = json.loads(told.read_text("utf-8"))
    repair = answer["repair"]
    assert (repair["victim_class"], repair["target_class"]) == (boards.VICTIM, boards.TARGET)
    assert answer["method"] == "second-opinion"
    (reference,) = answer["evidence"]["second-opinion"]["numbers"]["references"]
    assert reference["file"] == case.twin.name
