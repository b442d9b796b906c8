"""What `check_files` says of each kind of file: known by content, and judged without loading it."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from fixtures.hostile import ATTACKS
from onnx_soda import FileLook, check_files
from onnx_soda._preflight.inventory import declared_bytes
from tests.check.samples import (
    MODEL,
    STREAMS,
    ZEROS,
    Payload,
    entry,
    evil,
    gguf,
    nested,
    npy,
    safetensors,
    tar_link,
    tar_of,
    zipped,
)


def look(path: Path, content: bytes) -> FileLook:
    path.write_bytes(content)
    (found,) = check_files([path], limits=None)
    return found


def verdict(found: FileLook) -> tuple[str, set[str]]:
    assert found.report is not None, found
    return found.report.verdict, {finding.rule_id for finding in found.report.findings}


def kinds(found: FileLook) -> list[str]:
    assert found.report is not None
    return [str(row[1]) for row in found.report.evidence["files"].tables[0].rows]


GOOD_HEADER = {"a": entry(0, 8), "b": entry(8, 16)}
TEMPLATE = "{{ messages[0].content }}"
HARMLESS = {
    "onnx": (MODEL, "ONNX model"),
    "pickle of values": (pickle.dumps([1, {"a": (2.5, None)}]), "Python pickle"),
    "array": (npy(np.arange(4)), "NumPy array"),
    "array of fields": (npy(np.zeros(2, [("a", "f4"), ("b", "i8")])), "NumPy array"),
    "safetensors": (safetensors(GOOD_HEADER), "safetensors, 2 tensors"),
    "gguf": (gguf({"tokenizer.chat_template": TEMPLATE}), "GGUF version 3, 0 tensors"),
    "zip": (zipped({"deep/down/m": MODEL}), "ONNX model"),
    "tar": (tar_of(m=MODEL), "ONNX model"),
    "four archives deep": (nested(5), "ONNX model"),
    **{f"onnx.{ending}": (pack(MODEL), "ONNX model") for ending, pack in STREAMS.items()
       if ending != "z"},
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_a_kind_is_known_by_its_content(name: str, tmp_path: Path) -> None:
    content, kind = HARMLESS[name]
    found = look(tmp_path / "file", content)
    assert verdict(found)[0] == "no finding"
    assert kinds(found) == [kind]


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_starts_a_program_is_unsafe(protocol: int, tmp_path: Path) -> None:
    found = look(tmp_path / "notes.txt", evil(protocol))
    assert verdict(found) == ("unsafe", {"SODA307"})
    assert found.report is not None
    assert "posix.system" in found.report.findings[0].message


DANGEROUS = {
    "cut off behind the call": (evil()[:-1], "SODA307"),
    "text larger than the memory behind the call": (
        evil()[:-1] + b"\x8e" + (2**62).to_bytes(8, "little"), "SODA307"
    ),
    "name put together": (
        b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940h\x00h\x01\x93\x8c\x02id\x85R.", "SODA307"
    ),
    "name that is computed": (b"\x80\x04N\x8c\x06system\x93\x8c\x02id\x85R.", "SODA307"),
    "behind another pickle": (pickle.dumps(1) + evil(), "SODA307"),
    "array of objects": (npy(np.array([Payload()], dtype=object)), "SODA307"),
    "torch archive": (
        zipped({"m/data.pkl": evil(2), "m/version": b"3", "m/data/0": b"\x80\x02"}), "SODA307"
    ),
    "zlib, as joblib packs": (STREAMS["z"](evil()), "SODA307"),
    "zip behind a pickle": (pickle.dumps(1) + zipped({"m.onnx": MODEL}), "SODA305"),
    "pickle in a zip behind a text": (b"#!/bin/sh\n" + zipped({"a": evil()}), "SODA307"),
    "zip in tar in zip": (
        zipped({"a.tar": tar_of(b=zipped({"c/d.bin": evil()}))}), "SODA307"
    ),
    "up and out of a zip": (zipped({"../../etc/x": b"x"}), "SODA308"),
    "absolute in a tar": (tar_of(**{"/etc/x": b"x"}), "SODA308"),
    "up and out of a tar": (tar_of(**{"a/../../x": b"x"}), "SODA308"),
    "link out of a tar": (tar_link("a/link", "../../etc"), "SODA308"),
    "hard link out of a tar": (tar_link("link", "../x", tarfile.LNKTYPE), "SODA308"),
    "pipe in a tar": (tar_link("pipe", "", tarfile.FIFOTYPE), "SODA308"),
    "zip bomb": (zipped({"zeros": ZEROS}), "SODA309"),
    "gzip bomb": (STREAMS["gz"](ZEROS), "SODA309"),
    "xz bomb": (STREAMS["xz"](ZEROS), "SODA309"),
    "archives in archives": (nested(7), "SODA309"),
    "overlapping tensors": (safetensors({"a": entry(0, 8), "b": entry(4, 12)}), "SODA305"),
    "tensor twice": (safetensors('{"a": %s, "a": %s}' % ((json.dumps(entry(0, 8)),) * 2)),
                     "SODA305"),
    "tensor outside": (safetensors({"a": entry(0, 2**40, (2**38,))}), "SODA306"),
    "false shape": (safetensors({"a": entry(0, 16, (5,))}), "SODA306"),
    "header longer than the file": (
        (1_000_000).to_bytes(8, "little") + b'{"a": 1}', "SODA306"
    ),
    "more entries than bytes": (gguf({}, declared=2**60), "SODA306"),
    "template that imports": (
        gguf({"tokenizer.chat_template": "{{ x.__class__.__subclasses__() }}"}), "SODA307"
    ),
    "Lambda layer": (
        zipped({
            "metadata.json": b"{}",
            "config.json": json.dumps({
                "class_name": "Functional", "config": {"layers": [{"class_name": "Lambda"}]},
            }).encode(),
        }),
        "SODA307",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DANGEROUS)
def test_what_is_dangerous_is_unsafe(name: str, tmp_path: Path) -> None:
    content, rule = DANGEROUS[name]
    suffix = ".pkl" if "zlib" in name else ""
    found = look(tmp_path / f"file{suffix}", content)
    said, rules = verdict(found)
    assert said == "unsafe"
    assert rule in rules
    assert [path.name for path in tmp_path.iterdir()] == [f"file{suffix}"], "nothing is unpacked"


# What these do shows only while a classifier is run or loaded by a library, or they stay under the
# limits for language models.
PASSED = {
    "allocation-from-shape", "allocation-intermediate", "allocation-vectors-joined", "batch",
    "functions-1e4", "outputs", "pickle", "strings", "unchecked-batch", "unchecked-from-shape",
    "unchecked-intermediate", "unchecked-vectors-joined",
}  # fmt: skip
# The first one is 64 GiB long and takes a minute to read; the command line has a time limit.
LEFT = {"external-mostly-hole", "pipe", "folder"}


@pytest.mark.parametrize("name", sorted(ATTACKS.keys() - LEFT))
def test_attacks_on_scans_are_no_honest_files(name: str, tmp_path: Path) -> None:
    (found,) = check_files([ATTACKS[name](tmp_path)], limits=None)
    if found.report is None:
        assert found.failure is not None or found.skipped
    elif name in PASSED:
        assert found.report.verdict == "no finding"
    else:
        assert found.report.verdict == "unsafe"


def test_a_lesser_finding_is_for_a_person_to_judge(tmp_path: Path) -> None:
    content = b"\x80\x02c__main__\nNetwork\n)\x81}b."
    found = look(tmp_path / "model.pkl", content)
    assert verdict(found) == ("inconclusive", {"SODA322"})
    found = look(tmp_path / "cut.pkl", pickle.dumps([1, 2, 3])[:-3])
    assert verdict(found) == ("inconclusive", {"SODA323"})


def test_a_pickle_of_arrays_and_tensors_is_told_as_one(tmp_path: Path) -> None:
    found = look(tmp_path / "weights.pkl", pickle.dumps({"w": np.arange(3)}))
    assert verdict(found) == ("no finding", {"SODA321"})
    assert found.report is not None
    assert "runs code when loaded" in found.report.findings[0].message


@pytest.mark.parametrize(
    ("operator", "said"),
    [
        ("Relu", ("no finding", set())),
        ("Rocket", ("inconclusive", {"SODA322"})),
        ("ReadFile", ("unsafe", {"SODA307"})),
    ],
)
def test_operators_of_a_saved_model(
    operator: str, said: tuple[str, set[str]], tmp_path: Path
) -> None:
    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    node = field(1, b"name") + field(2, operator.encode())
    program = field(2, field(2, field(1, node)))  # a MetaGraphDef with a GraphDef with a node
    assert verdict(look(tmp_path / "saved_model.pb", program)) == said


def test_encrypted_members_are_told(tmp_path: Path) -> None:
    content = bytearray(zipped({"secret.bin": b"x" * 10}))
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(magic) + flags] |= 1
    assert verdict(look(tmp_path / "a.zip", bytes(content))) == ("inconclusive", {"SODA323"})


def test_hdf5_that_reads_another_file_is_unsafe(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["w"] = h5py.ExternalLink("/etc/passwd", "/x")
    assert verdict(look(path, path.read_bytes())) == ("unsafe", {"SODA305"})
    with h5py.File(path, "w") as file:
        file["w"] = [1.0]
        layers = {"class_name": "Lambda", "config": {}}
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": [layers]})
    assert verdict(look(path, path.read_bytes())) == ("unsafe", {"SODA307"})
    packed = look(tmp_path / "m.zip", zipped({"model.weights": path.read_bytes()}))
    assert verdict(packed) == ("unsafe", {"SODA307"})


def test_what_torch_and_joblib_write_is_followed_to_its_end(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    joblib = pytest.importorskip("joblib")
    weights = {"w": torch.zeros(100), "b": torch.ones(3, dtype=torch.int64)}
    for old in (True, False):
        packed = io.BytesIO()
        torch.save(weights, packed, _use_new_zipfile_serialization=not old)
        found = look(tmp_path / "m.pt", packed.getvalue())
        assert verdict(found) == ("no finding", {"SODA321"})
        assert found.report is not None
        assert found.report.evidence["files"].numbers["skipped"] == 0
    arrays = {"f": np.arange(10.0), "s": np.array(["ab"]), "o": np.array([1, "x"], dtype=object)}
    joblib.dump(arrays, tmp_path / "m.joblib")
    assert verdict(look(tmp_path / "m.joblib", (tmp_path / "m.joblib").read_bytes())) == (
        "no finding", {"SODA321"},
    )  # fmt: skip
    joblib.dump({**arrays, "last": Payload()}, tmp_path / "m.joblib", compress=3)
    found = look(tmp_path / "m.joblib", (tmp_path / "m.joblib").read_bytes())
    assert verdict(found)[0] == "unsafe"


@pytest.mark.parametrize(
    "content", [b"hello, world\n", b"config\nname\nvalue\n", b"(an aside) and more", b"import os\n",
                b'{"a": 1}', b"\x00" * 100, b"%PDF-1.7", b"B" * 64, b"2 + 2\n", b""]
)  # fmt: skip
def test_what_is_of_no_known_kind_is_skipped(content: bytes, tmp_path: Path) -> None:
    found = look(tmp_path / "file", content)
    assert (found.skipped, found.report, found.failure) == (True, None, None)


def test_a_line_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    """A file of zeros that takes no room on the disk, and begins like a pickle of protocol 0."""
    path = tmp_path / "hole"
    path.write_bytes(b"c")
    os.truncate(path, 2**36)
    begin = time.process_time()
    (found,) = check_files([path], limits=None)
    assert found.skipped
    assert time.process_time() - begin < 5


def test_damaged_files_are_told_as_such(tmp_path: Path) -> None:
    archive = zipped({"m.onnx": MODEL})
    for name, content in (("m.onnx", MODEL[:100]), ("e.onnx", b""), ("a", archive[:-30])):
        found = look(tmp_path / name, content)
        assert found.failure is not None
        assert found.failure.rule_id is None


def test_weights_beside_a_model_are_checked(tmp_path: Path) -> None:
    model = onnx.load_from_string(MODEL)
    for weight in model.graph.initializer:
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight), weight.name))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0,
              location="w.bin")  # fmt: skip
    (found,) = check_files([tmp_path / "m.onnx"])
    assert verdict(found)[0] == "no finding"
    (tmp_path / "w.bin").write_bytes(b"short")
    (found,) = check_files([tmp_path / "m.onnx"])
    assert verdict(found) == ("unsafe", {"SODA302"})
    (found,) = [look(tmp_path / "m.zip", zipped({"m.onnx": (tmp_path / "m.onnx").read_bytes()}))]
    assert verdict(found) == ("inconclusive", {"SODA323"})


def test_what_overlaps_in_a_zip_archive_is_unsafe(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.bin", b"a" * 100)
        archive.writestr("b.bin", b"b" * 100)
        archive.filelist[1].header_offset = archive.filelist[0].header_offset + 10
    assert "SODA305" in verdict(look(tmp_path / "a.zip", packed.getvalue()))[1]


def test_sizes_of_elements_are_those_of_onnx_ir() -> None:
    """The table is kept by hand: onnx-ir takes half a second to import."""
    for kind in ir.DataType:
        tensor = onnx.TensorProto(data_type=int(kind), dims=[8])
        try:
            bits = 8 * kind.itemsize
        except TypeError:
            bits = 0
        assert declared_bytes(tensor) == bits, kind
