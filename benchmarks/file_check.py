"""The time of `onnx-soda check` on files of 100 MB: `python -m benchmarks.file_check [REPEATS]`.

Seconds are of the whole command, its child included. Processor time is that of all its processes:
on an idle core the command takes about as long, less what two cores do at once. It is counted too
where other work makes it wait.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.common import machine_facts, markdown_table

_REPEATS = 5
# Convolutions of 512 channels with kernels of 3 x 3: eleven have 104 MB.
_LAYERS, _CHANNELS = 11, 512


def _write_onnx(path: Path, decides: bool = False) -> None:
    numbers = np.random.default_rng(0)
    shape = (_CHANNELS, _CHANNELS, 3, 3)
    nodes, weights, last = [], [], "x"
    for layer in range(_LAYERS):
        values = numbers.standard_normal(shape).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [last, f"w{layer}"], [f"c{layer}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        last = f"r{layer}"
    if decides:
        nodes.append(helper.make_node("Greater", [last, "x"], ["high"]))
        nodes.append(helper.make_node("Where", ["high", last, "x"], ["chosen"]))
        last = "chosen"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["y"]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", _CHANNELS, side, side])
        for name, side in (("x", 8), ("y", 1))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def _write_safetensors(path: Path) -> None:
    count = _LAYERS * _CHANNELS * _CHANNELS * 9
    header = {"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
    text = json.dumps(header).encode()
    values = np.random.default_rng(0).standard_normal(count).astype(np.float32)
    path.write_bytes(len(text).to_bytes(8, "little") + text + values.tobytes())


def _write_zip(path: Path) -> None:
    import zipfile

    _write_onnx(path.with_suffix(".onnx"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(path.with_suffix(".onnx"), "model.onnx")
    path.with_suffix(".onnx").unlink()


_FILES: dict[str, Callable[[Path], None]] = {
    "model.onnx": _write_onnx,
    "decides.onnx": partial(_write_onnx, decides=True),
    "model.safetensors": _write_safetensors,
    "model.zip": _write_zip,
}


def _measured(command: list[str]) -> tuple[float, float]:
    """Return seconds and processor seconds of a command."""
    before, begin = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - begin, os.times()
    taken = after.children_user + after.children_system
    return seconds, taken - before.children_user - before.children_system


def main() -> None:
    """Print a table; of several runs the quickest counts."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else _REPEATS
    print(machine_facts())
    print()
    program = [sys.executable, "-m", "onnx_soda"]
    runs = [_measured([*program, "--version"]) for _ in range(repeats)]
    rows = [("--version", "", *(f"{min(values):.2f}" for values in zip(*runs, strict=True)))]
    with tempfile.TemporaryDirectory() as folder:
        for name, write in _FILES.items():
            path = Path(folder) / name
            write(path)
            runs = [_measured([*program, "check", str(path)]) for _ in range(repeats)]
            size = f"{path.stat().st_size / 1e6:.0f}"
            rows.append((name, size, *(f"{min(one):.2f}" for one in zip(*runs, strict=True))))
            path.unlink()
    print(markdown_table(("file", "MB", "seconds", "processor seconds"), rows))


if __name__ == "__main__":
    main()
