"""What README shows is what the program prints. Run by `make check-readme`.

Not one of the tests of `make test`: the layout of the help is Typer's, and changes with it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
# ```console\n$ onnx-soda scan --help\n...``` blocks.
BLOCKS = re.findall(
    r"```console\n\$ onnx-soda ([^\n]*--help)\n(.*?)```", README.read_text(), re.DOTALL
)


def test_readme_shows_the_help_of_each_command() -> None:
    names = [
        "scan",
        "repair",
        "diff",
        "inspect",
        "rules",
        "explain",
        "convert",
        "baseline",
        "cache",
        "doctor",
    ]
    commands = [f"{name} --help" for name in names]
    assert [command for command, _ in BLOCKS] == commands


@pytest.mark.parametrize(("command", "shown"), BLOCKS)
def test_the_help_shown_is_the_real_one(command: str, shown: str) -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("onnx-soda"), *command.split()],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80", "TERM": "dumb"},
    )
    assert result.stdout.strip() == shown.strip()
