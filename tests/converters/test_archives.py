"""Zip archives that are made to mislead or to fill the machine."""

from __future__ import annotations

import stat
import struct
import zipfile
from pathlib import Path

import pytest

from onnx_soda._converters.archives import FRAMEWORK_NAMES, check_pickle, checked_archive
from onnx_soda._converters.choose import choose
from onnx_soda._converters.refusals import parse_json, walk
from onnx_soda._errors import ConvertError, SodaError, UnsafeSourceError


def rejected(path: Path) -> str:
    with pytest.raises(ConvertError) as caught, checked_archive(path):
        pass
    return caught.value.message


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "C:x", "a\\b", "a" * 600])
def test_names_that_lead_elsewhere(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "x")
    assert "has a member named" in rejected(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a", "a"), ("a", "A")])
def test_names_that_occur_twice(names: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    assert "two members of one name" in rejected(path)


def test_bombs(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(2**24))
    assert "times its size" in rejected(path)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(20_001):
            archive.writestr(str(number), "")
    assert "members" in rejected(path)


def test_links(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    member = zipfile.ZipInfo("a")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "/etc/passwd")
    assert "link" in rejected(path)


def test_headers_that_differ_from_the_directory(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good", "x")
    path.write_bytes(path.read_bytes().replace(b"good", b"evil", 1))
    assert "cannot be read" in rejected(path)


def test_members_that_overlap(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "x" * 100)
        archive.writestr("b", "y" * 100)
    content = bytearray(path.read_bytes())
    second = content.rindex(b"PK\x01\x02")
    content[second + 42 : second + 46] = struct.pack("<I", 0)
    path.write_bytes(content)
    assert rejected(path)


def test_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "x" * 1000)
    for length in (10, 500, 1050):
        path.write_bytes(path.read_bytes()[:length])
        assert "cannot be read" in rejected(path)


def test_json_is_read_strictly() -> None:
    for text in ('{"a": 1, "a": 2}', "[" * 100_000, '{"a":' * 200 + "1" + "}" * 200):
        with pytest.raises(UnsafeSourceError):
            list(walk(parse_json(text, "it"), "it"))
    with pytest.raises(ConvertError):
        parse_json("{", "it")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x02", b"garbage", b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
     b"(S'x'\nios\nsystem\n.", b"\x80\x02\x82\x01."],
)  # fmt: skip
def test_pickles_of_other_forms(content: bytes) -> None:
    with pytest.raises(ConvertError):
        check_pickle(content, "it", FRAMEWORK_NAMES)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04 nothing", "zip archive"),
        (b"\x1f\x8b", "gzip"),
        (b"hello", "no format"),
        (b"", "no format"),
    ],
)
def test_formats_that_no_converter_reads(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(SodaError, match=words) as caught:
        choose(path)
    assert caught.value.advice


@pytest.mark.parametrize(
    ("inside", "words"),
    [("inference.json", "Paddle"), ("x", "is a folder")],
)
def test_folders(inside: str, words: str, tmp_path: Path) -> None:
    (tmp_path / inside).write_bytes(b"")
    with pytest.raises(SodaError, match=words):
        choose(tmp_path)


def test_safetensors_headers(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for header in (
        b'{"a": {"data_offsets": [0, 9]}}',
        b'{"a": {"data_offsets": [1, 4]}}',
        b'{"a": {"data_offsets": [0, 4]}, "b": {"data_offsets": [2, 4]}}',
        b'{"a": {}}',
        b'{"a": {"data_offsets": [0, 4]}, "a": {"data_offsets": [0, 4]}}',
    ):
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        with pytest.raises(ConvertError):
            choose(path).precheck(path)
