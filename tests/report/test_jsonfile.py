"""The JSON report: its schema is the dataclasses', and a file is written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import stat
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from onnx_soda._data.preprocessing import PRESETS
from onnx_soda._errors import OutputError, RepairError
from onnx_soda._numbers import (
    BaselineNumbers,
    ConceptNumbers,
    FileNumbers,
    LogicNumbers,
    OpinionNumbers,
    PatchNumbers,
    SodaNumbers,
)
from onnx_soda._report.json import read_report, report_as_dict, report_schema, to_json
from onnx_soda._results import (
    SCHEMA_VERSION,
    Coverage,
    Environment,
    Evidence,
    InputInfo,
    ModelInfo,
    ScanReport,
    ToolInfo,
)
from onnx_soda._system import check_writable, write_text

REPORT = ScanReport(
    schema_version=SCHEMA_VERSION,
    tool=ToolInfo("onnx-soda", "0"),
    model=ModelInfo(
        file="m.onnx",
        sha256="0" * 64,
        external_data=(),
        opset=17,
        ir_version=8,
        producer="",
        parameters=0,
        input=InputInfo("x", ("N", None, 2, 2), "float32", "NCHW"),
        logits="y",
        penultimate="h",
    ),
    dataset=None,
    method="concepts",
    verdict="inconclusive",
    reasons=("Nothing was examined: größer \x1b.",),
    findings=(),
    evidence={"concepts": Evidence("concepts", "Interventions", "inconclusive")},
    coverage=Coverage(0, 0),
    environment=Environment({}, ("CPUExecutionProvider",), 0, 1),
    timing={"total": 0.0},
)

# --- the schema


def followed(schema: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference."""
    while "$ref" in schema:
        schema = report_schema()["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    return schema


def takes_null(schema: dict[str, Any]) -> bool:
    schema = followed(schema)
    return {"type": "null"} in schema.get("anyOf", ()) or "null" in schema.get("type", ())


def solid(schema: dict[str, Any]) -> dict[str, Any]:
    """Choose what is not null."""
    schema = followed(schema)
    (found,) = (o for o in schema.get("anyOf", [schema]) if o != {"type": "null"})
    return followed(found)


def parts(
    kind: Any, schema: dict[str, Any], where: str
) -> Iterator[tuple[str, type, dict[str, Any]]]:
    """Yield each dataclass of the report with its part of the schema."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        yield where, kind, solid(schema)
        for name, inner in typing.get_type_hints(kind).items():
            field = solid(schema)["properties"].get(name, {})
            yield from parts(inner, field, f"{where}.{name}")
    elif origin is tuple:
        yield from parts(arguments[0], solid(schema)["items"], f"{where}[]")
    elif origin is Mapping and dataclasses.is_dataclass(arguments[1]):
        (inner,) = solid(schema)["patternProperties"].values()
        yield from parts(arguments[1], inner, f"{where}.*")
    elif origin in (types.UnionType, typing.Union):
        assert takes_null(schema) == (type(None) in arguments), where
        yield from parts(arguments[0], schema, where)


NUMBERS = {
    "soda": SodaNumbers,
    "concepts": ConceptNumbers,
    "second-opinion": OpinionNumbers,
    "graph-logic": LogicNumbers,
    "patches": PatchNumbers,
    "files": FileNumbers,
}
BASELINES: tuple[str, ...] = (
    "leave-one-out", "subsample", "head-qp", "freeeagle", "neural-cleanse", "k-arm", "ex-ray",
)  # fmt: skip
NUMBERS |= dict.fromkeys(BASELINES, BaselineNumbers)
PARTS = {where: (kind, schema) for where, kind, schema in parts(ScanReport, report_schema(), "")}
for name, numbers in NUMBERS.items():
    seen = report_schema()["properties"]["evidence"]["properties"][name]["properties"]["numbers"]
    own, nothing = seen["anyOf"]
    assert nothing == {"const": {}}
    PARTS |= {where: (kind, schema) for where, kind, schema in parts(numbers, own, name)}


def test_every_dataclass_of_the_report_is_looked_at() -> None:
    baselines = {where for name in BASELINES for where in (name, f"{name}.named[]")}
    assert set(PARTS) == baselines | {
        "", ".tool", ".model", ".model.external_data[]", ".model.input", ".dataset",
        ".findings[]", ".findings[].accepted", ".coverage", ".environment", ".environment.sandbox",
        ".evidence.*", ".evidence.*.findings[]", ".evidence.*.findings[].accepted",
        ".evidence.*.tables[]", ".evidence.*.tables[].columns[]", ".evidence.*.charts[]",
        ".evidence.*.galleries[]", ".evidence.*.galleries[].pictures[]",
        ".evidence.*.drawings[]", ".evidence.*.drawings[].boxes[]",
        "soda", "soda.estimate",
        "graph-logic", "graph-logic.decisions", "graph-logic.decisions.shown[]",
        "patches", "patches.patches[]",
        "files", "files.decisions.*", "files.decisions.*.shown[]",
        "concepts", "concepts.pairs[]", "concepts.pairs[].concepts[]",
        "concepts.pairs[].concepts[].effects[]", "concepts.pairs[].concepts[].place",
        "concepts.covered", "concepts.covered.parts[]",
        "second-opinion", "second-opinion.pairs[]", "second-opinion.pairs[].grades[]",
        "second-opinion.pairs[].look", "second-opinion.pairs[].look.concepts[]",
        "second-opinion.pairs[].look.concepts[].effects[]",
        "second-opinion.pairs[].look.concepts[].place", "second-opinion.references[]",
    }  # fmt: skip


@pytest.mark.parametrize("where", PARTS)
def test_the_schema_has_the_fields_of_the_dataclass_and_no_others(where: str) -> None:
    kind, schema = PARTS[where]
    fields = [field.name for field in dataclasses.fields(kind)]
    assert list(schema["properties"]) == fields
    assert schema["required"] == fields
    assert schema["additionalProperties"] is False


def test_the_schema_has_the_fields_of_a_preprocessing() -> None:
    schema = report_schema()["$defs"]["preprocessing"]
    fields = [*PRESETS["unit"].as_dict(), "inferred"]
    assert schema["required"] == fields
    assert list(schema["properties"]) == [*fields, "trial", "size_trial"]


def test_the_schema_is_of_this_version() -> None:
    assert report_schema()["properties"]["schema_version"] == {"const": SCHEMA_VERSION}
    assert f"-{SCHEMA_VERSION}." in report_schema()["$id"]


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "perhaps"},
        {"schema_version": "0.9"},
        {"more": 1},
        {"timing": {}},
        {"coverage": {"classes": -1, "samples": 0}},
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(report_schema())
    assert validator.is_valid(report_as_dict(REPORT))
    assert not validator.is_valid({**report_as_dict(REPORT), **change})


def test_a_report_of_another_schema_is_told(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    for version, words in (
        ("1.0", "has schema version 1.0; this release reads"),
        ("\x1b[31m", "has schema version"),
    ):
        path.write_text(json.dumps({"schema_version": version, "verdict": "clean"}))
        with pytest.raises(RepairError, match=re.escape(words)) as told:
            read_report(path)
        assert "Scan the model again" in told.value.advice
        assert "\x1b" not in told.value.message


def test_what_a_later_minor_version_adds_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    major = SCHEMA_VERSION.partition(".")[0]
    later = {**report_as_dict(REPORT), "schema_version": f"{major}.99", "more": 1}
    path.write_text(json.dumps(later))
    assert read_report(path).verdict == REPORT.verdict


def test_json_is_plain_ascii_and_ends_in_a_newline() -> None:
    text = to_json(REPORT)
    assert text.isascii()
    assert text.endswith("}\n")
    assert json.loads(text)["reasons"] == list(REPORT.reasons)


def test_json_has_no_numbers_that_json_does_not_know() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(dataclasses.replace(REPORT, timing={"total": float("nan")}))


# --- files


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_file_has_the_permissions_that_the_umask_leaves(
    mask: int, mode: int, tmp_path: Path
) -> None:
    with umask(mask):
        write_text(tmp_path / "report", "text\n")
        assert os.umask(mask) == mask, "left as it was"
    assert stat.S_IMODE((tmp_path / "report").stat().st_mode) == mode
    assert (tmp_path / "report").read_text() == "text\n"


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("older and longer")
    write_text(tmp_path / "report", "text ü\n")
    assert (tmp_path / "report").read_text(encoding="utf-8") == "text ü\n"
    assert os.listdir(tmp_path) == ["report"]  # noqa: PTH208


def test_behind_a_link_the_file_is_replaced_and_the_link_kept(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("older")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "newer")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "newer"


@pytest.mark.parametrize(
    ("name", "words"), [("folder", "folder"), ("missing/report", "report"), ("x" * 300, "xxx")]
)
def test_where_nothing_can_be_written_nothing_is(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=f"{words}.* cannot be written") as caught:
        write_text(tmp_path / name, "text")
    assert caught.value.advice
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on the size of files")
def test_a_disk_that_fills_up_leaves_the_older_file(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "report"
    path.write_text("older")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="report cannot be written: File too large"):
            write_text(path, "x" * 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "words"), [("folder", "is a folder"), ("missing/report", "does not exist")]
)
def test_a_place_is_checked_before_the_work(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=words) as caught:
        check_writable(tmp_path / name)
    assert caught.value.advice
    check_writable(tmp_path / "report")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    for attempt in (check_writable, lambda path: write_text(path, "text")):
        with pytest.raises(OutputError, match=r"writable|cannot be written"):
            attempt(tmp_path / "report")
    assert list(tmp_path.iterdir()) == []
    tmp_path.chmod(0o755)
