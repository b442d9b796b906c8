"""How the files of an IDX clean set are named (http://yann.lecun.com/exdb/mnist/)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

__all__ = ["label_files"]


def label_files(images: Path) -> Iterator[Path]:
    """Yield the files beside one of images that its labels may be in, the likeliest first."""
    wanted = images.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    stem = wanted.removesuffix(".gz")
    for candidate in dict.fromkeys((wanted, stem, f"{stem}.gz")):
        if candidate != images.name:
            yield images.with_name(candidate)
