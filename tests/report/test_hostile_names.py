"""One scan of a model whose every name is hostile, in every form of report: all of them are inert.

The HTML report is opened in a real browser: it shows everything, asks for nothing, can be used.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import onnx
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from fixtures import boards
from onnx_soda._report.formats import FORMATS
from onnx_soda._words import printable
from tests.report.browser import Seen
from tests.report.helpers import check_github, run

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>`|[a](javascript:b) @all #1 $x$"
# An escape sequence of terminals, a right-to-left override, a line separator, a NUL's neighbour.
HIDDEN = "\x1b[31m\u202e\u2028\x01"
FORMS = FORMATS.names


@dataclass(frozen=True)
class Reports:
    """Reports of one scan, by form; the exit code of the command."""

    texts: dict[str, str]
    html: Path
    exit_code: int

    @property
    def report(self) -> dict[str, Any]:
        """The JSON report."""
        parsed: dict[str, Any] = json.loads(self.texts["json"])
        return parsed


def hostile_model(path: Path) -> Path:
    """Write a backdoored model with hostile names wherever one can stand."""
    model = boards.model()
    graph = model.graph
    names = {graph.input[0].name, graph.output[0].name, *(o for n in graph.node for o in n.output)}
    for number, node in enumerate(graph.node):
        node.name = f"{EVIL}{HIDDEN}{number}"
        node.input[:] = [name + EVIL if name in names else name for name in node.input]
        node.output[:] = [name + EVIL for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name += EVIL
    del graph.value_info[:]
    model.producer_name = EVIL + HIDDEN
    model.doc_string = EVIL
    model.metadata_props.add(key="names", value=EVIL)
    onnx.save(model, path)
    return path


def hostile_images(path: Path) -> Path:
    """Write clean images with hostile names of classes."""
    with h5py.File(path, "w") as target:
        target["images"], target["labels"] = boards.images(60)
        target.attrs["class_names"] = json.dumps([f"{EVIL}{HIDDEN}{n}" for n in range(4)])
    return path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """Scan the hostile model once, and write every form."""
    folder = tmp_path_factory.mktemp("hostile")
    model = hostile_model(folder / "<b>m\u202eodel.onnx")
    data = hostile_images(folder / "<i>images.h5")
    places = {form: folder / f"report.{form}" for form in FORMS}
    formats = [word for form in FORMS for word in ("--format", f"{form}={places[form]}")]
    done = run(
        "scan", model, "--data", data, "--budget", "quick", "--quiet", "--threads", 1, *formats
    )
    assert done.returncode in (0, 1, 3), done.stderr
    texts = {form: place.read_text(encoding="utf-8") for form, place in places.items()}
    return Reports(texts, places["html"], done.returncode)


@pytest.mark.parametrize("form", ["text", "html", "markdown", "junit"])
def test_hidden_characters_are_shown_as_escapes(form: str, hostile: Reports) -> None:
    text = hostile.texts[form]
    assert not [character for character in "\x1b\u202e\u2028\x01" if character in text]
    assert printable("\u202e") in text


@pytest.mark.parametrize("form", ["json", "sarif", "bom"])
def test_json_forms_hold_hidden_characters_as_escapes_alone(form: str, hostile: Reports) -> None:
    text = hostile.texts[form]
    assert text.isascii()
    assert json.loads(text)


def test_html_and_xml_have_no_markup_of_the_model(hostile: Reports) -> None:
    assert "<script" not in hostile.texts["html"]
    assert "<img src=x" not in hostile.texts["html"]
    assert "&lt;script&gt;" in hostile.texts["html"]
    root = ET.fromstring(hostile.texts["junit"])
    assert {element.tag for element in root.iter()} <= {
        "testsuites", "testsuite", "testcase", "failure", "skipped", "system-out", "error",
    }  # fmt: skip


def test_markdown_is_inert(hostile: Reports) -> None:
    text = hostile.texts["markdown"]
    without_own = re.sub(r"</?details>|</?summary>", "", text)
    assert "<" not in without_own
    assert "[a](" not in text
    assert "@all" not in text
    assert "#1" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)
    assert not re.search(r"(?<!\\)`(?![0-9a-f]{64}`|,)", text)


def test_sarif_and_bom_of_hostile_names_are_valid(hostile: Reports) -> None:
    check_github(json.loads(hostile.texts["sarif"]))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(hostile.texts["bom"]) is None
    assert hostile.report["dataset"]["class_names"][3].startswith(EVIL)


def test_gallery_and_plots_are_there_and_nothing_is_asked_for(
    browser: Any, hostile: Reports
) -> None:
    seen = Seen(browser, hostile.html)
    page = seen.page
    assert seen.messages == []
    assert seen.strangers() == []
    assert len([url for url in seen.requests if url.startswith("file:")]) == 1
    pictures = page.locator(".gallery img")
    assert pictures.count() == 16 + 3, "of changes, and of the best patch"
    loaded = "images => images.every(image => image.complete && image.naturalWidth > 0)"
    assert pictures.evaluate_all(loaded)
    assert page.locator("#plots svg[role=img]").count() == 2, "answers before and under"
    assert page.locator("#folded svg[role=img]").count() == 4, "the paper's statistic"
    assert hostile.report["verdict"] in page.title()
    assert "onnx-soda scan" in page.inner_text("#facts")
    assert "--budget quick" in page.inner_text("#facts")
    headings = [int(level[1]) for level in page.locator("h1,h2,h3").evaluate_all(
        "all => all.map(one => one.tagName)"
    )]  # fmt: skip
    assert headings[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))


def test_the_keyboard_reaches_every_link_and_shows_where_it_is(
    browser: Any, hostile: Reports
) -> None:
    page = Seen(browser, hostile.html).page
    targets = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break  # once round
        targets.add(page.evaluate("document.activeElement.getAttribute('href')"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
    assert targets >= {"#content", "#now", "#gallery", "#findings", "#plots", "#folded"}
    assert targets >= {"#rates", "#unseen", "#facts"}


def test_it_fits_a_phone(browser: Any, hostile: Reports) -> None:
    page = Seen(browser, hostile.html, viewport={"width": 360, "height": 740}).page
    wider = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.evaluate(wider)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(scheme: str, browser: Any, hostile: Reports) -> None:
    assert Seen(browser, hostile.html, color_scheme=scheme).grave_faults() == []


def test_hostile_names_do_nothing(browser: Any, hostile: Reports) -> None:
    seen = Seen(browser, hostile.html)
    assert seen.messages == []
    assert seen.strangers() == []
    assert seen.page.evaluate("document.scripts.length") == 0
    assert seen.page.locator("img[src=x]").count() == 0
    assert "<script>alert(1)</script>" in seen.page.inner_text("main")
