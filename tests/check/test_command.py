"""`onnx-soda check`: exit codes, report forms, accepted findings, and what it does not wait for."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from onnx_soda import check_files
from onnx_soda._report.formats import FORMATS
from tests.check.samples import MODEL, evil, zipped
from tests.cli.helpers import CLEAN_MODEL, complaint, soda
from tests.cli.test_batch import batch_validator
from tests.report.helpers import check_github

UNKNOWN = b"\x80\x02c__main__\nNetwork\n)\x81}b."
FILES = {
    "good.onnx": MODEL,
    "weights.pkl": pickle.dumps([1, 2]),
    "own.pkl": UNKNOWN,
    "bad.zip": zipped({"data.bin": evil()}),
    "cut.onnx": MODEL[:50],
    "readme.txt": b"Hello.",
    "page.html": b"<html>",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "models"
    place.mkdir()
    for name, content in FILES.items():
        (place / name).write_bytes(content)
    return place


def test_each_kind_of_file_has_its_exit_code(folder: Path) -> None:
    codes = {"good.onnx": 0, "weights.pkl": 0, "own.pkl": 3, "bad.zip": 4, "cut.onnx": 2}
    for name, code in codes.items():
        done = soda("check", folder / name)
        assert done.returncode == code, done.stderr
        if code != 2:
            assert done.stderr == ""
            words = " ".join(done.stdout.split())
            assert "does not look for backdoors" in words
            assert "clean" not in words.lower()


def test_a_folder_is_a_table_with_what_was_skipped(folder: Path) -> None:
    done = soda("check", "models", cwd=folder.parent)
    assert done.returncode == 4, "the worst, in the order 1, 4, 2, 3, 0"
    words = " ".join(done.stdout.split())
    assert "No finding in 2 of 5 files." in words
    assert "2 files skipped:" in words
    assert "readme.txt" in words
    assert "page.html (a web page)" in words
    row = next(line for line in done.stdout.splitlines() if "bad.zip" in line)
    assert "unsafe" in row
    (folder / "bad.zip").unlink()
    assert soda("check", "models", cwd=folder.parent).returncode == 2
    (folder / "cut.onnx").unlink()
    assert soda("check", "models", cwd=folder.parent).returncode == 3
    assert soda("check", "models", "--fail-on", "medium", cwd=folder.parent).returncode == 1
    assert soda("check", "models", "--exit-zero", cwd=folder.parent).returncode == 0


def test_where_nothing_is_of_a_known_kind_nothing_is_said_to_be_fine(folder: Path) -> None:
    for arguments in ((folder / "readme.txt",), (folder / "readme.txt", folder / "page.html")):
        done = soda("check", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "nothing was looked at" in complaint(done.stderr)
        assert "readme.txt" in done.stderr
    missing = soda("check", folder / "missing.pt")
    assert missing.returncode == 2
    assert "missing.pt does not exist" in complaint(missing.stderr)


def test_every_form_tells_of_unsafe_and_skipped_files(folder: Path, tmp_path: Path) -> None:
    forms = {form: tmp_path / form for form in FORMATS.names if form != "html"}
    formats = [word for form, file in forms.items() for word in ("-f", f"{form}={file}")]
    done = soda("check", folder, *formats)
    assert (done.returncode, done.stdout) == (4, "")
    told = {form: file.read_text(encoding="utf-8") for form, file in forms.items()}
    found = json.loads(told["json"])
    batch_validator().validate(found)
    assert found["summary"] == {"no finding": 2, "inconclusive": 1, "unsafe": 1, "failed": 1}
    assert sorted(Path(place.split(" ")[0]).name for place in found["skipped"]) == [
        "page.html", "readme.txt",
    ]  # fmt: skip
    bad = next(one for one in found["outcomes"] if one.get("verdict") == "unsafe")
    assert bad["findings"][0]["location"] == ["data.bin"]
    assert bad["environment"]["sandbox"]["active"] is True
    sarif = json.loads(told["sarif"])
    levels = [result["level"] for result in sarif["runs"][0]["results"]]
    assert sorted(levels) == ["error", "note", "warning"]
    suites = ET.fromstring(told["junit"])
    assert (suites.get("failures"), suites.get("errors")) == ("1", "1")
    for form in ("text", "markdown"):
        assert "2 files skipped" in " ".join(told[form].split())
    assert "2 files skipped" in told["sarif"]


def test_one_file_has_a_page_and_fits_githubs_rules(folder: Path, tmp_path: Path) -> None:
    page, sarif = tmp_path / "page", tmp_path / "sarif"
    done = soda("check", folder / "good.onnx", "-f", f"html={page}", "-f", f"sarif={sarif}")
    assert done.returncode == 0, done.stderr
    assert "Nothing in the file is known to be dangerous" in page.read_text(encoding="utf-8")
    check_github(json.loads(sarif.read_text(encoding="utf-8")))


def test_accepted_findings_do_not_count(folder: Path, tmp_path: Path) -> None:
    for name in ("bad.zip", "own.pkl"):
        report, accepted = tmp_path / f"{name}.json", tmp_path / f"{name}.accepted"
        soda("check", folder / name, "-f", "json", "-o", report)
        made = soda("baseline", report, "-o", accepted, "--reason", "known", "--expires",
                    "2999-01-01")  # fmt: skip
        assert made.returncode == 0, made.stderr
        done = soda("check", folder / name, "--baseline", accepted)
        assert done.returncode == 0
        assert "accepted" in done.stdout
    other = soda("check", folder / "bad.zip", "--baseline", tmp_path / "own.pkl.accepted")
    assert other.returncode == 4


def test_it_waits_for_no_runtime_and_no_framework() -> None:
    """Neither in the caller's process nor where the file is opened."""
    program = (
        "import sys\n"
        "from onnx_soda import check_files\n"
        "import onnx_soda._cli.check\n"
        f"(look,) = check_files([{str(CLEAN_MODEL)!r}], limits=None)\n"
        "assert look.report.verdict == 'no finding', look\n"
        "print(sorted({'torch', 'onnxruntime', 'onnx_ir', 'keras', 'h5py'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_each_file_has_a_report_of_its_own_from_python(folder: Path) -> None:
    looks = check_files([folder / name for name in FILES])
    kinds = [
        look.report.verdict if look.report else "failed" if look.failure else "skipped"
        for look in looks
    ]
    assert kinds == [
        "no finding", "no finding", "inconclusive", "unsafe", "failed", "skipped", "skipped",
    ]  # fmt: skip


def test_a_scan_of_a_folder_counts_what_it_skips(folder: Path) -> None:
    done = soda("scan", folder, "-q", "--no-cache", "-f", "json")
    found = json.loads(done.stdout)
    batch_validator().validate(found)
    skipped = sorted(Path(place).name for place in found["skipped"])
    assert skipped == ["bad.zip", "own.pkl", "page.html", "readme.txt", "weights.pkl"]
    table = soda("scan", folder, "-q", "--no-cache")
    assert "5 files skipped:" in " ".join(table.stdout.split())
