"""PyTorch files to ONNX: real small networks there and back, and files that would run code."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from onnx_soda.converters.protocol import Conversion, ConvertOptions
from onnx_soda.errors import (
    ConvertError,
    ModelFileError,
    OutputError,
    SodaError,
    UnsafeSourceError,
    UnsupportedSourceError,
)
from onnx_soda.model.anatomy import dissect
from onnx_soda.model.load import load_model
from onnx_soda.sandbox.files import convert_file

torch = pytest.importorskip("torch", reason="needs the [pytorch] extra")
pytest.importorskip("onnxscript", reason="needs the [pytorch] extra")

# torch warns that the ways to make TorchScript will go; files made by them will not.
pytestmark = pytest.mark.filterwarnings("ignore")

FEATURES, CLASSES = 12, 5
IMAGES = np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype(np.float32)


def network(softmax: bool = False) -> Any:
    torch.manual_seed(0)
    layers = [
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.MaxPool2d(2), torch.nn.Conv2d(8, FEATURES, 3), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(FEATURES, CLASSES),
    ]  # fmt: skip
    return torch.nn.Sequential(*layers, *[torch.nn.Softmax(1)] * softmax).eval()


def save_program(model: Any, path: Path) -> None:
    free = ({0: torch.export.Dim.DYNAMIC},)
    images = (torch.from_numpy(IMAGES[:2]),)
    torch.export.save(torch.export.export(model, images, dynamic_shapes=free), path)


def save_traced(model: Any, path: Path) -> None:
    torch.jit.save(torch.jit.trace(model, torch.from_numpy(IMAGES[:2])), path)


SAVERS = {"program.pt2": save_program, "traced.pt": save_traced}


def convert(source: Path, output: Path, **options: Any) -> Conversion:
    """Convert in this process: what is refused here is refused by the look at the file alone."""
    return convert_file(source, output, ConvertOptions(**options), limits=None)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("name", SAVERS)
def test_a_network_computes_the_same_and_is_understood(
    name: str, softmax: bool, tmp_path: Path
) -> None:
    model = network(softmax)
    SAVERS[name](model, tmp_path / name)
    made = convert(tmp_path / name, tmp_path / "out.onnx")
    assert made.difference < 1e-5
    assert made.free_batch
    assert made.layout == "NCHW"
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx")
    (scores,) = session.run(None, {session.get_inputs()[0].name: IMAGES})
    with torch.no_grad():
        expected = model(torch.from_numpy(IMAGES)).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    anatomy = dissect(load_model(tmp_path / "out.onnx"))
    assert anatomy.logits.classes == CLASSES
    assert anatomy.layer.neurons == FEATURES
    assert ("Softmax" in anatomy.logits.stripped) == softmax


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_bare_weights_go_into_the_network_that_is_named(name: str, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(1)
    weights = models.squeezenet1_1(weights=None, num_classes=7).state_dict()
    if name.endswith(".pth"):
        torch.save(weights, tmp_path / name)
    else:
        pytest.importorskip("safetensors.torch").save_file(weights, tmp_path / name)
    made = convert(
        tmp_path / name, tmp_path / "out.onnx", arch="torchvision:squeezenet1_1", size=64
    )
    assert made.difference < 1e-4
    assert dissect(load_model(tmp_path / "out.onnx")).logits.classes == 7


def test_bare_weights_need_a_network(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ConvertError) as caught:
        convert(tmp_path / "weights.pt", tmp_path / "out.onnx")
    assert "--arch" in caught.value.advice


def test_no_path_of_this_machine_is_in_the_result(tmp_path: Path) -> None:
    save_traced(network(), tmp_path / "traced.pt")
    convert(tmp_path / "traced.pt", tmp_path / "out.onnx")
    content = (tmp_path / "out.onnx").read_bytes()
    assert str(tmp_path).encode() not in content
    assert b"site-packages" not in content


# --- files that would run code: a marker shows whether anything ran


class Runs:
    """A pickle of this makes a folder when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def pickled_module(marker: Path, path: Path) -> None:
    torch.save({"weights": Runs(marker)}, path)


def bare_pickle(marker: Path, path: Path) -> None:
    path.write_bytes(pickle.dumps(OrderedDict(a=Runs(marker))))


def replaced(path: Path, member: str, content: bytes) -> None:
    """Replace the member of an archive whose name ends in some way."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (found,) = [name for name in parts if name.endswith(member)]
    parts[found] = content
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


def expression(marker: Path, path: Path) -> None:
    save_program(network(), path)
    with zipfile.ZipFile(path) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith("models/model.json")]
        text = archive.read(name).decode()
    evil = f"__import__('os').mkdir('{marker}')"
    assert '"expr_str": "' in text
    start = text.index('"expr_str": "') + len('"expr_str": "')
    end = text.index('"', start)
    replaced(path, "models/model.json", (text[:start] + evil + text[end:]).encode())


class Writes(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Writes a file where its images are shown to it."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.marker = marker
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
        torch.save(images, self.marker)
        return self.layer(images)


def script_that_writes(marker: Path, path: Path) -> None:
    torch.jit.save(torch.jit.script(Writes(str(marker))), path)


def script_with_a_pickle(marker: Path, path: Path) -> None:
    save_traced(network(), path)
    replaced(path, "/constants.pkl", pickle.dumps((Runs(marker),)))


ATTACKS = {
    "module.pt": pickled_module,
    "bare.pkl": bare_pickle,
    "expression.pt2": expression,
    "writes.pt": script_that_writes,
    "constants.pt": script_with_a_pickle,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_would_run_code_is_refused_and_nothing_runs(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    ATTACKS[name](marker, tmp_path / name)
    assert not marker.exists()
    with pytest.raises(UnsafeSourceError) as caught:
        convert(tmp_path / name, tmp_path / "out.onnx", arch="torchvision:resnet18")
    assert caught.value.rule_id == "SODA307"
    assert caught.value.advice
    assert not marker.exists()
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_sample_inputs_of_a_program_are_never_unpickled(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "program.pt2"
    save_program(network(), path)
    torch.save(Runs(marker), tmp_path / "samples")
    replaced(path, "sample_inputs/model.pt", (tmp_path / "samples").read_bytes())
    assert convert(path, tmp_path / "out.onnx").difference < 1e-5
    assert not marker.exists()


# --- wrong input


def test_other_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UnsupportedSourceError):
        convert(tmp_path / "text", tmp_path / "out.onnx")
    with pytest.raises(ModelFileError, match="is a folder"):
        convert(tmp_path, tmp_path / "out.onnx")
    save_traced(network(), tmp_path / "traced.pt")
    with pytest.raises(OutputError, match="is the source itself"):
        convert(tmp_path / "traced.pt", tmp_path / "traced.pt")


def test_a_truncated_archive_is_damaged(tmp_path: Path) -> None:
    save_traced(network(), tmp_path / "traced.pt")
    content = (tmp_path / "traced.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(SodaError):
        convert(tmp_path / "cut.pt", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


# --- as users run it, in the child


def test_the_command_converts_in_the_child_and_the_result_can_be_inspected(tmp_path: Path) -> None:
    save_program(network(), tmp_path / "program.pt2")
    base = [sys.executable, "-m", "onnx_soda"]
    out = tmp_path / "out.onnx"
    done = subprocess.run(
        [*base, "convert", tmp_path / "program.pt2", "-o", out], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "PyTorch ExportedProgram (.pt2)" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"program.pt2", "out.onnx"}
    seen = subprocess.run([*base, "inspect", out], capture_output=True, text=True)
    assert seen.returncode == 0, seen.stderr
    assert f"{CLASSES} classes" in seen.stdout


def test_the_command_refuses_a_pickled_module(tmp_path: Path) -> None:
    pickled_module(tmp_path / "marker", tmp_path / "module.pt")
    done = subprocess.run(
        [sys.executable, "-m", "onnx_soda", "convert", tmp_path / "module.pt",
         "-o", tmp_path / "out.onnx"], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "SODA307" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"module.pt"}
