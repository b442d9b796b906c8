"""What the system refuses, odd names, and addresses in place of paths: told as what they are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnx_soda._errors import explained

from .helpers import FIXTURES, complaint, invoke, soda, write_grey_case

# Has rights to nothing that is not everybody's.
NOBODY = 65534
# What nobody may read, it cannot.
RIGHTS = "Give the user that runs onnx-soda the right to read it, and to enter its folders."


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's rights for a moment; others have none to give up."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's own are for their owner."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs users")
class TestWithoutTheRight:
    @pytest.fixture(autouse=True)
    def _imported(self, tmp_path: Path) -> None:
        """Import all before rights are given up: the program itself may lie in a closed folder."""
        model, data = write_grey_case(tmp_path)
        assert invoke("scan", model, "-d", data).exit_code in (0, 1, 3)

    def test_a_model_that_may_not_be_read(self, open_folder: Path) -> None:
        model, _ = write_grey_case(open_folder)
        model.chmod(0)
        with as_nobody():
            done = invoke("scan", model)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.splitlines() == [
            "onnx-soda: error: model.onnx cannot be read: Permission denied", f"  {RIGHTS}",
        ]  # fmt: skip

    def test_a_model_in_a_folder_that_may_not_be_entered(self, open_folder: Path) -> None:
        """It may be there all the same."""
        locked = open_folder / "locked"
        locked.mkdir()
        write_grey_case(locked)
        locked.chmod(0)
        with as_nobody():
            alone = invoke("scan", locked / "model.onnx")
            searched = invoke("scan", locked)
        locked.chmod(0o700)
        assert "model.onnx cannot be read: Permission denied" in complaint(alone.stderr)
        assert "the folder locked cannot be searched" in complaint(searched.stderr)

    def test_a_clean_set_with_a_file_that_may_not_be_read(self, open_folder: Path) -> None:
        model, data = write_grey_case(open_folder)
        data.chmod(0)
        with as_nobody():
            done = invoke("scan", model, "-d", data)
        assert done.exit_code == 2
        assert "not readable" in done.stderr or "Permission denied" in complaint(done.stderr)


def test_what_the_system_refuses_is_no_fault_of_the_program() -> None:
    """A full disk, say, wherever it is met."""
    with pytest.raises(OSError, match="No such") as refused:
        os.open("/nowhere/at/all.txt", os.O_WRONLY)
    told = explained(refused.value)
    assert told.message == "the system refused all.txt: No such file or directory"
    assert "fault" not in told.advice


def test_what_was_not_expected_is_our_fault() -> None:
    assert "This is a fault of onnx-soda" in explained(KeyError("x")).advice


# --- names

BYTES = os.fsdecode(b"caf\xe9")


def class_folders(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(4):
            pixels = np.zeros((2, 2), np.uint8)
            pixels.flat[number] = 255 - index
            with (folder / name / f"{index}.png").open("wb") as stream:
                Image.fromarray(pixels).save(stream, "PNG")
    return folder


@pytest.mark.parametrize("sandbox", ["--sandbox", "--no-sandbox"])
def test_a_class_folder_whose_name_is_no_utf8(sandbox: str, tmp_path: Path) -> None:
    model, _ = write_grey_case(tmp_path)
    data = class_folders(tmp_path / "set", "a", "b", BYTES)
    report = tmp_path / "report.json"
    done = soda(
        "scan", model, "-d", data, "--min-accuracy", 0, "-f", f"json={report}", "-f", "text",
        sandbox,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode in (0, 1, 3)
    assert r'"caf\\udce9"' in report.read_text(encoding="utf-8")


def test_an_image_whose_name_is_no_utf8_is_named_in_the_error(tmp_path: Path) -> None:
    model, _ = write_grey_case(tmp_path)
    data = class_folders(tmp_path / "set", "a", "b", "c")
    (data / "c" / f"{BYTES}.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    done = soda("scan", model, "-d", data)
    assert done.returncode == 2
    assert r"set: c/caf\udce9.png" in complaint(done.stderr)


def test_a_model_whose_name_is_no_utf8_is_to_be_renamed(tmp_path: Path) -> None:
    """Nobody is told to open a stranger's file without the sandbox for its name."""
    model, data = write_grey_case(tmp_path)
    odd = model.rename(tmp_path / f"{BYTES}.onnx")
    done = soda("scan", odd, "-d", data)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        r"onnx-soda: error: the name caf\udce9.onnx is no valid UTF-8", "  Rename it.",
    ]  # fmt: skip


def test_the_root_folder_has_a_name(tmp_path: Path) -> None:
    model, _ = write_grey_case(tmp_path)
    assert ": error: /" in complaint(soda("scan", model, "-d", "/").stderr)
    assert ": error: / is a folder" in complaint(invoke("inspect", "/").stderr)


def test_no_message_advises_to_do_without_the_sandbox() -> None:
    """It is there for whoever trusts a file; what a file does is no reason to."""
    root = FIXTURES.parent
    for path in [*(root / "onnx_soda").rglob("*.py"), *(root / "converters").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert "`limits" not in text.replace("With `limits=None` the work is done", ""), path
        assert "no-sandbox" not in text, path


# --- addresses

ADDRESSES = [
    "https://example.org/m.onnx",
    "hf://someone/something/m.onnx",
    "s3://bucket/m.onnx",
    "gs://bucket/m.onnx",
]


def not_fetched(address: str) -> list[str]:
    return [
        f"onnx-soda: error: {address} is not fetched: this command opens no network",
        f"  Download it first, for example with `onnx-soda fetch {address} -o FOLDER`.",
    ]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_in_place_of_a_model(address: str, tmp_path: Path) -> None:
    model, data = write_grey_case(tmp_path)
    for arguments in (
        ("scan", address), ("scan", address, model), ("inspect", address),
        ("diff", model, address), ("convert", address, "-o", tmp_path / "out.onnx"),
        ("repair", address, "-d", data, "-o", tmp_path / "out.onnx"),
        ("scan", model, "-d", data, "--reference", address),
    ):  # fmt: skip
        done = invoke(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.splitlines() == not_fetched(address), arguments


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_in_place_of_a_clean_set(address: str, tmp_path: Path) -> None:
    model, _ = write_grey_case(tmp_path)
    for arguments in (("scan", model, "-d", address), ("twins", "-d", address, "-o", tmp_path)):
        done = invoke(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.splitlines() == not_fetched(address), arguments


def test_an_address_is_shown_without_what_may_be_secret() -> None:
    done = invoke("scan", "https://me:password@example.org/m.onnx?signature=secret")
    assert done.stderr.splitlines() == not_fetched("https://example.org/m.onnx")


def test_a_folder_may_have_the_name_of_an_address(tmp_path: Path) -> None:
    place = tmp_path / "https:" / "example.org"
    place.mkdir(parents=True)
    write_grey_case(place)
    done = soda("scan", "https://example.org/model.onnx", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stdout.startswith("model.onnx: ")
