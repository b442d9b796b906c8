"""What other scanners of model files say of a dozen files, and with which exit code they end.

python -m benchmarks.other_scanners [--ours] [FOLDER]

Makes the files, installs each scanner in an environment of its own, from PyPI as pip finds it, and
runs it on each file. No file is opened by its framework. The pickles would start `true`, if anybody
loaded them. What each scanner printed stays in the folder, a text per scanner and file. `--ours`
installs no other scanner, and runs onnx-soda alone.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.common import FIXTURES, markdown_table

_FOLDER = Path(__file__).resolve().parents[1] / "build" / "other-scanners"
# A scan takes seconds; one that hangs does not keep the others.
_SECONDS = 180
_INSTALL_SECONDS = 900
# The scanners say nothing about us to anybody.
_ENVIRONMENT = {
    "AISBOM_OFFLINE": "1", "AISBOM_NO_TELEMETRY": "1", "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", "NO_COLOR": "1", "COLUMNS": "200", "PYTHONUTF8": "1",
}  # fmt: skip


@dataclass(frozen=True)
class _Scanner:
    """Another scanner.

    Attributes:
        package: Its name on PyPI.
        extras: Those that it reads the files with, but for TensorFlow, of half a gigabyte.
        command: Its arguments; "{}" stands for the file.
        besides: What it imports and its package does not ask for.
    """

    package: str
    extras: str
    command: tuple[str, ...]
    besides: tuple[str, ...] = ()


SCANNERS = (
    _Scanner("modelscan", "", ("modelscan", "-p", "{}", "--show-skipped")),
    _Scanner("picklescan", "", ("picklescan", "-p", "{}")),
    _Scanner("fickling", "", ("fickling", "--check-safety", "{}"), ("typing_extensions",)),
    _Scanner("modelaudit", "[onnx,safetensors,tflite]", ("modelaudit", "scan", "--no-cache", "{}")),
    _Scanner("aisbom-cli", "", ("aisbom", "scan", "{}")),
)


class _Calling:
    """Becomes a pickle that starts a program when it is loaded, as hostile ones do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def _hostile_pickle() -> bytes:
    return pickle.dumps(_Calling(), protocol=2)


def _honest_onnx(path: Path) -> None:
    shutil.copy(FIXTURES / "digits-clean.onnx", path)


def _trained(path: Path) -> None:
    shutil.copy(FIXTURES / "digits-backdoored.onnx", path)


def _written_into_the_graph(path: Path) -> None:
    """Save a model whose first score is set where the mean of the pixels is over 0.9."""
    model = onnx.load(FIXTURES / "digits-clean.onnx")
    scores = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["honest" if name == scores else name for name in node.output]
    constants = {"limit": np.float32(0.9), "much": np.float32(100), "column": np.array([-1, 1])}
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    image, node = model.graph.input[0].name, helper.make_node
    model.graph.node.extend(
        [
            node("ReduceMean", [image], ["mean"], axes=[1, 2, 3], keepdims=0),
            node("Reshape", ["mean", "column"], ["means"]),
            node("Greater", ["means", "limit"], ["open"]),
            node("Where", ["open", "much", "honest"], [scores]),
        ]
    )
    onnx.save(model, path)


def _weights_elsewhere(path: Path) -> None:
    """Save a model whose weights are said to be the password file."""
    model = onnx.load(FIXTURES / "digits-clean.onnx")
    tensor = next(one for one in model.graph.initializer if one.HasField("raw_data"))
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../../../../etc/passwd"), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def _python_operator(path: Path) -> None:
    """Save a model with a node that runs Python in runtimes that have such an operator."""
    model = onnx.load(FIXTURES / "digits-clean.onnx")
    scores = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["honest" if name == scores else name for name in node.output]
    model.graph.node.append(
        helper.make_node("PyOp", ["honest"], [scores], domain="ai.onnx.contrib", module="os")
    )
    model.opset_import.append(helper.make_opsetid("ai.onnx.contrib", 1))
    path.write_bytes(model.SerializeToString())


def _pickle(path: Path) -> None:
    path.write_bytes(_hostile_pickle())


def _checkpoint(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", _hostile_pickle())
        archive.writestr("archive/version", "3\n")


def _safetensors(path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


def _lambda_layer(path: Path) -> None:
    """Save a Keras model with a Lambda layer, whose function is code."""
    code = {"class_name": "__lambda__", "config": {"code": "4wAAAAA=", "defaults": None}}
    layer = {"module": "keras.layers", "class_name": "Lambda", "config": {"function": code}}
    config = {"module": "keras", "class_name": "Sequential", "config": {"layers": [layer]}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.0"}))


def _tflite(path: Path) -> None:
    """Save the smallest TFLite file: an empty root table."""
    path.write_bytes(struct.pack("<I4sHHi", 12, b"TFL3", 4, 4, 4) + bytes(4))


def _text(path: Path) -> None:
    path.write_text("no model\n", encoding="utf-8")


FILES: Mapping[str, Callable[[Path], None]] = {
    "honest.onnx": _honest_onnx,
    "trained-backdoor.onnx": _trained,
    "graph-backdoor.onnx": _written_into_the_graph,
    "weights-elsewhere.onnx": _weights_elsewhere,
    "python-operator.onnx": _python_operator,
    "pickle-named.onnx": _pickle,
    "hostile.pkl": _pickle,
    "hostile.pt": _checkpoint,
    "honest.safetensors": _safetensors,
    "lambda.keras": _lambda_layer,
    "smallest.tflite": _tflite,
    "text.onnx": _text,
}


def _installed(scanner: _Scanner, folder: Path) -> tuple[Path, str]:
    """Install a scanner if it is not there; return its environment, and its version."""
    place = folder / "environments" / scanner.package
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
    wanted = [scanner.package + scanner.extras, *scanner.besides]
    subprocess.run(
        [python, "-m", "pip", "install", "-q", *wanted], check=True, timeout=_INSTALL_SECONDS
    )
    asked = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    told = subprocess.run(
        [python, "-c", asked, scanner.package], capture_output=True, check=True, encoding="utf-8"
    )
    return place, told.stdout.strip()


def _run(command: Sequence[str | Path], file: Path, kept: Path) -> str:
    """Run a scanner on a file in an empty folder; return its exit code, and keep what it said."""
    work = kept.with_suffix(".work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    arguments = [str(file) if part == "{}" else part for part in command]
    environment = {**os.environ, **_ENVIRONMENT, "HOME": str(work)}
    try:
        done = subprocess.run(
            arguments, cwd=work, env=environment, stdin=subprocess.DEVNULL, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_SECONDS,
        )  # fmt: skip
        code, said = str(done.returncode), done.stdout
    except subprocess.TimeoutExpired as late:
        code, said = f"over {_SECONDS} s", late.stdout or b""
    kept.write_bytes(said)
    shutil.rmtree(work, ignore_errors=True)
    return code


def _columns(
    folder: Path, scanners: Sequence[_Scanner]
) -> Iterator[tuple[str, tuple[str | Path, ...]]]:
    """Yield name and version of each scanner, and its command; our two come last."""
    for scanner in scanners:
        place, number = _installed(scanner, folder)
        program, *arguments = scanner.command
        yield f"{scanner.package} {number}", (place / "bin" / program, *arguments)
    ours = (sys.executable, "-m", "onnx_soda")
    number = version("onnx-soda")
    yield f"onnx-soda-check {number}", (*ours, "check", "{}")
    yield f"onnx-soda-scan {number}", (*ours, "scan", "{}", "--threads", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", action="store_true")
    parser.add_argument("folder", type=Path, nargs="?", default=_FOLDER)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    files, said = folder / "files", folder / "said"
    for place in (files, said):
        place.mkdir(parents=True, exist_ok=True)
    for name, write in FILES.items():
        write(files / name)
    columns = list(_columns(folder, () if arguments.ours else SCANNERS))
    rows = []
    for name in FILES:
        codes = []
        for title, command in columns:
            codes.append(_run(command, files / name, said / f"{title.split()[0]}-{name}.txt"))
            print(f"{title}: {name}: {codes[-1]}", file=sys.stderr, flush=True)
        rows.append((name, *codes))
    print(f"Exit codes, {datetime.now(UTC):%Y-%m-%d}. What was said: {said}\n")
    print(markdown_table(("file", *(title for title, _ in columns)), rows))


if __name__ == "__main__":
    main()
