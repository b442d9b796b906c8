"""Which models are meant by files, folders, patterns and lists."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnx_soda._batch import find_models, is_single, scan_many
from onnx_soda._errors import ModelFileError
from onnx_soda._options import Limits, ScanRequest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.onnx", "b.PT", "c.data", "d.h5", "sub/e.keras", "tf/saved_model.pb", "tf/x.pt"):
        place = tmp_path / name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    return tmp_path


def names(folder: Path, *arguments: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_models(arguments)]


def test_a_folder_is_searched_with_all_below_it(folder: Path) -> None:
    assert names(folder, str(folder)) == ["a.onnx", "b.PT", "sub/e.keras", "tf"]


def test_patterns_and_files_that_are_named(folder: Path) -> None:
    assert names(folder, f"{folder}/*.onnx") == ["a.onnx"]
    assert names(folder, f"{folder}/**/*.keras") == ["sub/e.keras"]
    assert names(folder, f"{folder}/d.h5") == ["d.h5"]


def test_lists_are_relative_to_themselves(folder: Path) -> None:
    listed = "# of today\na.onnx\n\n  # sub\n  sub/e.keras \nmissing.onnx\n"
    (folder / "list").write_text(listed)
    assert names(folder, f"@{folder}/list") == ["a.onnx", "sub/e.keras", "missing.onnx"]


def test_each_model_once(folder: Path) -> None:
    os.link(folder / "a.onnx", folder / "twin.onnx")
    (folder / "link.onnx").symlink_to(folder / "a.onnx")
    assert names(folder, f"{folder}/a.onnx", f"{folder}/*.onnx") == ["a.onnx", "twin.onnx"]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("empty", "empty holds no model"),
        ("*.none", "no file matches"),
        ("emp*", "holds no model"),
        ("@no-such-list", "the list no-such-list cannot be read"),
        ("@binary", "the list binary cannot be read"),
        ("@comments", "the list comments names no model"),
    ],
)
def test_nothing_found(argument: str, words: str, folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "comments").write_text("# nothing yet\n\n")
    (folder / "binary").write_bytes(b"\xff\xfe\xff")
    at = "@" if argument.startswith("@") else ""
    with pytest.raises(ModelFileError, match=words) as caught:
        find_models([f"{at}{folder}/{argument.removeprefix('@')}"])
    assert caught.value.advice


def test_what_is_one_model(folder: Path) -> None:
    single = ["a.onnx", "tf", "no-such-file.onnx"]
    assert all(is_single([f"{folder}/{name}"]) for name in single)
    many = [[f"{folder}"], [f"{folder}/*.onnx"], ["@list"], ["a", "b"]]
    assert not any(is_single(arguments) for arguments in many)


def test_a_file_with_brackets_in_its_name_is_itself(folder: Path) -> None:
    (folder / "m[1].onnx").write_bytes(b"")
    assert is_single([f"{folder}/m[1].onnx"])


def test_names_that_lead_nowhere_end_no_batch(folder: Path) -> None:
    (folder / "loop.onnx").symlink_to("loop.onnx")
    assert "loop.onnx" in names(folder, str(folder))
    long = "x" * 300
    (folder / "list").write_text(f"{long}\na.onnx\n")
    assert names(folder, f"@{folder}/list") == [long, "a.onnx"]
    assert is_single([f"{folder}/{long}"])
    (folder / "list").write_text("a\0b\n")
    with pytest.raises(ModelFileError):
        find_models([f"@{folder}/list"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_searched_is_not_passed_over(folder: Path) -> None:
    (folder / "sub").chmod(0)
    with pytest.raises(ModelFileError, match="cannot be searched"):
        find_models([str(folder)])


@pytest.mark.parametrize("limits", [None, Limits()])
def test_progress_is_told_as_models_are_over(limits: Limits | None, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    models = [tmp_path / "nothing.onnx", tmp_path / "neither.onnx"]
    request = ScanRequest(tmp_path, limits=limits)
    for ended in scan_many(models, request, jobs=2, progress=lambda *step: told.append(step)):
        assert ended.error is not None
    assert told == [("models", number, 2) for number in range(3)]
