"""Writers of small data sets, real files all of them."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnx_soda._data.datasets import CleanSet
from onnx_soda._data.sources import ImageShape

SHAPE = ImageShape(6, 5, 3)
GREY = ImageShape(6, 5, 1)


def random_pixels(count: int = 8, shape: ImageShape = SHAPE, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    size = (count, shape.height, shape.width, shape.channels)
    return rng.integers(0, 256, size, dtype=np.uint8)


def encode(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """Encode one (h, w, c) image; one channel becomes grey."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def write_h5(path: Path, **arrays: NDArray[Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def write_idx(path: Path, array: NDArray[np.uint8]) -> Path:
    data = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    data += array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_class_folders(root: Path, classes: dict[str, NDArray[np.uint8]]) -> Path:
    """Write each class's (n, h, w, c) images as PNG files."""
    for name, images in classes.items():
        folder = root / name
        folder.mkdir(parents=True)
        for number, pixels in enumerate(images):
            (folder / f"{number:03}.png").write_bytes(encode(pixels))
    return root


def png_of_declared_size(width: int, height: int) -> bytes:
    """Return a PNG that declares a size, and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


def read_all(clean: CleanSet, shape: ImageShape) -> NDArray[np.generic]:
    return clean.images.read(np.arange(len(clean.images)), shape)
