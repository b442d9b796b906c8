"""`onnx-soda compare`, as users run it, and what it makes of the answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fixtures import boards
from onnx_soda import RuntimeOptions, ScanOptions, ScanReport, scan_file
from onnx_soda._compare import COMPARISON, Answer, side_by_side
from onnx_soda._results import Evidence, Finding, Verdict

from .helpers import checked, complaint, soda

FAST = ("--budget", "quick", "--threads", 1, "--quiet", "--no-cache")


@dataclass(frozen=True)
class Case:
    """A net with a backdoor from 1 to 3, and its clean images."""

    model: Path
    clean: Path


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    model, _, clean, _ = boards.write(tmp_path_factory.mktemp("boards"))
    return Case(model, clean)


def test_each_detector_has_a_row_and_the_usual_one_decides(case: Case, tmp_path: Path) -> None:
    forms = [f"--format={form}={tmp_path / f'out.{form}'}" for form in FORMS]
    done = soda(
        "compare", case.model, "-d", case.clean, "--detectors", "soda,concepts", *FAST, *forms,
        "--format", "json",
    )  # fmt: skip
    report = checked(done.stdout, done.returncode)
    assert (report["method"], report["verdict"]) == (COMPARISON, "backdoor")
    (table,) = report["evidence"][COMPARISON]["tables"]
    rows = {row[0]: row for row in table["rows"]}
    assert list(rows) == ["soda", "concepts"]
    assert rows["concepts"][1:3] == ["backdoor", "1 -> 3"]
    alone = {finding["rule_id"] for finding in report["findings"]}
    assert "SODA101" not in alone  # the statistic alone flags many clean models
    assert report["coverage"]["passes"] == sum(row[5] for row in rows.values())
    for form in FORMS:
        written = (tmp_path / f"out.{form}").read_text(encoding="utf-8")
        assert "concepts" in written, form


FORMS = ("text", "html", "markdown")


def test_an_unknown_detector_is_told_before_anything_runs(case: Case) -> None:
    done = soda("compare", case.model, "-d", case.clean, "--detectors", "soda,concept")
    assert done.returncode == 2
    assert "'concept' is none of" in complaint(done.stderr)
    assert "Do you mean 'concepts'?" in done.stderr


def test_no_detector_is_told(case: Case) -> None:
    done = soda("compare", case.model, "-d", case.clean, "--detectors", " , ")
    assert done.returncode == 2
    assert "no detector is named" in complaint(done.stderr)


def test_what_no_detector_can_scan_fails(case: Case, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    report = tmp_path / "out.json"
    done = soda("compare", broken, "-d", case.clean, "--detectors", "soda", "-o", report)
    assert done.returncode == 2
    assert not report.exists()


@pytest.fixture(scope="module")
def scanned(case: Case) -> ScanReport:
    options = ScanOptions("soda", runtime=RuntimeOptions("cpu", 1))
    return scan_file(case.model, case.clean, options=options, limits=None)


def says(report: ScanReport, method: str, verdict: Verdict, flags: bool = False) -> Answer:
    found = (Finding("SODA105", "medium", None, 3, 5.0, 2.0, f"{method} flags 3."),) * flags
    evidence = Evidence(method, method, verdict, findings=found)
    own = replace(
        report, method=method, verdict=verdict, findings=found, evidence={method: evidence}
    )
    return Answer(method, own, seconds=1.0)


@pytest.mark.parametrize(
    ("alone", "rival_flags", "verdict"),
    [
        ("clean", False, "clean"),
        ("clean", True, "inconclusive"),
        ("inconclusive", False, "inconclusive"),
        ("backdoor", False, "backdoor"),
    ],
)
def test_a_rival_keeps_from_clean_and_makes_no_backdoor(
    scanned: ScanReport, alone: Verdict, rival_flags: bool, verdict: Verdict
) -> None:
    answers = [
        says(scanned, "concepts", alone),
        says(scanned, "rival", "inconclusive", rival_flags),
    ]
    assert side_by_side(answers).verdict == verdict


def test_one_that_fails_is_told_and_costs_itself_alone(scanned: ScanReport) -> None:
    answers = [Answer("rival", None, "no gradient"), says(scanned, "concepts", "clean")]
    report = side_by_side(answers)
    comparison = report.evidence[COMPARISON]
    assert "The detector rival could not scan: no gradient." in comparison.unexamined
    assert comparison.tables[0].rows[0][:2] == ("rival", "failed: no gradient")
    assert report.timing["total"] == 1.0
    json.dumps(report.timing)
