"""How the code is cut, and what is public: docs/architecture.md and docs/api.md promise it."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import onnx_soda
from benchmarks.structure import arrows, measure
from onnx_soda._cli import options
from onnx_soda._cli.app import COMMANDS, app
from onnx_soda._errors import SodaError

ROOT = Path(__file__).parents[1]


def test_the_code_is_cut_as_the_pages_say() -> None:
    """Bounds that hold for more modules, too: deep ones, and imports one way."""
    found = measure(ROOT)
    assert found.median_lines >= 150
    assert found.one_importer <= 0.2 * found.modules
    assert found.import_share <= 0.11
    assert found.back == ()
    assert found.circles == ()


def test_rooms_import_only_those_above_them() -> None:
    """In the order of the table of docs/architecture.md."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = page[page.index("## Rooms") : page.index("## Five places")]
    rooms = [
        {"cli/": "_cli", "converters/": "_converters"}.get(name, re.sub(r"(\.py|/)$", "", name))
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    ]
    place = {room: number for number, room in enumerate(rooms)}
    imports = arrows(ROOT)
    assert {room for pair in imports for room in pair} <= {*rooms, "__main__"}
    up = {pair for pair in imports if place.get(pair[0], len(rooms)) < place[pair[1]]}
    assert up == set()


def test_every_module_is_marked_private() -> None:
    """What is public is imported from the package itself."""
    inside = [path for path in (ROOT / "onnx_soda").iterdir() if path.suffix in ("", ".py")]
    names = {path.stem for path in inside if path.name != "__pycache__"}
    assert {name for name in names if not name.startswith("_")} == set()


def test_every_public_name_is_there_and_documented() -> None:
    for name in onnx_soda.__all__:
        thing = getattr(onnx_soda, name)
        assert name == "Progress" or thing.__doc__, name
        assert name in dir(onnx_soda)


def test_every_public_name_can_be_imported_without_torch() -> None:
    """Whoever writes a remover or reads a report need not install it."""
    program = "import sys; sys.modules['torch'] = None\nfrom onnx_soda import *"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_error_is_public() -> None:
    errors = {SodaError}
    waiting = [SodaError]
    while waiting:
        below = set(waiting.pop().__subclasses__()) - errors
        errors |= below
        waiting += below
    own = {error.__name__ for error in errors if error.__module__.startswith("onnx_soda")}
    assert own <= set(onnx_soda.__all__)


def test_what_is_not_public_is_told() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = onnx_soda.nonsense  # type: ignore[attr-defined]


def test_no_page_imports_from_a_private_module() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(from|import) onnx_soda\.", text, re.MULTILINE), page.name


def test_the_list_of_commands_says_what_their_help_says() -> None:
    """The list is shown without importing the commands."""
    group: Any = get_command(app)
    for name, (_, listed) in COMMANDS.items():
        command = group.get_command(None, name)
        assert listed == command.help.strip().splitlines()[0], name


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(options).failed == 0
