"""Peak memory of `onnx-soda scan --method soda`: `python -m benchmarks.memory [PART...]`.

Parts: images (clean sets of more and more images, in every form), classes, layers, large (a model
of over 2 GB with its weights outside). The scan runs as a user starts it. What counts is the peak
of the child that opens the files, over what the same command takes on the smallest case.
"""

from __future__ import annotations

import io
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.children import in_child
from benchmarks.common import machine_facts, markdown_table

_SIDE = 32
_CLASSES = 10
_HIDDEN = 64
_COUNTS = (1_000, 20_000, 200_000)
_BLOCK = 1_000
_PER_CLASS = 20
_SEED = 0
_KIB = 2**10
# Codes of a scan that was done: clean, a finding, inconclusive.
_DONE = (0, 1, 3)

Images = NDArray[np.uint8]


# --- models


def _write_model(path: Path, classes: int = _CLASSES, hidden: int = _HIDDEN) -> None:
    """Write a classifier: mean colours of 4 x 4 fields, two layers. It is untrained."""
    numbers = np.random.default_rng(_SEED)
    fields = 3 * (_SIDE // 8) ** 2
    sizes = {"first": (fields, hidden), "last": (hidden, classes)}
    weights = [
        numpy_helper.from_array(numbers.standard_normal(size).astype(np.float32), name)
        for name, size in sizes.items()
    ]
    nodes = [
        helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "first"], ["m"]),
        helper.make_node("Relu", ["m"], ["h"]),
        helper.make_node("MatMul", ["h", "last"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, _SIDE, _SIDE]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes]),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


# Rows and columns of a matrix of 2.1 GB.
_LARGE = 23_000


def _write_large(path: Path) -> None:
    """Write a classifier with a matrix of over 2 GB beside it, a few rows at a time."""
    _write_model(path, hidden=_LARGE)
    model = onnx.load(path)
    outside = path.with_suffix(".data")
    numbers = np.random.default_rng(_SEED)
    with outside.open("wb") as stream:
        for start in range(0, _LARGE, _BLOCK):
            rows = min(_BLOCK, _LARGE - start)
            block = numbers.standard_normal((rows, _LARGE), np.float32) / np.float32(_LARGE**0.5)
            stream.write(block.tobytes())
    square = TensorProto(name="square", data_type=TensorProto.FLOAT, dims=[_LARGE, _LARGE])
    square.data_location = TensorProto.EXTERNAL
    for key, value in (("location", outside.name), ("offset", 0), ("length", 4 * _LARGE**2)):
        square.external_data.add(key=key, value=str(value))
    graph = model.graph
    graph.initializer.append(square)
    graph.node[2].output[0] = "first_m"
    graph.node.insert(3, helper.make_node("Relu", ["first_m"], ["first_h"]))
    graph.node.insert(4, helper.make_node("MatMul", ["first_h", "square"], ["m"]))
    onnx.save(model, path)


# --- clean sets


def _blocks(count: int, classes: int) -> Iterator[tuple[Images, NDArray[np.int64]]]:
    """Yield images and labels: each class has a colour of its own, in noise."""
    numbers = np.random.default_rng(_SEED)
    colours = numbers.integers(0, 200, (classes, 1, 1, 3))
    for start in range(0, count, _BLOCK):
        labels = np.arange(start, min(start + _BLOCK, count)) % classes
        noise = numbers.integers(0, 56, (len(labels), _SIDE, _SIDE, 3))
        yield (colours[labels] + noise).astype(np.uint8), labels


def _hdf5(path: Path, count: int, classes: int = _CLASSES, chunked: bool = True) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        chunks = (100, _SIDE, _SIDE, 3) if chunked else None
        pixels = file.create_dataset("images", (count, _SIDE, _SIDE, 3), np.uint8, chunks=chunks)
        numbers = file.create_dataset("labels", (count,), np.int64)
        at = 0
        for images, labels in _blocks(count, classes):
            pixels[at : at + len(labels)] = images
            numbers[at : at + len(labels)] = labels
            at += len(labels)


def _npz(path: Path, count: int, packed: bool = False) -> None:
    save = np.savez_compressed if packed else np.savez
    images, labels = zip(*_blocks(count, _CLASSES), strict=True)
    save(path, images=np.concatenate(images), labels=np.concatenate(labels))


def _npy(path: Path, count: int) -> None:
    images, labels = zip(*_blocks(count, _CLASSES), strict=True)
    path.mkdir()
    np.save(path / "images.npy", np.concatenate(images))
    np.save(path / "labels.npy", np.concatenate(labels))


def _encoded(count: int) -> Iterator[tuple[str, bytes]]:
    """Yield names in class folders, and PNG files; each of them is there many times."""
    from PIL import Image

    (images, labels), *_ = _blocks(_BLOCK, _CLASSES)
    files = []
    for pixels in images:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format="PNG")
        files.append(stream.getvalue())
    for number in range(count):
        at = number % _BLOCK
        yield f"{labels[at]}/{number:07}.png", files[at]


def _tar(path: Path, count: int, mode: Literal["w", "w:gz"] = "w") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in _encoded(count):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _zip(path: Path, count: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in _encoded(count):
            archive.writestr(name, content)


def _parquet(path: Path, count: int) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())])
    with parquet.ParquetWriter(path, schema) as writer:
        names, contents = [], []
        for name, content in _encoded(count):
            names.append(int(name.partition("/")[0]))
            contents.append(content)
            if len(names) == _BLOCK:
                writer.write_table(pa.table([contents, names], schema=schema))
                names, contents = [], []
        if names:
            writer.write_table(pa.table([contents, names], schema=schema))


_FORMS: dict[str, Callable[[Path, int], None]] = {
    "set.h5": _hdf5,
    "contiguous.h5": partial(_hdf5, chunked=False),
    "set.npz": _npz,
    "packed.npz": partial(_npz, packed=True),
    "set": _npy,
    "set.tar": _tar,
    "set.tar.gz": partial(_tar, mode="w:gz"),
    "set.zip": _zip,
    "set.parquet": _parquet,
}


# --- measuring


def _peak(command: Sequence[str]) -> float:
    """Return the peak MiB of a command's largest process."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in _DONE:
        raise RuntimeError(done.stderr or done.stdout)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / _KIB


def _scan(model: Path, data: Path | None, *options: str) -> float:
    """Return the peak MiB of a scan."""
    program = [sys.executable, "-m", "onnx_soda", "scan", str(model), "--method", "soda", "-q"]
    given = ["--data", str(data), "--preprocess", "unit"] if data else []
    peak, _ = in_child(_peak, [*program, "--no-cache", *given, *options])
    return peak


def _megabytes(path: Path) -> str:
    files = path.iterdir() if path.is_dir() else [path]
    return f"{sum(file.stat().st_size for file in files) / 1e6:,.0f}"


def _images(folder: Path) -> Iterator[tuple[str, ...]]:
    model = folder / "m.onnx"
    _write_model(model)
    for name, write in _FORMS.items():
        for count in _COUNTS:
            place = folder / f"{count}-{name}"
            in_child(write, place, count)
            yield name, f"{count:,}", _megabytes(place), f"{_scan(model, place):.0f}"
            shutil.rmtree(place) if place.is_dir() else place.unlink()


def _classes(folder: Path) -> Iterator[tuple[str, ...]]:
    for classes in (10, 100, 1_000, 4_000):
        model, place = folder / f"{classes}.onnx", folder / f"{classes}.h5"
        _write_model(model, classes)
        in_child(_hdf5, place, 20 * classes, classes)
        yield (
            f"{classes} classes",
            f"{20 * classes:,}",
            _megabytes(place),
            f"{_scan(model, place):.0f}",
        )


def _layers(folder: Path) -> Iterator[tuple[str, ...]]:
    place = folder / "set.h5"
    in_child(_hdf5, place, 1_000)
    for hidden in (64, 4_096, 65_536):
        model = folder / f"{hidden}.onnx"
        _write_model(model, hidden=hidden)
        yield f"last layer of {hidden}", "1,000", _megabytes(model), f"{_scan(model, place):.0f}"


def _large(folder: Path) -> Iterator[tuple[str, ...]]:
    place, model = folder / "set.h5", folder / "large.onnx"
    in_child(_hdf5, place, 1_000)
    in_child(_write_large, model)
    weights = _megabytes(model.with_suffix(".data"))
    yield "weights outside", "1,000", weights, f"{_scan(model, place):.0f}"
    yield "weights outside, no images", "0", weights, f"{_scan(model, None):.0f}"


_PARTS = {"images": _images, "classes": _classes, "layers": _layers, "large": _large}


def main() -> None:
    """Print a table."""
    print(machine_facts())
    print()
    rows = []
    for part in sys.argv[1:] or _PARTS:
        with tempfile.TemporaryDirectory() as folder:
            for row in _PARTS[part](Path(folder)):
                print(*row, file=sys.stderr, flush=True)
                rows.append(row)
    print(markdown_table(("case", "images", "MB", "peak MiB"), rows))


if __name__ == "__main__":
    main()
