"""Large clean sets: rows are read when they are asked for, and the whole is not kept."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from onnx_soda._data import arrays, idx, npz
from onnx_soda._data.datasets import load_dataset
from onnx_soda._errors import DatasetFileError
from onnx_soda._suspect import Observation, summarise

from .helpers import SHAPE, random_pixels

IMAGES, LABELS = random_pixels(50), np.arange(50) % 5
KINDS = ("set.npz", "packed.npz", "folder", "chunks.h5", "whole.h5", "packed.h5", "idx", "idx.gz")
# Back, twice the same, a run, all.
ORDERS = ([49, 0, 7], [3, 3, 2], [10, 11, 12, 13, 40], list(range(50)))


def write(
    folder: Path, kind: str, images: np.ndarray = IMAGES, labels: np.ndarray = LABELS
) -> Path:
    """Write a clean set; return its path."""
    path = folder / kind
    if kind.endswith(".npz"):
        (np.savez_compressed if "packed" in kind else np.savez)(path, images=images, labels=labels)
    elif kind == "folder":
        path.mkdir()
        np.save(path / "images.npy", images)
        np.save(path / "labels.npy", labels)
    elif kind.endswith(".h5"):
        chunks = None if "whole" in kind else (8, *images.shape[1:])
        packing = "gzip" if "packed" in kind else None
        with h5py.File(path, "w") as file:
            file.create_dataset("images", data=images, chunks=chunks, compression=packing)
            file["labels"] = labels
    else:
        path.mkdir()
        for name, data in (("t10k-images-idx4-ubyte", images), ("t10k-labels-idx1-ubyte", labels)):
            head = struct.pack(f">BBBB{data.ndim}I", 0, 0, 8, data.ndim, *data.shape)
            content = head + data.astype(np.uint8).tobytes()
            packed = kind == "idx.gz"
            (path / (name + ".gz" * packed)).write_bytes(
                gzip.compress(content) if packed else content
            )
    return path


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is too large to be kept."""
    for module in (arrays, idx, npz):
        monkeypatch.setattr(module, "KEPT_BYTES", 100)


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_large_sets_are_read_in_any_order(tmp_path: Path, kind: str) -> None:
    clean = load_dataset(write(tmp_path, kind))
    for order in ORDERS:
        assert np.array_equal(clean.images.read(np.array(order), SHAPE), IMAGES[order])
    assert np.array_equal(clean.labels, LABELS)


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("kind", ["set.npz", "packed.npz"])
def test_arrays_that_stand_by_columns_are_read_whole(tmp_path: Path, kind: str) -> None:
    clean = load_dataset(write(tmp_path, kind, np.asfortranarray(IMAGES)))
    assert np.array_equal(clean.images.read(np.array([4, 2]), SHAPE), IMAGES[[4, 2]])


@pytest.mark.usefixtures("small_memory")
def test_a_large_file_that_was_cut_meanwhile_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, "folder")
    clean = load_dataset(path)
    content = (path / "images.npy").read_bytes()
    (path / "images.npy").write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetFileError, match=r"images\.npy cannot be read: it is cut short"):
        clean.images.read(np.array([49]), SHAPE)


def test_a_scan_of_a_set_larger_than_its_memory(tmp_path: Path) -> None:
    """Reading an image here and there of 92 MB takes less than 50 MB more than of 0.3 MB."""
    grown = {kind: _growth(tmp_path, kind) for kind in ("set.npz", "packed.npz", "folder")}
    assert max(grown.values()) < 50, grown


def _growth(folder: Path, kind: str) -> float:
    program = (
        "import resource, sys\nimport numpy as np\n"
        "from onnx_soda._data.datasets import load_dataset\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "clean = load_dataset(sys.argv[1])\n"
        "rows = np.arange(0, len(clean.images), max(len(clean.images) // 50, 1))\n"
        "clean.images.read(rows, clean.images.native)\nprint(peak())\n"
    )
    peaks = []
    for count in (100, 30_000):
        images = np.zeros((count, 32, 32, 3), np.uint8)
        path = write(folder, kind, images, np.arange(count) % 5)
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True,
                              text=True, check=True)  # fmt: skip
        peaks.append(float(done.stdout))
        path.rename(folder / f"{count}-{kind}")
    return peaks[1] - peaks[0]


def test_of_many_images_the_values_are_asked_for_again() -> None:
    """Two blocks of 40 MB each: means and answers are kept, the layer of 256 rows."""
    rng = np.random.default_rng(0)
    labels = np.arange(2_000) % 4
    logits = rng.standard_normal((2_000, 4)).astype(np.float32)
    layer = rng.standard_normal((2_000, 10_000)).astype(np.float32)
    runs = []

    def blocks() -> Iterator[Observation]:
        runs.append(1)
        for part in (slice(0, 1_000), slice(1_000, None)):
            yield Observation(labels[part], logits[part], layer[part], {})

    found = summarise(blocks)
    assert found.layer.shape == (256, 10_000)
    assert found.accuracy == (logits.argmax(axis=1) == labels).mean()
    for label in range(4):
        np.testing.assert_allclose(found.logits[label], logits[labels == label].mean(axis=0), 1e-5)
    again = np.concatenate([block.layer for block in found.blocks()])
    assert np.array_equal(again, layer)
    assert len(runs) == 2


def test_of_few_images_all_values_are_kept() -> None:
    values = np.eye(4, dtype=np.float32)
    seen = Observation(np.arange(4), values, 2 * values, {"side": 3 * values})
    waiting = iter([iter([seen])])
    found = summarise(lambda: next(waiting))
    assert np.array_equal(found.layer, 2 * values)
    for _ in range(2):  # without asking again
        (one,) = found.blocks()
        assert np.array_equal(one.sides["side"], 3 * values)
    assert (found.accuracy, found.classes) == (1.0, 4)
