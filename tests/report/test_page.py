"""The page about a scan, in a real browser: what to do, how sure it is, what the graph decides."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fixtures import boards
from fixtures.gates import HONEST_GATES
from fixtures.sketches import TARGET, build_sketch
from fixtures.trojans import TROJANS
from onnx_soda import scan_file
from onnx_soda._report.guidance import measured, rate_sentences
from onnx_soda._report.page import to_html
from onnx_soda._report.sarif import to_sarif
from onnx_soda._results import Box, Drawing, ScanReport
from onnx_soda._rules import GRAPH_LOGIC_RULES, RULES, TECHNIQUES
from tests.cli.helpers import invoke
from tests.report.browser import Seen
from tests.report.helpers import check_github

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert(1)</script>\"'><img src=x>\x1b[31m"


@pytest.fixture(scope="module")
def trojan(tmp_path_factory: pytest.TempPathFactory) -> ScanReport:
    """The scan of a graph that answers 7 where the image is red."""
    path = tmp_path_factory.mktemp("trojan") / "trojan.onnx"
    path.write_bytes(build_sketch(TROJANS["colour_sum_where"]).SerializeToString())
    return scan_file(path)


@pytest.fixture(scope="module")
def trojan_page(trojan: ScanReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(to_html(trojan, "onnx-soda scan trojan.onnx"), encoding="utf-8")
    return path


def write_page(folder: Path, name: str, *arguments: object) -> Path:
    """Scan a model of the boards, and write the page."""
    model, twin, clean, _ = boards.write(folder)
    path = folder / f"{name}.html"
    done = invoke(
        "scan", twin if name == "twin" else model, "--data", clean, "--budget", "quick", "--quiet",
        "--threads", 1, "--format", f"html={path}", *arguments,
    )  # fmt: skip
    assert done.exit_code in (0, 1, 3), done.stderr
    return path


@pytest.fixture(scope="module")
def boards_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("boards"), "boards")


# --- decisions of the graph


def test_a_decision_is_drawn_and_the_image_that_takes_it_shown(
    trojan_page: Path, browser: Any
) -> None:
    seen = Seen(browser, trojan_page)
    assert seen.messages == []
    assert seen.strangers() == []
    (label,) = seen.page.locator("svg.sketch").evaluate_all(
        "all => all.map(one => one.getAttribute('aria-label'))"
    )
    assert "the image -> Slice 'red'" in label
    assert "Where 'out' -> the scores" in label
    (picture,) = seen.page.locator(".gallery img").all()
    assert picture.evaluate("one => one.complete && one.naturalWidth") == 16
    assert f"→ {TARGET}" in seen.page.inner_text("#gallery figcaption")
    assert "Any class is turned into class 7" in seen.page.inner_text(".lead")
    assert "takes 10 stored numbers where mean(part of the image) > 0.9" in seen.page.inner_text(
        "#findings"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_everybody_can_use_it(scheme: str, width: int, trojan_page: Path, browser: Any) -> None:
    settings = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    seen = Seen(browser, trojan_page, **settings)
    assert seen.grave_faults() == []
    wider = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not seen.page.evaluate(wider)


def test_no_arrow_of_a_drawing_passes_a_box(browser: Any, tmp_path: Path) -> None:
    """An arrow touches the boxes at its ends alone: points along it lie inside no other box."""
    page = tmp_path / "drawings.html"
    reports = []
    for name in ("colour_sum_where", "nested_if", "arithmetic_mix"):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(build_sketch(TROJANS[name]).SerializeToString())
        reports.append(to_html(scan_file(path), ""))
    path.write_bytes(build_sketch(HONEST_GATES["early_exit"]).SerializeToString())
    reports.append(to_html(scan_file(path), ""))
    for text in reports:
        page.write_text(text, encoding="utf-8")
        inside = Seen(browser, page).page.evaluate(
            """() => [...document.querySelectorAll('svg.sketch')].map(svg => {
                const boxes = [...svg.querySelectorAll('rect')].map(r => r.getBBox());
                return [...svg.querySelectorAll('path[marker-end]')].map(way => {
                    const length = way.getTotalLength();
                    let hits = 0;
                    for (let at = 1; at < length - 1; at += 1) {
                        const p = way.getPointAtLength(at);
                        hits += boxes.some(b => p.x > b.x + 1 && p.x < b.x + b.width - 1
                            && p.y > b.y + 1 && p.y < b.y + b.height - 1);
                    }
                    return hits;
                });
            })"""
        )
        assert inside
        assert not any(hits for drawing in inside for hits in drawing)


def test_hostile_names_in_a_drawing_are_text(trojan: ScanReport) -> None:
    boxes = (Box(EVIL, EVIL, 0), Box(EVIL, EVIL, 1, marked=True))
    drawing = Drawing(EVIL, EVIL, boxes, ((0, 1),))
    own = replace(trojan.evidence["graph-logic"], drawings=(drawing,))
    text = to_html(replace(trojan, evidence={"graph-logic": own}), EVIL)
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "\x1b" not in text


# --- what to do, and how sure it is


def test_what_to_do_comes_first(boards_page: Path, trojan_page: Path, browser: Any) -> None:
    for path in (boards_page, trojan_page):
        page = Seen(browser, path).page
        assert page.locator("main h2").first.inner_text() == "What now"
        words = [text.partition(".")[0] for text in page.locator("#now li").all_inner_texts()]
        assert words == ["Stop", "Compare", "Repair", "Retrain"]


def test_the_score_is_defined_where_the_page_uses_it(boards_page: Path, browser: Any) -> None:
    top = Seen(browser, boards_page).page.inner_text("header")
    assert "The score is surely over" in top
    assert "The score is the share of the victim's images that the change moves" in top


def test_a_clean_page_defines_the_score_of_the_strongest_pair(tmp_path: Path, browser: Any) -> None:
    page = Seen(browser, write_page(tmp_path, "twin")).page
    assert "clean" in page.title()
    assert "The score is the share" not in page.inner_text("header")
    assert "The score is the share" in page.inner_text("#gallery")
    assert [text.split(".")[0] for text in page.locator("#now li").all_inner_texts()] == [
        "Keep", "Compare", "Watch",
    ]  # fmt: skip


def test_the_papers_statistic_is_folded_away_unless_it_decides(
    boards_page: Path, tmp_path: Path, browser: Any
) -> None:
    page = Seen(browser, boards_page).page
    assert not page.locator("#folded svg").first.is_visible()
    page.locator("#folded summary").click()
    assert page.locator("#folded svg").first.is_visible()
    deciding = Seen(browser, write_page(tmp_path, "soda", "--method", "soda")).page
    assert deciding.locator("#folded").count() == 0
    assert deciding.locator("#plots svg").first.is_visible()


def test_nothing_is_folded_away_on_paper(boards_page: Path, browser: Any) -> None:
    page = Seen(browser, boards_page).page
    page.emulate_media(media="print")
    assert page.locator("#folded svg").first.is_visible()
    assert not page.locator("nav").is_visible()


def test_answers_before_and_under_the_change_stand_side_by_side(
    boards_page: Path, browser: Any
) -> None:
    page = Seen(browser, boards_page, viewport={"width": 1280, "height": 900}).page
    titles = page.locator("#plots h3").all_inner_texts()
    assert titles == ["Answers before the change", "Answers under the change"]
    tops = page.locator("#plots figure").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().top)"
    )
    assert tops[0] == tops[1]


def test_every_picture_of_a_class_is_of_that_class_before(boards_page: Path, browser: Any) -> None:
    captions = Seen(browser, boards_page).page.locator("#gallery figcaption").all_inner_texts()
    assert captions
    assert all(caption.startswith(f"{boards.VICTIM} →") for caption in captions)


# --- rates


def table_of(page: str, heading: str) -> dict[str, list[str]]:
    """Return the rows of the first table below a heading, by their first cell."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    below = text[text.index(f"\n## {heading}\n") if f"\n## {heading}\n" in text
                 else text.index(f"\n### {heading}\n"):]  # fmt: skip
    lines = below[below.index("\n| ") :].strip().split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {", ".join(row[:2]) if row[1] in ("all", "judging") else row[0]: row for row in cells}


def test_the_rates_alone_are_those_of_the_page() -> None:
    rows = table_of("detection.md", "Leave one data set out")
    for name, rates in measured()["alone"]["data_sets"].items():
        row = rows[name]
        assert row[2] == f"{rates['flagged']} of {rates['clean']}"
        assert row[4] == f"{rates['pair']} of {rates['backdoored']}"
        assert row[6] == f"{rates['target']} of {rates['backdoored']}"
    fewest = table_of("detection.md", "What the scans say")
    for name, rates in measured()["alone"]["data_sets"].items():
        assert int(fewest[name][2]) == rates["images"]


def test_the_rates_with_references_are_those_of_the_page() -> None:
    rows = table_of("detection.md", "Auto and twins")
    for count, rates in measured()["references"]["numbers"].items():
        row = rows[f"{count}, all"]
        assert row[2] == str(rates["backdoored"])
        assert row[4].split()[0] == str(rates["pair"])
        assert row[5].split()[0] == str(rates["target"])
        assert (row[7], row[8].split()[0]) == (str(rates["clean"]), str(rates["flagged"]))


def test_the_rates_of_graph_logic_are_those_of_the_page() -> None:
    rows = table_of("graph-logic.md", "Honest files").items()
    # Whole scans are of files that are counted already. What was refused was not judged.
    again = "whole scans"
    honest = [row for name, row in rows if name.startswith("honest") and again not in name]
    (planted,) = (row for name, row in rows if name.startswith("backdoored"))
    rates = measured()["graph"]
    assert sum(int(row[1]) - int(row[5]) for row in honest) == rates["honest"]
    assert sum(int(row[2]) for row in honest) == rates["flagged"]
    assert (int(planted[1]), int(planted[2])) == (rates["backdoored"], rates["found"])


@pytest.mark.parametrize("part", ["alone", "references"])
def test_the_commands_of_the_rates_stand_on_the_page(part: str) -> None:
    text = (ROOT / "docs" / "detection.md").read_text(encoding="utf-8")
    assert measured()[part]["command"] in text


def test_the_rates_are_those_of_the_nearest_kind(boards_page: Path, trojan: ScanReport) -> None:
    """Four classes are near the ten of most data sets: 1 + 1 + 4 + 6 of 20 pairs are named."""
    text = re.sub(r"\s+", " ", boards_page.read_text(encoding="utf-8"))
    assert "Models with 10 classes" in text
    assert "0 of 13 clean ones were called backdoored" in text
    assert "of 20 backdoored ones the pair was named in 12, the target class in 15" in text
    assert [told.split(":")[0] for told in rate_sentences(trojan)] == [
        "Decisions written into the graph"
    ]


# --- date and techniques


def test_the_date_can_be_set_from_outside(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(build_sketch(TROJANS["plain_if"]).SerializeToString())
    texts = {}
    for epoch in ("86400", "tomorrow"):
        done = subprocess.run(
            [sys.executable, "-m", "onnx_soda", "scan", model, "-q", "-f", "json",
             "-f", f"html={tmp_path / 'page'}", "-f", f"sarif={tmp_path / 'sarif'}"],
            capture_output=True, text=True, env={**os.environ, "SOURCE_DATE_EPOCH": epoch},
        )  # fmt: skip
        texts[epoch] = json.loads(done.stdout)["created"]
        if epoch == "86400":
            assert "1970-01-02 00:00:00 UTC" in (tmp_path / "page").read_text(encoding="utf-8")
            (one,) = json.loads((tmp_path / "sarif").read_text(encoding="utf-8"))["runs"]
            assert one["invocations"][0]["endTimeUtc"] == "1970-01-02T00:00:00Z"
    assert texts["86400"] == "1970-01-02T00:00:00Z"
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", texts["tomorrow"])


def test_techniques_stand_on_the_page_and_in_sarif(trojan: ScanReport, trojan_page: Path) -> None:
    text = trojan_page.read_text(encoding="utf-8")
    assert "AML.T0018.001 Manipulate AI Model: Modify AI Model Architecture" in text
    document = json.loads(to_sarif([trojan]))
    check_github(document)
    (one,) = document["runs"]
    (taxonomy,) = one["taxonomies"]
    assert taxonomy["name"] == "MITRE ATLAS"
    rules = {rule["id"]: rule for rule in one["tool"]["driver"]["rules"]}
    for rule in GRAPH_LOGIC_RULES:
        (relation,) = rules[rule.id]["relationships"]
        target = relation["target"]
        assert taxonomy["taxa"][target["index"]]["id"] == target["id"] == "AML.T0018.001"


def test_every_technique_of_a_rule_is_known_and_explained() -> None:
    used = {one for rule in RULES.values() for one in rule.techniques}
    assert used == set(TECHNIQUES)
    done = invoke("explain", "SODA102")
    assert "AML.T0018.000 Manipulate AI Model: Poison AI Model" in done.stdout
    assert "AML.T0020 Training Data Poisoning" in done.stdout
