"""The page about a repair: what was measured is there, it can be used, and it is inert."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fixtures import boards
from onnx_soda._answers import (
    Behaviour,
    FlowGrade,
    FlowProof,
    RepairAnswer,
    RepairSummary,
    WeightChange,
)
from onnx_soda._report.page import repair_to_html
from onnx_soda._results import InputInfo, ModelInfo
from tests.cli.helpers import invoke
from tests.report.browser import Seen
from tests.report.helpers import run

EVIL = "<script>alert(1)</script>\"'><img src=x>\x1b[31m"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    model, _, clean, triggers = boards.write(folder)
    path = folder / "repair.html"
    done = invoke(
        "repair", model, "--data", clean, "-o", folder / "out.onnx",
        "--victim", boards.VICTIM, "--target", boards.TARGET,
        "--reconstruction", "concepts", "--scope", "head", "--no-rescan", "--quiet", "--threads", 1,
        "--trigger-images", triggers,
        "--format", "html", "--report-output", path,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    return path


def test_before_and_after_stand_side_by_side(page: Path, browser: Any) -> None:
    seen = Seen(browser, page)
    assert seen.messages == []
    assert seen.strangers() == []
    rows = seen.page.locator("#measured tbody tr").all_inner_texts()
    cells = {row.split("\t")[0]: row.split("\t")[1:] for row in rows}
    before, after = (
        float(value.removesuffix("%"))
        for name, values in cells.items()
        if "trigger images" in name
        for value in values
    )
    assert before > 60
    assert after < before / 2
    assert "repaired" in seen.page.inner_text("h1").lower()
    assert seen.page.locator(".plots svg[role=img]").count() == 1
    assert "onnx-soda repair boards.onnx" in seen.page.inner_text("#facts")
    assert "--output out.onnx" in seen.page.inner_text("#facts")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_used_by_all(scheme: str, page: Path, browser: Any) -> None:
    assert Seen(browser, page, color_scheme=scheme).grave_faults() == []


def test_how_the_pair_stands_out_is_told_and_drawn() -> None:
    """Two strengths: 0.2 and 0.8 of the victim went to the target, 0.1 and 0.1 do now."""
    behaviour = Behaviour(0.9, {"0": 0.9, "1": 0.9}, 0.1, 0.9)
    grades = (FlowGrade(0.3, 0.2, 0.1, 0.05), FlowGrade(0.6, 0.8, 0.1, 0.1))
    flow = FlowProof(0, 1, 0.31, -0.05, "tint towards blue", grades)
    summary = RepairSummary(
        "repaired", "", 0, 1, "deep", "both", before=behaviour, after=behaviour,
        teachers=3, flows=(flow,), seconds={},
    )  # fmt: skip
    image = InputInfo("image", (None, 3, 8, 8), "float32", "NCHW")
    model = ModelInfo("m.onnx", "0" * 64, (), 17, 8, "torch", 10, image, "logits", "layer")
    text = repair_to_html(RepairAnswer(summary, None, model, None, written=True), None, "repair")
    assert "From weak to strong: 0 -&gt; 1" in text
    assert "3 reference models" in text
    row = re.search(r"0 -&gt; 1 stands out.*?</tr>", text, re.DOTALL)
    assert row is not None
    assert re.findall(r"<td>([^<]*)</td>", row[0]) == ["+0.31", "-0.05"]
    assert text.count("<svg") == 2


def test_hostile_names_are_text() -> None:
    behaviour = Behaviour(0.9, {"0": 0.9, "1": 0.9}, 0.1, 0.9)
    summary = RepairSummary(
        "repaired",
        EVIL,
        0,
        1,
        "head",
        "both",
        concepts=(EVIL,),
        before=behaviour,
        after=behaviour,
        changes=(WeightChange(EVIL, 4, 1, 0.5, 0.5),),
        notes=(EVIL,),
        seconds={EVIL: 1.0},
    )
    image = InputInfo(EVIL, (None, 3, 8, 8), "float32", "NCHW")
    model = ModelInfo(EVIL, "0" * 64, (), 17, 8, EVIL, 10, image, EVIL, EVIL)
    answer = RepairAnswer(summary, None, model, (EVIL, EVIL), written=True)
    text = repair_to_html(answer, EVIL, EVIL)
    assert "<script" not in text
    assert "<img" not in text
    assert "\x1b" not in text
    assert text.count("&lt;script&gt;alert(1)") >= 8


def test_an_unknown_form_is_refused(tmp_path: Path) -> None:
    done = run("repair", "model.onnx", "-d", "clean.npz", "-o", tmp_path / "o.onnx", "-f", "sarif")
    assert done.returncode == 2
    assert "html" in done.stderr
