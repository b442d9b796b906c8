"""Clean sets in Parquet, as Hugging Face writes them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_soda._data.datasets import load_dataset
from onnx_soda._errors import DatasetFileError, ImageError, LabelError

from .helpers import SHAPE, encode, random_pixels, read_all

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGES, LABELS = random_pixels(7), [0, 1, 2, 0, 1, 2, 0]
STRUCTS = [{"bytes": encode(image), "path": f"{i}.png"} for i, image in enumerate(IMAGES)]


def write(
    path: Path, images: list[Any], labels: list[Any], column: str = "image", **kinds: Any
) -> Path:
    table = pa.table({column: pa.array(images, type=kinds.get("kind")), "label": labels})
    features = {"label": {"names": ["ant", "bee", "cow"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=3)
    return path


def test_a_hugging_face_file(tmp_path: Path) -> None:
    clean = load_dataset(write(tmp_path / "pets.parquet", STRUCTS, LABELS))
    assert clean.class_names == ("ant", "bee", "cow")
    assert clean.labels.tolist() == LABELS
    assert clean.images.native == SHAPE
    assert np.array_equal(clean.images.read(np.array([6, 0, 3, 3]), SHAPE), IMAGES[[6, 0, 3, 3]])
    assert clean.notes == ()


def test_plain_binary_images(tmp_path: Path) -> None:
    plain = [entry["bytes"] for entry in STRUCTS]
    for kind in (pa.binary(), pa.large_binary()):
        clean = load_dataset(write(tmp_path / "a.parquet", plain, LABELS, "img", kind=kind))
        assert np.array_equal(read_all(clean, SHAPE), IMAGES)


def test_the_name_of_the_file_tells_its_split(tmp_path: Path) -> None:
    path = write(tmp_path / "validation-00000-of-00001.parquet", STRUCTS, LABELS)
    assert load_dataset(path).notes == ("Images are those of the val split.",)
    with pytest.raises(DatasetFileError, match="no test split: it has only val"):
        load_dataset(path, "test")


def test_a_file_without_metadata(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": STRUCTS, "labels": LABELS}), tmp_path / "a.parquet")
    assert load_dataset(tmp_path / "a.parquet").class_names is None


def test_paths_instead_of_images(tmp_path: Path) -> None:
    paths = [{"path": "/etc/passwd"}] * 7
    with pytest.raises(DatasetFileError, match="without the images' bytes"):
        load_dataset(write(tmp_path / "a.parquet", paths, LABELS))


def test_an_image_without_bytes_is_named(tmp_path: Path) -> None:
    structs = [*STRUCTS[:4], {"bytes": None, "path": "/etc/passwd"}, *STRUCTS[5:]]
    clean = load_dataset(write(tmp_path / "a.parquet", structs, LABELS))
    with pytest.raises(ImageError, match=r"a\.parquet: image 4 has no bytes"):
        read_all(clean, SHAPE)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", STRUCTS, LABELS, "photo")
    with pytest.raises(DatasetFileError, match="no column image or img: it has photo, label"):
        load_dataset(path)


@pytest.mark.parametrize("labels", [["a"] * 7, [0, 1, None, 0, 1, 2, 0]])
def test_labels_that_are_no_numbers(tmp_path: Path, labels: list[Any]) -> None:
    with pytest.raises(LabelError, match=r"a\.parquet: label"):
        load_dataset(write(tmp_path / "a.parquet", STRUCTS, labels))


def test_a_truncated_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", STRUCTS, LABELS)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DatasetFileError, match=r"a\.parquet cannot be read"):
        load_dataset(path)


def test_without_pyarrow_the_advice_is_to_install_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", STRUCTS, LABELS)
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from onnx_soda._data.datasets import load_dataset\n"
        "from onnx_soda._errors import DatasetFileError\n"
        "try: load_dataset(sys.argv[1])\n"
        "except DatasetFileError as error: print(error.advice)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == 'In a checkout of onnx-soda: pip install ".[parquet]"'
