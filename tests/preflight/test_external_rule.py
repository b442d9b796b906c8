"""The rule for weights beside the model: what it lets pass, and that what passes really works."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fixtures.stolen_weights import CANARY, cached_like_hugging_face
from onnx_soda._errors import ExternalDataError, OutputError
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import Body, Tail
from onnx_soda._options import RuntimeOptions
from onnx_soda._repair.files import read_proto, write_model
from onnx_soda._rules import RULES

CPU = RuntimeOptions(provider="cpu", threads=1)
BIAS = np.frombuffer(CANARY, np.float32)
WEIGHTS = np.arange(48, dtype=np.float32).reshape(16, 3) / 48
IMAGES = np.random.default_rng(0).random((3, 1, 4, 4), dtype=np.float32)
SCORES = (IMAGES.reshape(3, 16) + BIAS) @ WEIGHTS


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    return cached_like_hugging_face(tmp_path)


def test_a_model_in_a_hugging_face_cache_loads_and_runs(cached: Path) -> None:
    model = load_model(cached)
    assert model.file == "model.onnx"
    assert [one.file for one in model.external_data] == ["model.onnx_data"]
    assert model.external_data[0].sha256 == hashlib.sha256(CANARY).hexdigest()
    anatomy = dissect(model)
    scores, layer, _ = Body(anatomy, CPU).observe(IMAGES)
    np.testing.assert_allclose(scores, SCORES, rtol=1e-5)
    np.testing.assert_allclose(Tail(anatomy, CPU).logits(layer), SCORES, rtol=1e-5)


def test_a_model_in_a_hugging_face_cache_can_be_repaired(cached: Path, tmp_path: Path) -> None:
    model = load_model(cached)
    proto = read_proto(model)
    stored = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    np.testing.assert_array_equal(stored["bias"], BIAS)
    write_model(proto, model, tmp_path / "out.onnx")
    again = load_model(tmp_path / "out.onnx")
    np.testing.assert_allclose(Body(dissect(again), CPU).logits(IMAGES), SCORES, rtol=1e-5)


def test_a_model_in_a_cache_is_never_written_over(cached: Path) -> None:
    model = load_model(cached)
    for path in (cached, cached.resolve()):
        with pytest.raises(OutputError, match="is the model itself"):
            write_model(read_proto(model), model, path)


def test_a_checksum_that_is_right_passes(tmp_path: Path) -> None:
    assert load_model(cached_like_hugging_face(tmp_path, checksum=True)).external_data


def test_a_link_may_not_lead_into_a_folder_beside_the_blobs(cached: Path) -> None:
    """Directly where the model really lies, not anywhere around it."""
    data = cached.parent / "model.onnx_data"
    private = cached.parents[2] / "blobs" / "private"
    private.mkdir()
    (private / "key").write_bytes(CANARY)
    data.unlink()
    data.symlink_to(private / "key")
    with pytest.raises(ExternalDataError, match="outside its own folder"):
        load_model(cached)


def plain(folder: Path) -> Path:
    """Write the cached model as ordinary files."""
    (folder / "cache").mkdir()
    cached = cached_like_hugging_face(folder / "cache")
    (folder / "model.onnx").write_bytes(cached.read_bytes())
    return folder / "model.onnx"


def test_a_link_inside_the_folder_passes(tmp_path: Path) -> None:
    path = plain(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(CANARY)
    (tmp_path / "model.onnx_data").symlink_to("weights/w.bin")
    anatomy = dissect(load_model(path))
    np.testing.assert_allclose(Body(anatomy, CPU).logits(IMAGES), SCORES, rtol=1e-5)


def test_a_hard_link_passes(tmp_path: Path) -> None:
    """As uv, conda and DVC put files in place: a second name of one in their cache."""
    path = plain(tmp_path)
    (tmp_path / "cached").write_bytes(CANARY)
    (tmp_path / "model.onnx_data").hardlink_to(tmp_path / "cached")
    anatomy = dissect(load_model(path))
    np.testing.assert_allclose(Body(anatomy, CPU).logits(IMAGES), SCORES, rtol=1e-5)


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "onnx_soda", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def test_weights_with_hard_links_are_read_by_every_command(tmp_path: Path) -> None:
    """Detectors read weights through onnx-ir, a repair through onnx: both refuse hard links."""
    bundled = Path(__file__).parents[2] / "fixtures" / "digits-backdoored.onnx"
    path = tmp_path / "m.onnx"
    onnx.save_model(onnx.load(bundled), path, save_as_external_data=True, location="w.bin")
    (tmp_path / "cached").hardlink_to(tmp_path / "w.bin")
    scanned = command("scan", path, "--threads", "1", "-f", "json")
    assert scanned.returncode == 3, scanned.stderr  # inconclusive: there are no clean images
    report = json.loads(scanned.stdout)
    assert [one["file"] for one in report["model"]["external_data"]] == ["w.bin"]
    assert report["findings"] == []
    compared = command("diff", path, bundled)
    assert compared.returncode == 0, compared.stderr
    assert "14 tensors are equal" in compared.stdout


def test_weights_with_hard_links_over_the_size_of_a_model(tmp_path: Path) -> None:
    """A hole of 2 GiB behind the weights: it takes no room on the disk."""
    path = plain(tmp_path)
    (tmp_path / "cached").write_bytes(CANARY)
    os.truncate(tmp_path / "cached", 2**31)
    (tmp_path / "model.onnx_data").hardlink_to(tmp_path / "cached")
    with pytest.raises(
        ExternalDataError, match="too many bytes to be read into the model"
    ) as caught:
        load_model(path)
    assert "cp FILE" in caught.value.advice
    assert caught.value.rule_id == "SODA310"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives files away")
def test_a_hard_link_to_another_users_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = plain(tmp_path)
    (tmp_path / "secret").write_bytes(CANARY)
    os.chown(tmp_path / "secret", 12345, -1)
    (tmp_path / "model.onnx_data").hardlink_to(tmp_path / "secret")
    with pytest.raises(ExternalDataError, match=r"2 names \(hard links\)") as caught:
        load_model(path)
    assert "cp FILE" in caught.value.advice
    assert caught.value.rule_id == "SODA310"
    assert RULES["SODA310"].severity == "low", "not told as an attack"
    (tmp_path / "secret").unlink()  # the last name left is an ordinary file, whoever owns it
    assert load_model(path).external_data


def test_weights_in_both_places_pass(cached: Path) -> None:
    """One file beside the link to the model, another in the folder of blobs."""
    proto = onnx.load(cached.resolve(), load_external_data=False)
    second = proto.graph.initializer.add()
    second.CopyFrom(next(t for t in proto.graph.initializer if t.name == "bias"))
    second.name, second.external_data[0].value = "spare", "own.bin"
    cached.resolve().write_bytes(proto.SerializeToString())
    (cached.parent / "own.bin").write_bytes(CANARY)
    model = load_model(cached)
    assert [one.file for one in model.external_data] == ["model.onnx_data", "own.bin"]
    np.testing.assert_allclose(Body(dissect(model), CPU).logits(IMAGES), SCORES, rtol=1e-5)


def test_tied_weights_may_share_their_bytes(tmp_path: Path) -> None:
    path = plain(tmp_path)
    (tmp_path / "model.onnx_data").write_bytes(CANARY)
    proto = onnx.load(path, load_external_data=False)
    second = proto.graph.initializer.add()
    second.CopyFrom(next(t for t in proto.graph.initializer if t.name == "bias"))
    second.name = "tied"
    path.write_bytes(proto.SerializeToString())
    assert load_model(path).parameters == 256 + 48 + 16 + 16
