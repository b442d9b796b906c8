"""SARIF, JUnit, Markdown and CycloneDX: what their readers ask for, and nothing that runs there."""

from __future__ import annotations

import json
import pickle
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import junitparser
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from fixtures.sketches import build_sketch
from fixtures.trojans import TROJANS
from onnx_soda import scan_file
from onnx_soda._report.bom import to_bom
from onnx_soda._report.formats import FORMATS
from onnx_soda._report.junit import to_junit
from onnx_soda._report.markdown import to_markdown
from onnx_soda._report.sarif import to_sarif
from onnx_soda._results import ScanFailure, ScanReport
from onnx_soda._rules import RULES
from tests.report.helpers import check_github, run

REFUSED = ScanFailure("big.onnx", "the file declares 4 TB", "Do not open it.", "SODA302")
BROKEN = ScanFailure("b.onnx", "it is cut short", "Download it again.", None)


@pytest.fixture(scope="module")
def trojan(tmp_path_factory: pytest.TempPathFactory) -> ScanReport:
    """The scan of a graph that answers 7 where the image is red: findings without any images."""
    path = tmp_path_factory.mktemp("trojan") / "trojan.onnx"
    path.write_bytes(build_sketch(TROJANS["colour_sum_where"]).SerializeToString())
    return scan_file(path)


def test_sarif_of_findings_failures_and_refusals(trojan: ScanReport) -> None:
    document = json.loads(to_sarif([trojan, REFUSED, BROKEN], ["a b/t#1.onnx", "/abs", "../up"]))
    check_github(document)
    (one,) = document["runs"]
    results = one["results"]
    assert {result["ruleId"] for result in results} >= {"SODA202", "SODA302"}
    first = results[0]
    assert first["level"] == "error"
    location = first["locations"][0]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "a%20b/t%231.onnx"
    assert location["logicalLocations"][0]["fullyQualifiedName"]
    uris = [artifact["location"]["uri"] for artifact in one["artifacts"]]
    assert uris == ["a%20b/t%231.onnx", "abs", "up"]
    assert one["artifacts"][0]["hashes"] == {"sha-256": trojan.model.sha256}
    assert one["invocations"][0]["executionSuccessful"] is False
    said = [note["message"]["text"] for note in one["invocations"][0]["toolExecutionNotifications"]]
    assert any("it is cut short" in text for text in said)


def test_fingerprints_stay_as_long_as_the_finding_does(trojan: ScanReport) -> None:
    def prints(report: ScanReport) -> list[str]:
        results = json.loads(to_sarif([report]))["runs"][0]["results"]
        return [result["partialFingerprints"]["primaryLocationLineHash"] for result in results]

    before = prints(trojan)
    assert len(set(before)) == len(before)
    reworded = tuple(replace(finding, message="other words") for finding in trojan.findings)
    assert prints(replace(trojan, findings=reworded)) == before
    other = replace(trojan, model=replace(trojan.model, sha256="0" * 64))
    assert not set(prints(other)) & set(before)


def test_junit(trojan: ScanReport, tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(to_junit([trojan, REFUSED], ["a/m.onnx", "b/m.onnx"]), encoding="utf-8")
    suites = list(junitparser.JUnitXml.fromfile(str(path)))
    assert [suite.name for suite in suites] == ["a/m.onnx", "b/m.onnx"]
    cases = {case.name: case for case in suites[0]}
    assert isinstance(cases["graph logic"].result[0], junitparser.Failure)
    # Without clean images the behaviour was not examined: no pass.
    assert isinstance(cases["behaviour"].result[0], junitparser.Skipped)
    assert cases["file safety"].is_passed
    (case,) = suites[1]
    assert isinstance(case.result[0], junitparser.Error)
    assert case.result[0].type == "SODA302"


def test_junit_fails_where_the_exit_code_does(trojan: ScanReport) -> None:
    milder = tuple(replace(finding, severity="medium") for finding in trojan.findings)
    report = replace(trojan, findings=milder)
    failures = {
        grave: ET.fromstring(to_junit([report], ["m.onnx"], grave)).get("failures")
        for grave in ("high", "medium")
    }
    assert failures == {"high": "0", "medium": "1"}


def test_bill_of_materials(trojan: ScanReport) -> None:
    text = to_bom([trojan, BROKEN])
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    (component,) = json.loads(text)["components"]
    assert component["type"] == "machine-learning-model"
    assert component["hashes"] == [{"alg": "SHA-256", "content": trojan.model.sha256}]
    metrics = component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "onnx-soda verdict", "value": trojan.verdict} in metrics
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(to_bom([BROKEN])) is None


def test_markdown_has_a_row_for_each_model(trojan: ScanReport) -> None:
    text = to_markdown([trojan, REFUSED], ["a/m.onnx", "b/m.onnx"])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert [row.split("|")[1].strip() for row in rows[2:]] == [r"a/m\.onnx", r"b/m\.onnx"]
    assert "backdoor" in rows[2]
    assert "SODA302" in rows[3]
    assert f"`{trojan.model.sha256}`" in text


def test_several_formats_in_one_run(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(build_sketch(TROJANS["plain_if"]).SerializeToString())
    done = run(
        "scan", model, "-q", "-f", "json", "-f", f"sarif={tmp_path / 's'}",
        "-f", f"junit={tmp_path / 'j'}",
    )  # fmt: skip
    assert done.returncode == 1
    assert json.loads(done.stdout)["verdict"] == "backdoor"
    check_github(json.loads((tmp_path / "s").read_text(encoding="utf-8")))
    assert ET.parse(tmp_path / "j").getroot().get("failures") == "1"


def test_a_model_that_cannot_be_scanned_has_reports_too(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    files = {form: tmp_path / form for form in ("sarif", "markdown", "junit", "html")}
    formats = [word for form, file in files.items() for word in ("-f", f"{form}={file}")]
    done = run("scan", tmp_path / "m.onnx", "-q", *formats)
    assert done.returncode == 2
    document = json.loads(files["sarif"].read_text(encoding="utf-8"))
    check_github(document)
    assert document["runs"][0]["invocations"][0]["executionSuccessful"] is False
    assert ET.parse(files["junit"]).getroot().get("errors") == "1"
    assert "could not scan" in files["markdown"].read_text(encoding="utf-8")
    assert not files["html"].exists()


def test_an_unsafe_file_has_a_report_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(pickle.dumps([1]))
    files = {form: tmp_path / form for form in FORMATS.names}
    formats = [word for form, file in files.items() for word in ("-f", f"{form}={file}")]
    done = run("scan", tmp_path / "m.onnx", "-q", *formats)
    assert (done.returncode, done.stderr) == (4, "")
    told = {form: file.read_text(encoding="utf-8") for form, file in files.items()}
    sarif = json.loads(told["sarif"])
    check_github(sarif)
    (result,) = sarif["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("SODA307", "error")
    suites = ET.parse(files["junit"]).getroot()
    assert [suites.get(name) for name in ("failures", "skipped", "errors")] == ["1", "2", "0"]
    assert json.loads(told["json"])["verdict"] == "unsafe"
    assert "**unsafe**" in told["markdown"]
    assert "m.onnx: UNSAFE" in told["text"]
    assert "<strong>unsafe</strong>" in told["html"]
    assert "SODA307" in told["html"]
    assert '"value": "unsafe"' in told["bom"]


def test_an_unsafe_file_is_in_the_table_of_many(tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(pickle.dumps([1]))
    (tmp_path / "junk.onnx").write_bytes(b"no model")
    done = run("scan", tmp_path, "-q", "--no-cache")
    assert done.returncode == 4, "before 2, that of the file that is no model"
    row = next(line for line in done.stdout.splitlines() if "bad.pt" in line)
    assert "unsafe" in row
    assert "SODA307" in row


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-f", "nope"], "none of text"),
        (["-f", "sarif="], "names no file"),
        (["-f", "json", "-f", "text"], "stdout"),
        (["-f", "json=x", "-f", "text=x"], "one file"),
        (["-f", "json=x", "-o", "y"], "--output"),
        (["-f", "json=/no/such/folder/x"], "does not exist"),
    ],
)
def test_wrong_formats(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = run("scan", tmp_path / "m.onnx", *arguments)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_every_rule_has_a_place_in_sarif() -> None:
    rules = json.loads(to_sarif([]))["runs"][0]["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(RULES)
