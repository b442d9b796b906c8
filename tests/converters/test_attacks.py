"""Files that run code, or write files, in the loaders of their frameworks: here nothing happens.

The payload makes an empty marker file. Where the framework itself is fast to ask, it is shown first
that the attack works there. Conversion is without the child process: what is tested is that the
framework never gets to see the file.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from onnx_soda._api import convert_file
from onnx_soda._errors import ConvertError, UnsafeSourceError, UnsupportedSourceError
from onnx_soda._options import ConvertOptions

from .sources import (
    Payload,
    keras_network,
    quietly,
    rewrite,
    save_program,
    save_script,
    torch_bytes,
    torch_network,
)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    return tmp_path / "outside" / "marker"


def refused(source: Path, marker: Path, rule: str | None = "SODA307") -> ConvertError:
    """Try to convert a file; nothing may have run, and nothing be written."""
    out = source.parent / "out.onnx"
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(ConvertError) as caught:
        convert_file(source, out, ConvertOptions(arch="torchvision:resnet18"), limits=None)
    assert caught.value.rule_id == rule, caught.value
    assert caught.value.advice
    assert not marker.exists()
    assert sorted(source.parent.rglob("*")) == before
    return caught.value


def works(attack: Callable[[], Any], marker: Path) -> None:
    """The framework falls for it."""
    # What follows the payload may fail.
    with quietly(), contextlib.suppress(Exception):
        attack()
    assert marker.exists()
    marker.unlink()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "good.pt2"
    save_program(torch_network(), path)
    return path


def changed(program: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    target = program.with_name("evil.pt2")
    rewrite(program, target, change)
    return target


def with_graph(program: Path, change: Callable[[Any], None]) -> Path:
    def edit(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        graph = json.loads(content)
        change(graph)
        return json.dumps(graph).encode()

    return changed(program, edit)


def test_pt2_pickled_samples_never_reach_torch(program: Path, marker: Path) -> None:
    """Samples are not needed: the file converts without them."""
    import torch

    evil = changed(
        program,
        lambda name, content: (
            torch_bytes(Payload(marker)) if name.endswith("sample_inputs/model.pt") else content
        ),
    )
    works(lambda: torch.export.load(evil), marker)
    with quietly():
        made = convert_file(evil, evil.with_suffix(".onnx"), limits=None)
    assert made.difference < 1e-5
    assert not marker.exists()


def test_pt2_sizes_that_are_python(program: Path, marker: Path) -> None:
    import torch

    def edit(graph: Any) -> None:
        values = graph["graph_module"]["graph"]["tensor_values"]
        code = f"__import__('os').system('touch {marker}')"
        values["x" if "x" in values else next(reversed(values))]["sizes"][0] = {
            "as_expr": {"expr_str": code, "hint": {"as_int": 2}}
        }

    evil = with_graph(program, edit)
    works(lambda: torch.export.load(evil), marker)
    assert "more than arithmetic" in refused(evil, marker).message


@pytest.mark.parametrize(
    "text",
    ["10**10**10", "Pow(10, 10)", "Symbol('s0').__class__", "lambda: 0", "eval('1')", "x" * 3000],
)
def test_pt2_other_sizes(text: str, program: Path, marker: Path) -> None:
    def edit(graph: Any) -> None:
        graph["anywhere"] = [{"deep": {"expr_str": text}}]

    refused(with_graph(program, edit), marker)


def test_pt2_guards_are_dropped(program: Path, marker: Path) -> None:
    """They are Python too, run by `module()`."""

    def edit(graph: Any) -> None:
        graph["guards_code"] = [f"__import__('os').system('touch {marker}') == 0"]

    evil = with_graph(program, edit)
    with quietly():
        convert_file(evil, evil.with_suffix(".onnx"), limits=None)
    assert not marker.exists()


@pytest.mark.parametrize(
    "target",
    ["os.system", "torch.hub.load", "torch.ops.aten.from_file.default", "torch.load",
     "torch.ops.aten.save.default", "#ext:run", "torch.ops.higher_order.cond", "_operator.pow", 3],
)  # fmt: skip
def test_pt2_operators(target: Any, program: Path, marker: Path) -> None:
    def edit(graph: Any) -> None:
        graph["graph_module"]["graph"]["nodes"][0]["target"] = target

    assert "operators allowed" in refused(with_graph(program, edit), marker).message


@pytest.mark.parametrize("what", ["weights", "constants"])
def test_pt2_pickled_weights(what: str, program: Path, marker: Path) -> None:
    import torch

    name = {"weights": "weight_0", "constants": "opaque_obj_0"}[what]

    def edit(member: str, content: bytes) -> bytes:
        if member.endswith(f"{what}_config.json"):
            config = json.loads(content)["config"] or {"c": {"is_param": False}}
            entry = {**next(iter(config.values())), "path_name": name, "use_pickle": True}
            entry.setdefault("tensor_meta", None)
            return json.dumps({"config": {**config, next(iter(config)): entry}}).encode()
        if member.endswith("/weight_0") and what == "weights":
            return torch_bytes(Payload(marker))
        return content

    evil = changed(program, edit)
    if what == "constants":
        with zipfile.ZipFile(evil, "a") as archive:
            root = archive.namelist()[0].partition("/")[0]
            archive.writestr(f"{root}/data/constants/{name}", pickle.dumps(Payload(marker)))
    works(lambda: torch.export.load(evil), marker)
    assert "pickled object" in refused(evil, marker).message


def test_pt2_keys_that_occur_twice(program: Path, marker: Path) -> None:
    def edit(name: str, content: bytes) -> bytes:
        doubled = name.endswith("model.json")
        return content.replace(b"{", b'{"a": 1, "a": 2, ', 1) if doubled else content

    refused(changed(program, edit), marker, "SODA305")


def test_whole_modules(tmp_path: Path, marker: Path) -> None:
    import torch

    source = tmp_path / "module.pt"
    torch.save(torch_network(), source)
    assert "would import 'torch.nn.modules" in refused(source, marker).message


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_in_weights(legacy: bool, tmp_path: Path, marker: Path) -> None:
    torch = pytest.importorskip("torch")
    source = tmp_path / "weights.pth"
    torch.save({"weight": Payload(marker)}, source, _use_new_zipfile_serialization=not legacy)
    works(lambda: torch.load(source, weights_only=False), marker)
    assert "would import 'posix.system'" in refused(source, marker).message


def test_bare_pickles_and_joblib(tmp_path: Path, marker: Path) -> None:
    source = tmp_path / "model.joblib"
    for protocol in (2, 3, 4, 5):
        source.write_bytes(pickle.dumps(Payload(marker), protocol))
        assert "Python pickle" in refused(source, marker).message
    source.write_bytes(b"\x78\x9c" + bytes(60))
    refused(source, marker)


@pytest.mark.parametrize(
    "call",
    [
        'torch.save(x, "{marker}")',
        'torch . save(x, "{marker}")',
        'ops.aten.save(x, "{marker}")',
        'x0 = torch.from_file("{marker}", True, 10)',
    ],
)
def test_torchscript_that_writes(call: str, tmp_path: Path, marker: Path) -> None:
    good, evil = tmp_path / "good.pt", tmp_path / "evil.pt"
    save_script(torch_network(), good, trace=False)

    edited = []

    def edit(name: str, content: bytes) -> bytes:
        # container.py, or container/___torch_mangle_N.py where one was scripted before.
        if "/container" not in name or not name.endswith(".py"):
            return content
        edited.append(name)
        first = b"    input: Tensor) -> Tensor:\n"
        line = call.format(marker=marker).replace("(x,", "(input,")
        return content.replace(first, first + f"    {line}\n".encode(), 1)

    rewrite(good, evil, edit)
    assert edited
    refused(evil, marker)


def test_torchscript_that_writes_really_writes(tmp_path: Path, marker: Path) -> None:
    """torch has operators for files as functions alone; other methods are seen in the graph."""
    import torch

    class Writing(torch.nn.Module):
        def __init__(self, place: str) -> None:
            super().__init__()
            self.place = place
            self.convolution = torch.nn.Conv2d(3, 3, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            torch.save(images, self.place)
            return self.convolution(images).mean(dim=[2, 3])

    source = tmp_path / "script.pt"
    save_script(Writing(str(marker)), source, trace=False)
    works(lambda: torch.jit.load(str(source))(torch.zeros(1, 3, 8, 8)), marker)
    assert "'torch.save'" in refused(source, marker).message
    method = tmp_path / "method.pt"
    rewrite(
        source, method,
        lambda _, content: content.replace(b"torch.save(images, place)", b"images.lgamma_()"),
    )  # fmt: skip
    assert "'aten::lgamma_'" in refused(method, marker).message


def test_torchscript_methods_that_run_at_loading(tmp_path: Path, marker: Path) -> None:
    good, evil = tmp_path / "good.pt", tmp_path / "evil.pt"
    save_script(torch_network(), good, trace=False)
    rewrite(
        good, evil,
        lambda _, content: content.replace(b"  def forward(", b"  def __setstate__("),
    )  # fmt: skip
    assert "runs at loading" in refused(evil, marker).message


def test_torchscript_pickles(tmp_path: Path, marker: Path) -> None:
    good, evil = tmp_path / "good.pt", tmp_path / "evil.pt"
    save_script(torch_network(), good, trace=True)
    rewrite(
        good, evil,
        lambda name, content: (
            pickle.dumps(Payload(marker), 2) if name.endswith("/constants.pkl") else content
        ),
    )  # fmt: skip
    assert "posix.system" in refused(evil, marker).message


def keras_file(tmp_path: Path, name: str = "good.keras") -> Path:
    path = tmp_path / name
    with quietly():
        keras_network().save(path)
    return path


def with_config(good: Path, change: Callable[[Any], None]) -> Path:
    evil = good.with_name("evil.keras")

    def edit(name: str, content: bytes) -> bytes:
        if name != "config.json":
            return content
        config = json.loads(content)
        change(config)
        return json.dumps(config).encode()

    rewrite(good, evil, edit)
    return evil


@pytest.mark.parametrize(
    "layer",
    [
        {"module": "keras.layers", "class_name": "Lambda", "config": {}},
        {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "x"}},
        {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {}},
        {"module": "keras.layers", "class_name": "StringLookup", "config": {}},
        {"module": "os", "class_name": "system", "config": "touch x"},
        {"module": "builtins", "class_name": "eval", "config": "1"},
        {"module": "keras.layers", "class_name": "Dense", "registered_name": "Evil>Dense"},
        {"module": "keras.src.utils", "class_name": "Dense", "config": {}},
        {"class_name": "function", "config": "system", "module": "os"},
        {"class_name": "function", "config": {"code": "x"}, "module": "builtins"},
        {"class_name": "__lambda__", "config": {"value": "x"}},
        {"class_name": "__typespec__", "config": []},
        {"class_name": ["Dense"], "config": {}},
    ],
)
def test_keras_classes(layer: dict[str, Any], tmp_path: Path, marker: Path) -> None:
    good = keras_file(tmp_path)
    refused(with_config(good, lambda config: config["config"]["layers"].append(layer)), marker)


def test_keras_lambda(tmp_path: Path, marker: Path) -> None:
    """As Keras itself saves it, in both forms; it runs with safe_mode off."""
    network = keras_network()
    import keras

    with quietly():
        place = str(marker)
        network.add(keras.layers.Lambda(lambda x: (Path(place).touch(), x)[1]))
        marker.unlink(missing_ok=True)
        for name in ("lambda.keras", "lambda.h5"):
            network.save(tmp_path / name)
            assert "Lambda" in refused(tmp_path / name, marker).message


def test_keras_training_is_dropped(tmp_path: Path, marker: Path) -> None:
    """Optimizers and losses name classes too; none of them is needed."""
    good = keras_file(tmp_path)

    def edit(config: Any) -> None:
        config["compile_config"] = {"loss": {"module": "os", "class_name": "system"}}

    evil = with_config(good, edit)
    with quietly():
        convert_file(evil, tmp_path / "m.onnx", limits=None)
    assert not marker.exists()


def test_hdf5_links_to_other_files(tmp_path: Path, marker: Path) -> None:
    good = keras_file(tmp_path, "good.h5")
    with h5py.File(good, "a") as file:
        file["stolen"] = h5py.ExternalLink("/etc/passwd", "/")
    assert "ExternalLink" in refused(good, marker, "SODA305").message
    inside = keras_file(tmp_path)

    def edit(name: str, content: bytes) -> bytes:
        if name != "model.weights.h5":
            return content
        buffer = io.BytesIO(content)
        with h5py.File(buffer, "a") as file:
            file["stolen"] = h5py.ExternalLink("/etc/passwd", "/")
        return buffer.getvalue()

    evil = inside.with_name("evil.keras")
    rewrite(inside, evil, edit)
    assert "ExternalLink" in refused(evil, marker, "SODA305").message


def test_hdf5_without_a_model(tmp_path: Path, marker: Path) -> None:
    source = tmp_path / "weights.h5"
    with h5py.File(source, "w") as file:
        file["x"] = [1.0]
    assert isinstance(refused(source, marker, None), UnsupportedSourceError)


@pytest.mark.parametrize(
    "entry",
    [
        {"__class__": "system", "__module__": "posix", "__loader__": "FunctionNode"},
        {"__class__": "LogisticRegression", "__module__": "evil", "__loader__": "ObjectNode"},
        {"__class__": "Pipeline", "__module__": "sklearn.pipeline", "__loader__": "MethodNode"},
        {"__class__": "eval", "__module__": "builtins", "__loader__": "TypeNode"},
        {"__class__": "Bunch", "__module__": "sklearn.utils", "__loader__": "ObjectNode"},
    ],
)
def test_skops_types(entry: dict[str, Any], tmp_path: Path, marker: Path) -> None:
    source = tmp_path / "model.skops"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("schema.json", json.dumps({"content": [entry]}))
    assert isinstance(refused(source, marker), UnsafeSourceError)
