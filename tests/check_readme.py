"""What README shows is what the program prints, and its links lead to files.

`make check-readme` runs it, `make test` does not: it scans the bundled model, a minute or two.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEMO = re.search(r"```console\n\$ make demo\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^    onnx-soda (\w+) ([^\n]*)$", README, re.MULTILINE)
PROGRAM = Path(sys.executable).with_name("onnx-soda")


def printed(*arguments: str | Path, width: int = 120) -> str:
    done = subprocess.run(
        [PROGRAM, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": str(width), "TERM": "dumb"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def words(text: str) -> list[str]:
    """The words without their digits: figures differ a little from machine to machine."""
    return re.sub(r"\d+(\.\d+)?", "#", text).split()


def test_the_output_shown_is_that_of_the_demo() -> None:
    assert DEMO is not None
    recipe = re.search(r"^demo:.*\n\t@\$\(BIN\)/onnx-soda (.*)$", makefile(), re.MULTILINE)
    assert recipe is not None
    real = printed(*recipe[1].replace("$(FIXTURES)", "fixtures").split())
    assert real.startswith("digits-backdoored.onnx: BACKDOOR\n  8 -> 3\n")
    told = " ".join(words(real))
    # "..." stands for what is left out. The rest is there, in this order.
    for part in DEMO[1].split("...\n"):
        before, found, told = told.partition(" ".join(words(part)))
        assert found, f"not printed by the demo after {before[:80]!r}: {part}"


def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize(("command", "rest"), COMMANDS)
def test_the_options_shown_exist(command: str, rest: str) -> None:
    shown = re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)
    assert shown
    told = printed(command, "--help")
    for option in shown:
        assert re.search(rf"(?<!\S){option}(?![\w-])", told), option


def test_links_lead_to_files() -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", README) if "://" not in link]
    assert len(links) > 20
    for link in links:
        assert (ROOT / link).exists(), link


def test_readme_is_short() -> None:
    """Six to eight kilobytes: what the tool is, how to try it, how far to trust it."""
    assert 6000 <= len(README.encode()) <= 8000
