"""`onnx-soda fleet`, as users run it: one result for each model, whatever happens meanwhile."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures import boards
from fixtures.lookalikes import LOOKALIKES
from fixtures.sketches import build_sketch
from fixtures.trojans import TROJANS
from onnx_soda._cli.output import of_report, of_worst
from onnx_soda._fleet.engines import LocalEngine
from onnx_soda._fleet.manifest import Entry, read_manifest, shard_of
from onnx_soda._fleet.run import rate, scan_fleet
from onnx_soda._fleet.store import Store
from onnx_soda._options import ScanRequest
from onnx_soda._results import Finding, ScanReport, report_of_file
from onnx_soda._rules import SEVERITIES, WEIGHTY
from tests.cli.helpers import command, complaint, soda

MODELS = {**dict(list(TROJANS.items())[:2]), **dict(list(LOOKALIKES.items())[:2])}
# What differs between two scans of the same model.
CLOCKS = ("timing", "created")
QUIET = ("--quiet", "--threads", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet of four models, of which two have logic that no honest model has, and a table."""
    folder = tmp_path_factory.mktemp("fleet")
    for name, sketch in MODELS.items():
        (folder / f"{name}.onnx").write_bytes(build_sketch(sketch).SerializeToString())
    with (folder / "fleet.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["model", "task"])
        rows.writerows([f"{name}.onnx", "sketch"] for name in MODELS)
    return folder


def status(results: Path) -> dict[str, Any]:
    done = soda("fleet", "status", results, "-f", "json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def outcomes(results: Path) -> dict[str, Any]:
    """Return the report of each model, less what the clock says."""
    lines = results / "all.jsonl"
    assert soda("fleet", "export", results, "-o", lines).returncode == 0
    found = {}
    for line in lines.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        report = {name: value for name, value in row["outcome"].items() if name not in CLOCKS}
        report["environment"].pop("sandbox", None)
        assert row["place"] not in found
        found[Path(row["place"]).name] = report
    return found


def scan(manifest: Path, results: Path, *more: str | int) -> subprocess.CompletedProcess[str]:
    return soda("fleet", "scan", manifest, "-o", results, *QUIET, *more)


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("undisturbed")
    done = scan(folder / "fleet.csv", results, "--jobs", 2)
    assert done.returncode == 1, done.stderr
    return results


def test_all_are_scanned_and_told_the_worst_first(undisturbed: Path) -> None:
    told = status(undisturbed)
    verdicts = [row["verdict"] for row in told["rows"]]
    assert verdicts == ["backdoor", "backdoor", "inconclusive", "inconclusive"]
    assert {row["task"] for row in told["rows"]} == {"sketch"}
    assert {row["attempts"] for row in told["rows"]} == {1}


def test_the_same_command_again_scans_nothing(folder: Path, undisturbed: Path) -> None:
    done = scan(folder / "fleet.csv", undisturbed)
    assert done.returncode == 1
    assert "Scanned now: 0; known before: 4" in done.stdout


def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(
    folder: Path, undisturbed: Path, tmp_path: Path
) -> None:
    asked = ("fleet", "scan", folder / "fleet.csv", "-o", tmp_path, *QUIET)
    run = subprocess.Popen(command(*asked), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while kept(tmp_path) == 0 and time.monotonic() < end:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert 1 <= kept(tmp_path) < len(MODELS)
    again = soda(*asked)
    assert again.returncode == 1, again.stderr
    assert kept(tmp_path) == len(MODELS)
    assert outcomes(tmp_path) == outcomes(undisturbed)


def kept(results: Path) -> int:
    file = results / "fleet.sqlite"
    if not file.is_file():
        return 0
    try:
        with sqlite3.connect(file) as base:
            (count,) = base.execute("SELECT count(*) FROM results").fetchone()
    except sqlite3.OperationalError:  # the tables are not there yet
        return 0
    return int(count)


def test_a_model_that_fails_costs_itself_alone_and_may_be_tried_again(
    folder: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    first = next(iter(MODELS))
    shutil.copy(folder / f"{first}.onnx", models / "good.onnx")
    (models / "bad.onnx").write_bytes(b"no model")
    results = tmp_path / "results"
    assert scan(models, results).returncode == 1
    told = {Path(row["place"]).name: row for row in status(results)["rows"]}
    assert (told["good.onnx"]["verdict"], told["bad.onnx"]["verdict"]) == ("backdoor", "failed")
    scan(models, results, "--retry-failed")
    told = {Path(row["place"]).name: row for row in status(results)["rows"]}
    assert told["bad.onnx"]["attempts"] == 2
    assert told["good.onnx"]["attempts"] == 1
    shown = soda("fleet", "show", results, "bad.onnx")
    assert "cannot be read as ONNX" in shown.stdout


def test_what_failed_is_tried_again_without_the_manifest(folder: Path, tmp_path: Path) -> None:
    """From another folder, with more time; the file can be read by then."""
    (tmp_path / "models").mkdir()
    bad = tmp_path / "models" / "model.onnx"
    bad.write_bytes(b"no model")
    asked = ("fleet", "scan", "models", "-o", "results", "--method", "soda", *QUIET)
    assert soda(*asked, cwd=tmp_path).returncode == 2
    shutil.copy(folder / f"{next(iter(MODELS))}.onnx", bad)
    again = soda("fleet", "retry", tmp_path / "results", "--failed", "--timeout", 1000, "--quiet")
    assert again.returncode == 1, again.stderr
    (row,) = status(tmp_path / "results")["rows"]
    assert (row["place"], row["verdict"]) == ("models/model.onnx", "backdoor")
    with sqlite3.connect(tmp_path / "results" / "fleet.sqlite") as base:
        ((request,),) = base.execute("SELECT request FROM models")
    assert json.loads(request)["options"]["method"] == "soda"


def test_models_that_no_scan_has_reached_are_scanned_by_a_retry_too(
    undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copy(undisturbed / "fleet.sqlite", tmp_path)
    with sqlite3.connect(tmp_path / "fleet.sqlite") as base:
        base.execute("DELETE FROM results WHERE verdict='inconclusive'")
    nothing = soda("fleet", "retry", tmp_path, "--failed", "--quiet")
    assert "Scanned now: 0;" in nothing.stdout
    done = soda("fleet", "retry", tmp_path, *QUIET[:1])
    assert done.returncode == 1
    assert "Scanned now: 2;" in done.stdout
    assert outcomes(tmp_path) == outcomes(undisturbed)


def test_accepted_findings_do_not_fail_the_run(
    folder: Path, undisturbed: Path, tmp_path: Path
) -> None:
    report, baseline = tmp_path / "all.json", tmp_path / "accepted.json"
    assert soda("fleet", "export", undisturbed, "-o", report).returncode == 0
    accept = soda(
        *("baseline", report, "-o", baseline, "--reason", "known", "--expires", "2999-01-01")
    )
    assert accept.returncode == 0, accept.stderr
    asked = ("fleet", "scan", folder / "fleet.csv", "-o", undisturbed, *QUIET)
    assert soda(*asked).returncode == 1
    done = soda(*asked, "--baseline", baseline)
    assert done.returncode == 3  # two models are inconclusive
    assert "accepted" in done.stdout
    sarif = tmp_path / "all.sarif"
    soda("fleet", "export", undisturbed, "--baseline", baseline, "-o", sarif)
    results = json.loads(sarif.read_text(encoding="utf-8"))["runs"][0]["results"]
    assert results
    assert all(one["suppressions"] for one in results)


def test_the_exit_code_is_that_of_the_reports(undisturbed: Path) -> None:
    """It is told from columns of the table; no report is read for it."""
    with Store(undisturbed) as store:
        for row in store.rows():
            report = store.outcome(row.key)
            assert isinstance(report, ScanReport)
            for least in SEVERITIES:
                assert of_worst(row.verdict, row.severity, least) == of_report(report, least)


@given(
    verdict=st.sampled_from(["clean", "backdoor", "inconclusive"]),
    severities=st.lists(st.sampled_from(SEVERITIES), max_size=3),
    least=st.sampled_from(SEVERITIES),
)
def test_the_worst_severity_tells_the_exit_code(
    verdict: Any, severities: list[Any], least: Any
) -> None:
    findings = tuple(Finding("SODA101", one, None, None, None, None, "", "") for one in severities)
    if verdict == "backdoor" and not set(severities) & set(WEIGHTY):
        return  # such a verdict has a finding that says so
    report = report_of_file("a.onnx", "", verdict, (), findings, 0.0)
    report = replace(report, evidence={})
    worst = min(severities, key=SEVERITIES.index, default="")
    assert of_worst(verdict, worst, least) == of_report(report, least)


def test_results_of_another_version_are_told(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copy(undisturbed / "fleet.sqlite", tmp_path)
    with sqlite3.connect(tmp_path / "fleet.sqlite") as base:
        base.execute("PRAGMA user_version=1")
    done = soda("fleet", "status", tmp_path)
    assert done.returncode == 2
    assert "is of another version of onnx-soda" in complaint(done.stderr)


def test_a_run_tells_how_fast_it_goes_and_what_failed(tmp_path: Path) -> None:
    """Files that are missing fail at once, each in its turn."""
    told: list[tuple[str, int, int]] = []
    common = ScanRequest(Path())
    asked = [Entry(tmp_path / f"none-{number}.onnx").asked(common) for number in range(3)]
    with Store(tmp_path / "results") as store:
        scan_fleet(asked, store, LocalEngine(), progress=lambda *step: told.append(step))
    stages = [step for step in told if step[0].startswith("models") and "read" not in step[0]]
    assert stages[0] == ("models", 0, 3)
    assert stages[-1][1:] == (3, 3)
    assert re.fullmatch(r"models; [0-9.]+ a second, 3 failed", stages[-1][0])


@pytest.mark.parametrize(
    ("count", "seconds", "told"),
    [(30, 10, "3.0 a second"), (3, 10, "18 a minute"), (1, 100, "36 an hour")],
)
def test_a_rate_is_told_in_units_that_fit(count: int, seconds: float, told: str) -> None:
    assert rate(count, seconds) == told


def test_shards_together_are_the_fleet(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    parts = [tmp_path / "one", tmp_path / "two"]
    for number, part in enumerate(parts, 1):
        scan(folder / "fleet.csv", part, "--shard", f"{number}/2")
    assert soda("fleet", "merge", tmp_path / "all", *parts).returncode == 0
    assert outcomes(tmp_path / "all") == outcomes(undisturbed)


def test_every_model_is_in_one_shard() -> None:
    entries = [Entry(Path(f"hub/{name}/model.onnx")) for name in range(50)]
    shards = [shard_of(entries, number, 3) for number in (1, 2, 3)]
    assert sorted(one.place for part in shards for one in part) == sorted(
        one.place for one in entries
    )
    assert all(shards)
    moved = [Entry(Path(f"/mnt/{name}/model.onnx")) for name in range(50)]
    assert [one.model.parent.name for one in shard_of(moved, 1, 3)] == [
        one.model.parent.name for one in shards[0]
    ]


def test_a_report_is_shown_in_any_form(undisturbed: Path) -> None:
    name = f"{next(iter(MODELS))}.onnx"
    shown = soda("fleet", "show", undisturbed, name, "-f", "sarif")
    assert json.loads(shown.stdout)["version"] == "2.1.0"


@pytest.mark.parametrize("form", ["json", "sarif", "markdown", "junit", "jsonl"])
def test_all_results_are_exported(undisturbed: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    done = soda("fleet", "export", undisturbed, "-f", form, "-o", out)
    assert done.returncode == 0, done.stderr
    text = out.read_text(encoding="utf-8")
    assert all(f"{name}.onnx" in text.replace("\\", "") for name in MODELS)


def test_parquet_has_a_row_for_each(undisturbed: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out.parquet"
    assert soda("fleet", "export", undisturbed, "-f", "parquet", "-o", out).returncode == 0
    table = parquet.read_table(out).to_pydict()
    assert sorted(table["verdict"]) == ["backdoor", "backdoor", "inconclusive", "inconclusive"]


@pytest.mark.parametrize("packed", [b"no zlib", zlib.compress(b"no JSON"), zlib.compress(b"{}"), 7])
def test_a_result_that_was_changed_is_told(
    undisturbed: Path, tmp_path: Path, packed: bytes | int
) -> None:
    shutil.copy(undisturbed / "fleet.sqlite", tmp_path)
    with sqlite3.connect(tmp_path / "fleet.sqlite") as base:
        base.execute("UPDATE results SET outcome=?", (packed,))
    done = soda("fleet", "show", tmp_path, f"{next(iter(MODELS))}.onnx")
    assert done.returncode == 2
    assert "holds something that is no result" in complaint(done.stderr)


TABLES = {
    "fleet.csv": "model,data,method\na.onnx,clean.h5,soda\nb.onnx,,\n",
    "fleet.jsonl": (
        '{"model": "a.onnx", "data": "clean.h5", "method": "soda"}\n\n{"model": "b.onnx"}\n'
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_in_every_form(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8")
    assert read_manifest(str(tmp_path / name)) == (
        Entry(tmp_path / "a.onnx", tmp_path / "clean.h5", options={"method": "soda"}),
        Entry(tmp_path / "b.onnx"),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model,methode\na.onnx,soda\n", "column 'methode'"),
        ("data\nclean.h5\n", "row 1 of fleet.csv names no model"),
        ("model\n", "names no model"),
        ("model,budget\na.onnx,huge\n", "budget is none of"),
        ("model,method\na.onnx,nothing\n", "row 1 of fleet.csv: the detector 'nothing'"),
    ],
)
def test_what_is_wrong_in_a_table_is_told(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_text(text, encoding="utf-8")
    done = scan(tmp_path / "fleet.csv", tmp_path / "results")
    assert done.returncode == 2
    assert told in complaint(done.stderr)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_a_shard_that_is_none_is_told(shard: str, folder: Path, tmp_path: Path) -> None:
    done = scan(folder / "fleet.csv", tmp_path, "--shard", shard)
    assert done.returncode == 2
    assert "1/N to N/N" in done.stderr


def test_a_folder_without_results_is_told(tmp_path: Path) -> None:
    done = soda("fleet", "status", tmp_path)
    assert done.returncode == 2
    assert "holds no results of a fleet" in complaint(done.stderr)
    (tmp_path / "fleet.sqlite").write_bytes(b"something else, long enough to be no database")
    done = soda("fleet", "status", tmp_path)
    assert done.returncode == 2
    assert "cannot be opened" in complaint(done.stderr)


def test_models_of_one_task_are_compared_with_each_other(tmp_path: Path) -> None:
    """A net with a backdoor from 1 to 3, and three files of one that has none."""
    model, clean_net, images, _ = boards.write(tmp_path)
    for number in range(3):
        shutil.copy(clean_net, tmp_path / f"other-{number}.onnx")
    table = tmp_path / "fleet.csv"
    names = [model.name, *(f"other-{number}.onnx" for number in range(3))]
    rows = "".join(f"{name},{images.name},boards\n" for name in names)
    table.write_text(f"model,data,task\n{rows}", encoding="utf-8")
    asked = ("fleet", "consensus", table, "-o", tmp_path / "results", *QUIET)
    done = soda(*asked, "-f", "json")
    assert done.returncode == 1, done.stderr
    (task,) = json.loads(done.stdout)
    first, *rest = task["odd"]
    assert (Path(first["name"]).name, first["pair"]) == (model.name, [1, 3])
    assert first["beyond"] > task["threshold"] > max(one["beyond"] for one in rest)
    assert "1 -> 3" in soda(*asked).stdout
