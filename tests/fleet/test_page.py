"""The page of a fleet, in a real browser: all models, the worst first, chosen without network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnx_soda._fleet.manifest import Asked, FleetRequest
from onnx_soda._fleet.store import Store
from onnx_soda._results import Finding, Outcome, ScanFailure, report_of_file
from tests.cli.helpers import soda
from tests.report.browser import Seen

EVIL = "<script>alert(1)</script>\"'><img src=x>\x1b[31m"
# 250 models: every 50th is unsafe, every other 25th failed, and one was not reached.
COUNT = 250


def outcome(number: int) -> Outcome:
    if number % 25:
        return report_of_file("model.onnx", "", "inconclusive", (), (), 1.0)
    if number % 50:
        return ScanFailure("model.onnx", f"it broke {EVIL}", "", None)
    found = Finding("SODA303", "high", None, None, None, None, "It is dangerous.", advice="")
    return report_of_file("model.onnx", "", "unsafe", (), (found,), 1.0)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 250 models of two tasks, some with hostile names."""
    results = tmp_path_factory.mktemp("fleet") / "results"
    with Store(results) as store:
        for number in range(COUNT):
            place = f"hub/{number:03}{EVIL if number == 7 else ''}/model.onnx"
            request = FleetRequest(Path("model.onnx"))
            asked = Asked(place, "digits" if number % 2 else f"signs{EVIL}", request)
            store.register([(asked, str(number))])
            if number != COUNT - 1:
                store.put(str(number), outcome(number), float(number))
    made = results / "overview.html"
    done = soda("fleet", "export", results, "-o", made)
    assert done.returncode == 0, done.stderr
    return made


def first_rows(seen: Seen, count: int = 2) -> list[str]:
    names: list[str] = seen.page.locator("#models tbody th").all_inner_texts()
    return names[:count]


def test_the_worst_come_first_a_hundred_at_a_time(page: Path, browser: Any) -> None:
    seen = Seen(browser, page)
    assert seen.messages == []
    assert seen.strangers() == []
    told = "5 unsafe, 5 failed, 239 inconclusive, 1 not scanned."
    assert seen.page.inner_text(".lead") == told
    assert seen.page.inner_text("#told") == "Models 1 to 100 of 250, 250 in all."
    assert first_rows(seen) == ["hub/000/model.onnx", "hub/050/model.onnx"]
    seen.page.click("#after")
    seen.page.click("#after")
    assert seen.page.inner_text("#told") == "Models 201 to 250 of 250, 250 in all."
    assert seen.page.locator("#models tbody tr").count() == 50
    assert seen.page.is_disabled("#after")


def test_models_are_chosen_by_words_verdict_and_task(page: Path, browser: Any) -> None:
    seen = Seen(browser, page)
    seen.page.select_option("#verdict", "failed")
    assert first_rows(seen, 9) == [f"hub/{number:03}/model.onnx" for number in range(25, 250, 50)]
    seen.page.fill("#words", "hub/1 model")
    assert first_rows(seen, 9) == ["hub/125/model.onnx", "hub/175/model.onnx"]
    seen.page.fill("#words", "")
    seen.page.select_option("#verdict", "")
    seen.page.select_option("#task", "digits")
    assert seen.page.inner_text("#told") == "Models 1 to 100 of 125, 250 in all."
    seen.page.select_option("#order", "6")
    assert first_rows(seen) == ["hub/247/model.onnx", "hub/245/model.onnx"]
    seen.page.fill("#words", "no such model")
    assert seen.page.inner_text("#told") == "No model fits; 250 in all."
    assert seen.messages == []


def test_without_scripts_all_models_are_there(page: Path, browser: Any) -> None:
    plain = browser.new_context(java_script_enabled=False)
    seen = Seen(plain, page)
    assert seen.page.locator("#models tbody tr").count() == COUNT
    assert not seen.page.is_visible("#filters")
    plain.close()


def test_hostile_names_are_text(page: Path, browser: Any) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("<script>") == 1
    assert "\x1b" not in text
    seen = Seen(browser, page)
    seen.page.fill("#words", "hub/007")
    assert "<script>alert(1)</script>" in first_rows(seen)[0]
    assert seen.page.locator("#models img").count() == 0
    assert seen.messages == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(scheme: str, page: Path, browser: Any) -> None:
    assert Seen(browser, page, color_scheme=scheme).grave_faults() == []
