"""Accepted findings: for one model, for a reason, until a day."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.sketches import build_sketch
from fixtures.trojans import TROJANS
from onnx_soda import ScanReport, scan_file
from onnx_soda._baseline import Entry, apply_baseline, entries_of, identity, read_baseline
from onnx_soda._cli.output import COULD_NOT_SCAN, UNSAFE, of_report, worst
from onnx_soda._errors import BaselineError
from onnx_soda._report.json import to_json
from onnx_soda._results import ExternalDataInfo
from tests.report.helpers import run

TODAY = date(2026, 11, 25)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("baseline") / "m.onnx"
    path.write_bytes(build_sketch(TROJANS["plain_if"]).SerializeToString())
    return path


@pytest.fixture(scope="module")
def report(model: Path) -> ScanReport:
    return scan_file(model)


def accepting(report: ScanReport, expires: date = TODAY) -> list[Entry]:
    return [
        Entry(report.model.sha256, f.rule_id, f.victim_class, f.target_class, "known", expires)
        for f in report.findings
    ]


def test_accepted_findings_stay_in_the_report_and_do_not_count(report: ScanReport) -> None:
    (marked,) = apply_baseline([report], accepting(report), TODAY).reports
    assert [f.accepted.reason for f in marked.findings if f.accepted] == ["known"] * len(
        report.findings
    )
    assert marked.verdict == "backdoor"
    assert of_report(report, "high") == 1
    assert of_report(marked, "high") == 0


def test_what_is_not_accepted_counts(report: ScanReport) -> None:
    first = report.findings[0]
    some = [entry for entry in accepting(report) if entry.rule_id != first.rule_id]
    (marked,) = apply_baseline([report], some, TODAY).reports
    assert of_report(marked, "high") == 1


def test_another_model_another_pair_another_day(report: ScanReport) -> None:
    entries = accepting(report)
    for wrong in (
        [replace(entry, sha256="0" * 64) for entry in entries],
        [replace(entry, target_class=9) for entry in entries],
        [replace(entry, victim_class=0) for entry in entries],
    ):
        applied = apply_baseline([report], wrong, TODAY)
        assert applied.reports == (report,)
        assert applied.unused == tuple(wrong)
    over = accepting(report, TODAY - timedelta(days=1))
    applied = apply_baseline([report], over, TODAY)
    assert applied.reports == (report,)
    assert applied.expired == tuple(over)
    assert applied.unused == ()


def test_other_weights_beside_the_same_file(report: ScanReport) -> None:
    def beside(digest: str) -> ScanReport:
        weights = (ExternalDataInfo("w.bin", digest),)
        return replace(report, model=replace(report.model, external_data=weights))

    entries = [replace(entry, sha256=identity(beside("1" * 64))) for entry in accepting(report)]
    assert of_report(apply_baseline([beside("1" * 64)], entries, TODAY).reports[0], "high") == 0
    assert of_report(apply_baseline([beside("2" * 64)], entries, TODAY).reports[0], "high") == 1
    assert of_report(apply_baseline([report], entries, TODAY).reports[0], "high") == 1


PLACES = st.tuples(
    st.sampled_from(["SODA101", "SODA102"]), st.sampled_from([None, 0, 1]), st.sampled_from([0, 1])
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    found=st.lists(PLACES, max_size=4, unique=True),
    accepted=st.lists(
        st.tuples(PLACES, st.booleans(), st.integers(-2, 2)), max_size=6, unique_by=lambda e: e[:2]
    ),
)
def test_a_finding_is_accepted_by_its_own_entry_alone(
    found: list[tuple[str, int | None, int]],
    accepted: list[tuple[tuple[str, int | None, int], bool, int]],
    report: ScanReport,
) -> None:
    """Same model, rule, victim and target, and the day is not past; every entry is told about."""
    first = report.findings[0]
    findings = tuple(
        replace(first, rule_id=rule, victim_class=victim, target_class=target)
        for rule, victim, target in found
    )
    entries = [
        Entry(report.model.sha256 if own else "0" * 64, *place, "known", TODAY + timedelta(days))
        for place, own, days in accepted
    ]
    applied = apply_baseline([replace(report, findings=findings)], entries, TODAY)
    marked = [finding.accepted is not None for finding in applied.reports[0].findings]
    good = {place for place, own, days in accepted if own and days >= 0}
    assert marked == [place in good for place in found]
    over = [own and days < 0 and place in found for place, own, days in accepted]
    idle = [not own or place not in found for place, own, days in accepted]
    assert set(applied.expired) >= {e for e, gone in zip(entries, over, strict=True) if gone}
    assert set(applied.unused) >= {
        e for e, no, entry in zip(entries, idle, accepted, strict=True) if no and entry[2] >= 0
    }


def test_a_second_baseline_into_the_same_file_adds_to_it(
    report: ScanReport, tmp_path: Path
) -> None:
    """Findings of the first report stay accepted; those accepted anew get the new reason."""
    other = replace(report, model=replace(report.model, sha256="1" * 64))
    for name, one in (("first", report), ("second", other)):
        (tmp_path / name).write_text(to_json(one), encoding="utf-8")
    base, count = tmp_path / "base.json", len(entries_of(tmp_path / "first", "", TODAY))
    for name, reason, told in (
        ("first", "early exit", f"{count} findings accepted\n"),
        ("second", "known", f"{2 * count} findings accepted, {count} of them before\n"),
        ("first", "still known", f"{2 * count} findings accepted, {2 * count} of them before\n"),
    ):
        made = run("baseline", tmp_path / name, "-o", base, "--reason", reason,
                   "--expires", "2999-12-31")  # fmt: skip
        assert made.stdout.endswith(f": {told}"), made.stderr
    held = read_baseline(base).accepted
    assert {one.reason for one in held if one.sha256 == report.model.sha256} == {"still known"}
    assert {one.reason for one in held if one.sha256 == "1" * 64} == {"known"}
    base.write_text("no baseline")
    words = ("--reason", "x", "--expires", "2999-12-31")
    assert run("baseline", tmp_path / "first", "-o", base, *words).returncode == 2
    assert base.read_text() == "no baseline"


@pytest.mark.parametrize("wrong", [("--reason", " "), ("--expires", "2020-01-01")])
def test_wrong_reasons_and_days(wrong: tuple[str, str], tmp_path: Path) -> None:
    usual = {"--reason": "known", "--expires": "2999-01-01"} | dict([wrong])
    words = [word for pair in usual.items() for word in pair]
    done = run("baseline", tmp_path / "r.json", "-o", tmp_path / "b", *words)
    assert done.returncode == 2
    assert wrong[0] in done.stderr


def test_inconclusive_stays_inconclusive(report: ScanReport) -> None:
    (marked,) = apply_baseline([report], accepting(report), TODAY).reports
    assert of_report(replace(marked, verdict="inconclusive"), "high") == 3


@given(st.lists(st.sampled_from([0, 1, 2, 3, 4]), min_size=1))
def test_the_worst_exit_code_wins(codes: list[int]) -> None:
    found = worst(codes)
    assert found in codes
    assert (found == 1) == (1 in codes)
    assert (found == 0) == (set(codes) == {0})
    assert (found == UNSAFE) == (UNSAFE in codes and 1 not in codes)
    assert (found == COULD_NOT_SCAN) == (COULD_NOT_SCAN in codes and not {1, UNSAFE} & set(codes))


def test_the_command_writes_what_scan_reads(model: Path, tmp_path: Path) -> None:
    scanned = run("scan", model, "-q", "-f", f"json={tmp_path / 'r.json'}")
    assert scanned.returncode == 1
    base = tmp_path / "base.json"
    made = run(
        "baseline", tmp_path / "r.json", "-o", base, "--reason", "an early exit \u202e",
        "--expires", "2999-12-31",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert len(read_baseline(base).accepted) == len(json.loads(base.read_text())["accepted"])
    again = run("scan", model, "-q", "--baseline", base)
    assert again.returncode == 0, again.stderr
    assert "accepted until 2999-12-31" in again.stdout
    assert "\u202e" not in again.stdout
    content = json.loads(base.read_text(encoding="utf-8"))
    for entry in content["accepted"]:
        entry["expires"] = "2020-01-01"
    base.write_text(json.dumps(content), encoding="utf-8")
    over = run("scan", model, "-q", "--baseline", base)
    assert over.returncode == 1
    assert "is over" in over.stderr


def test_a_report_of_many_models(report: ScanReport, tmp_path: Path) -> None:
    path = tmp_path / "many.json"
    failure = {"file": "b", "message": "no", "advice": "", "rule_id": None}
    outcomes = [json.loads(to_json(report)), failure]
    path.write_text(json.dumps({"outcomes": outcomes}), encoding="utf-8")
    assert len(entries_of(path, "known", TODAY)) == len(report.findings)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"verdict": 1}', '{"outcomes": [{"verdict": "clean"}]}', '{"outcomes": 3}'],
)
def test_other_files_are_no_reports_and_no_baselines(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BaselineError):
        entries_of(path, "known", TODAY)
    with pytest.raises(BaselineError):
        read_baseline(path)
