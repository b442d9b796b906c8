"""Clean sets as images with a list: labels.csv, Hugging Face's metadata, COCO's annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_soda._data.datasets import CleanSet, load_dataset
from onnx_soda._errors import DatasetFileError, LabelError
from onnx_soda._options import DataOptions

from .helpers import SHAPE, encode, random_pixels, read_all, write_class_folders

PIXELS = random_pixels(4)
NAMES = ("a.png", "b.png", "sub/c.png", "d.png")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with four images; each test writes the list."""
    for name, pixels in zip(NAMES, PIXELS, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode(pixels))
    return tmp_path


def shown(clean: CleanSet) -> list[tuple[int, int]]:
    """Return for each image which of `PIXELS` it is, and its label."""
    read = read_all(clean, SHAPE)
    which = [
        next(n for n, one in enumerate(PIXELS) if np.array_equal(one, image)) for image in read
    ]
    return list(zip(which, clean.labels.tolist(), strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "image,label\na.png,cat\nb.png,dog\nsub/c.png,cat\nd.png,ant\n",
        "a.png,cat\nb.png,dog\nsub/c.png,cat\nd.png,ant\n",
        "\ufefffilename;class\r\na.png;cat\r\nb.png;dog\r\nc.png;cat\r\n./d.png;ant\r\n",
        "id\tx\tcategory\na\t1\tcat\nb\t1\tdog\n\nsub\\c\t1\tcat\nd\t1\tant\n",
    ],
    ids=["header", "no header", "semicolons and marks of Windows", "names without endings"],
)
def test_labels_in_a_csv_beside_the_images(images: Path, text: str) -> None:
    (images / "labels.csv").write_text(text, encoding="utf-8")
    clean = load_dataset(images)
    # In alphabetical order: ant, cat, dog.
    assert shown(clean) == [(0, 1), (1, 2), (3, 0), (2, 1)]
    assert clean.class_names == ("ant", "cat", "dog")
    assert clean.notes == ()
    assert load_dataset(images / "labels.csv").labels.tolist() == clean.labels.tolist()


def test_labels_that_are_numbers_are_class_numbers(images: Path) -> None:
    (images / "labels.csv").write_text("a.png,10\nb.png,2\nc.png,2.0\nd.png,0\n")
    clean = load_dataset(images)
    assert shown(clean) == [(0, 10), (1, 2), (3, 0), (2, 2)]
    assert clean.class_names is None
    assert clean.notes == (
        "The labels in labels.csv are whole numbers, which are taken as class numbers.",
    )


def test_what_a_csv_leaves_open_is_counted_and_named(images: Path) -> None:
    (images / "e.png").write_bytes(encode(PIXELS[0]))
    (images / "labels.csv").write_text(
        "image,label\na.png,cat\nb.png,dog\nb.png,cat\nc.png,\ngone.png,cat\nd.png,dog\nd.png,dog\n"
    )
    clean = load_dataset(images)
    assert shown(clean) == [(0, 0), (3, 1)]
    assert clean.notes == (
        "Left out: 1 row whose image is not there (gone.png).",
        "Left out: 1 image with several labels (b.png).",
        "Left out: 1 image without a label (sub/c.png).",
        "Left out: 1 image that is not in the list (e.png).",
    )


def test_a_name_that_two_images_have_is_no_name(images: Path) -> None:
    (images / "sub" / "a.png").write_bytes(encode(PIXELS[1]))
    (images / "labels.csv").write_text("a.png,cat\nsub/a.png,dog\nelsewhere/a.png,dog\n")
    clean = load_dataset(images)
    assert shown(clean) == [(0, 0), (1, 1)]
    assert "1 row whose image is not there (elsewhere/a.png)" in clean.notes[0]


def test_a_column_for_the_split(images: Path) -> None:
    (images / "labels.csv").write_text(
        "image,label,split\na.png,cat,train\nb.png,dog,train\nc.png,dog,valid\nd.png,ant,test\n"
    )
    assert shown(load_dataset(images)) == [(3, 0)]
    # The classes of all splits are numbered together.
    assert shown(load_dataset(images, "train")) == [(0, 1), (1, 2)]
    assert shown(load_dataset(images, "val")) == [(2, 2)]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_hugging_face_metadata(images: Path, name: str) -> None:
    rows = [("a.png", 1), ("b.png", 0), ("sub/c.png", 1), ("d.png", 0)]
    if name.endswith(".csv"):
        text = "file_name,caption,label\n" + "".join(f'{file},"x, y",{n}\n' for file, n in rows)
    else:
        text = "\n".join(json.dumps({"file_name": file, "label": n}) for file, n in rows)
    (images / name).write_text(text)
    assert shown(load_dataset(images)) == [(0, 1), (1, 0), (3, 0), (2, 1)]


def test_metadata_as_the_path_of_the_clean_set(images: Path) -> None:
    (images / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "label": 5}))
    assert shown(load_dataset(images / "metadata.jsonl")) == [(0, 5)]


def test_hugging_face_metadata_in_each_split(tmp_path: Path) -> None:
    for split, name, label, pixels in (
        ("train", "a.png", "cat", PIXELS[0]),
        ("test", "a.png", "dog", PIXELS[1]),
    ):
        (tmp_path / split).mkdir()
        (tmp_path / split / name).write_bytes(encode(pixels))
        line = json.dumps({"file_name": name, "label": label})
        (tmp_path / split / "metadata.jsonl").write_text(line + "\n")
    clean = load_dataset(tmp_path)
    assert shown(clean) == [(1, 1)]
    assert clean.class_names == ("cat", "dog")
    assert clean.notes == ("Images are those of the test split.",)


def test_several_labels_in_one_row_are_none(images: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"file_name": "a.png", "label": ["cat"]},
        {"file_name": "b.png", "label": ["cat", "dog"]},
        {"file_name": "c.png", "label": None},
        {"file_name": "d.png", "label": "dog"},
    ]
    (images / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    clean = load_dataset(images)
    assert shown(clean) == [(0, 0), (3, 1)]
    assert clean.notes == (
        "Left out: 1 image with several labels (b.png).",
        "Left out: 1 image without a label (sub/c.png).",
    )


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "labels.csv",
            "picture,label\na.png,1\n",
            "no column for the image: it has picture, label",
        ),
        (
            "labels.csv",
            "image,species\na.png,1\n",
            "no column for the label: it has image, species",
        ),
        ("labels.csv", "a.png\nb.png\n", "has no two columns"),
        ("metadata.jsonl", '{"file_name": "a.png", "label": 1}\n{"file', "line 2 is no JSON"),
        ("metadata.jsonl", "[1]\n", "line 1 is no JSON object"),
    ],
)
def test_lists_that_are_wrong(images: Path, name: str, text: str, words: str) -> None:
    (images / name).write_text(text)
    with pytest.raises(DatasetFileError, match=words) as caught:
        load_dataset(images)
    assert caught.value.advice


def test_a_list_of_other_images(images: Path) -> None:
    (images / "labels.csv").write_text("image,label\nx.png,1\ny.png,2\n")
    with pytest.raises(LabelError, match=r"gives no image of .* a label"):
        load_dataset(images)


def test_a_list_that_lies_elsewhere(images: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "truth.csv"
    other.write_text("a.png,1\nb.png,0\nsub/c.png,1\nd.png,0\n")
    clean = load_dataset(images, options=DataOptions(labels=str(other)))
    assert shown(clean) == [(0, 1), (1, 0), (3, 0), (2, 1)]
    before = clean.sha256
    other.write_text("a.png,0\nb.png,1\nsub/c.png,1\nd.png,0\n")
    assert load_dataset(images, options=DataOptions(labels=str(other))).sha256 != before


def test_an_hdf5_file_has_its_labels_itself(images: Path) -> None:
    np.savez(images / "set.npz", images=PIXELS, labels=np.arange(4))
    with pytest.raises(DatasetFileError, match="has its labels itself"):
        load_dataset(images / "set.npz", options=DataOptions(labels=str(images / "set.npz")))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "ClassId,Name\n0,stop\n1,go\n"),
        ("metadata.csv", "file_name,caption\n0/a.png,a sign\n"),
        ("annotations.json", '{"tool": "another"}'),
        ("mean.npy", "not an array of images"),
    ],
)
def test_a_list_of_something_else_beside_class_folders(
    tmp_path: Path, name: str, text: str
) -> None:
    write_class_folders(tmp_path, {"0": PIXELS[:1], "1": PIXELS[1:2]})
    (tmp_path / name).write_text(text)
    clean = load_dataset(tmp_path)
    assert shown(clean) == [(0, 0), (1, 1)]
    if not name.endswith(".npy"):
        assert clean.notes[0].startswith("The class folders tell the labels, and not the list")
        assert name in clean.notes[0] or "has no column" in clean.notes[0]
    (note,) = (one for one in clean.notes if one.startswith("Left out"))
    assert name in note


def coco(labels: dict[str, list[int]], categories: list[dict[str, Any]]) -> str:
    return json.dumps(
        {
            "info": {"year": 2017},
            "images": [
                {"id": n, "file_name": name, "width": 5} for n, name in enumerate(labels, 100)
            ],
            "annotations": [
                {"id": 1, "image_id": n, "category_id": label, "bbox": [0, 0, 5, 6]}
                for n, found in enumerate(labels.values(), 100)
                for label in found
            ],
            "categories": categories,
        }
    )


PETS = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]


def test_coco_annotations_with_one_category_of_each_image(images: Path) -> None:
    """Several boxes of one category are one label; images of several categories are left out."""
    labels = {"a.png": [7], "b.png": [3, 3], "sub/c.png": [3, 7], "d.png": []}
    (images / "annotations.json").write_text(coco(labels, PETS))
    for path in (images, images / "annotations.json"):
        clean = load_dataset(path)
        assert shown(clean) == [(0, 1), (1, 0)]
        assert clean.class_names == ("dog", "cat")
        assert clean.notes == (
            "The categories are numbered in the order of their ids: dog (3) is class 0.",
            "Left out: 1 image with several labels (sub/c.png).",
            "Left out: 1 image without a label (d.png).",
        )


def test_coco_as_it_is_published(tmp_path: Path) -> None:
    """Annotations in a folder beside those of the images, named by split and year."""
    for split, pixels in (("train2017", PIXELS[0]), ("val2017", PIXELS[1])):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"{split}.jpg").write_bytes(encode(pixels))
        (tmp_path / "annotations").mkdir(exist_ok=True)
        file = tmp_path / "annotations" / f"instances_{split}.json"
        file.write_text(coco({f"{split}.jpg": [7]}, PETS))
    clean = load_dataset(tmp_path)
    assert shown(clean) == [(1, 1)]
    assert "Images are those of the val split." in clean.notes
    assert shown(load_dataset(tmp_path / "annotations" / "instances_train2017.json")) == [(0, 1)]


def test_coco_as_roboflow_writes_it(tmp_path: Path) -> None:
    """A category that only stands for the others has no images, and is no class."""
    categories = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "pets"},
        {"id": 2, "name": "dog", "supercategory": "pets"},
    ]
    for split, label in (("train", 1), ("valid", 2)):
        (tmp_path / split).mkdir()
        (tmp_path / split / "x.png").write_bytes(encode(PIXELS[label]))
        text = coco({"x.png": [label]}, categories)
        (tmp_path / split / "_annotations.coco.json").write_text(text)
    clean = load_dataset(tmp_path)
    assert shown(clean) == [(2, 1)]
    assert clean.class_names == ("cat", "dog")
    assert "Left out: 1 category that has no images (pets)." in clean.notes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"images": []}', "is no file of COCO annotations"),
        (coco({"a.png": [5]}, PETS), "has no category 5"),
        ("{", "is no file of COCO annotations"),
    ],
)
def test_coco_that_is_wrong(images: Path, text: str, words: str) -> None:
    (images / "annotations.json").write_text(text)
    with pytest.raises(DatasetFileError, match=words) as caught:
        load_dataset(images)
    assert caught.value.advice
