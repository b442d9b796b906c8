"""Runs the real command, and checks SARIF as GitHub does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema

SARIF_SCHEMA = json.loads(
    (Path(__file__).parent / "schemas" / "sarif-2.1.0-rtm.5.json").read_text(encoding="utf-8")
)


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onnx_soda", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def check_github(document: dict[str, Any]) -> None:
    """What GitHub code scanning asks for beyond the standard; one miss refuses the whole file."""
    jsonschema.Draft4Validator(SARIF_SCHEMA).validate(document)
    assert document["$schema"].endswith("sarif-schema-2.1.0.json")
    assert document["version"] == "2.1.0"
    (one,) = document["runs"]
    assert one["automationDetails"]["id"].endswith("/")
    driver = one["tool"]["driver"]
    assert driver["name"]
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(set(ids)) == len(ids)
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"]
        assert rule["fullDescription"]["text"]
        assert rule["help"]["text"]
        assert 0 <= float(rule["properties"]["security-severity"]) <= 10
    for result in one["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["message"]["text"]
        assert result["partialFingerprints"]["primaryLocationLineHash"]
        assert "logicalLocations" not in result
        assert result["locations"]
        for location in result["locations"]:
            physical = location["physicalLocation"]
            assert physical["region"]["startLine"] == 1
            uri = physical["artifactLocation"]["uri"]
            assert re.fullmatch(r"[\w.~%/-]+", uri)
            assert not uri.startswith("/")
            assert ".." not in uri.split("/")
