"""What runs scans elsewhere: GitHub, GitLab, pre-commit, containers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def action() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-actions", "action.yml"),
        ("vendor.github-workflows", "examples/github-workflow.yml"),
        ("vendor.gitlab-ci", "examples/gitlab-ci.yml"),
    ],
)
def test_files_are_of_the_form_that_their_readers_publish(schema: str, file: str) -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", schema, ROOT / file]
    if schema == "vendor.gitlab-ci":
        command += ["--data-transform", "gitlab-ci"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_pre_commit_accepts_the_hook() -> None:
    done = subprocess.run(
        [BIN / "pre-commit", "validate-manifest", ROOT / ".pre-commit-hooks.yaml"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "file", ["action.yml", ".pre-commit-hooks.yaml", "examples/gitlab-ci.yml", "Dockerfile"]
)
def test_options_named_there_exist(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    said = " ".join(re.findall(r"onnx-soda\"? scan[^\n]*(?:\\\n[^\n]*)*", text))
    named = set(re.findall(r"--[a-z-]+", said))
    help_text = subprocess.run(
        [sys.executable, "-m", "onnx_soda", "scan", "--help"], capture_output=True, text=True
    ).stdout
    assert named
    assert [option for option in named if option not in help_text] == []


def test_the_container_copies_what_is_there() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    sources = {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    assert {"onnx_soda", "cli", "converters", "docs"} <= sources
    assert [name for name in sources if not (ROOT / name).exists()] == []
    assert lines.count("USER scanner") == 2


def scan_step(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script of the action's scan step as the runner does."""
    (folder / "onnx-soda" / "bin").mkdir(parents=True)
    (folder / "onnx-soda" / "bin" / "onnx-soda").symlink_to(BIN / "onnx-soda")
    (script,) = [step["run"] for step in action()["runs"]["steps"] if step.get("id") == "scan"]
    usual = {"DATA": "", "ARGUMENTS": "--quiet", "FAIL_ON": "high", "SARIF": "found.sarif"}
    paths = {"RUNNER_TEMP": str(folder), "GITHUB_OUTPUT": str(folder / "output")}
    return subprocess.run(
        [shutil.which("bash") or "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder, env={**os.environ, **usual, **paths, **environment},
        capture_output=True, text=True,
    )  # fmt: skip


def test_the_scan_step_reports_its_exit_code_and_writes_sarif(tmp_path: Path) -> None:
    model = ROOT / "fixtures" / "digits-clean.onnx"
    done = scan_step(tmp_path, MODEL=str(model))
    # Without clean images: inconclusive.
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "output").read_text(encoding="utf-8") == "exit-code=3\n"
    assert "runs" in (tmp_path / "found.sarif").read_text(encoding="utf-8")


def test_inputs_of_the_action_are_never_run(tmp_path: Path) -> None:
    evil = '"; touch ran; echo "$(touch ran)`touch ran`'
    done = scan_step(tmp_path, MODEL=evil, DATA=evil, ARGUMENTS=evil, FAIL_ON=evil, SARIF=evil)
    assert done.returncode == 2
    assert not (tmp_path / "ran").exists()
    # No expression of the workflow language stands inside a script.
    scripts = [step["run"] for step in action()["runs"]["steps"] if "run" in step]
    assert len(scripts) == 2
    assert not any("${{" in script for script in scripts)
