"""Clean sets as people have them, through the real command, with the child confined."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .helpers import complaint, graph, grey_pixels, invoke, soda, write_grey_case

PIXELS, LABELS = grey_pixels()
NAMES = ("ant", "bee", "cat")

Form = Callable[[Path], list[str | Path]]


def write_images(folder: Path, names: tuple[str, ...] | None = None) -> list[str]:
    """Write the images, into class folders where these have names; return where each is."""
    places = [f"{names[label] if names else '.'}/{n}.png" for n, label in enumerate(LABELS)]
    for place, pixels in zip(places, PIXELS, strict=True):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0]).save(folder / place)
    return places


def archived(kind: str) -> Form:
    def write(folder: Path) -> list[str | Path]:
        write_images(folder / "set", ("0", "1", "2"))
        return [shutil.make_archive(str(folder / "packed"), kind, folder, "set")]

    return write


def listed(folder: Path) -> list[str | Path]:
    places = write_images(folder / "set")
    lines = (f"{place},{label}" for place, label in zip(places, LABELS, strict=True))
    (folder / "set" / "labels.csv").write_text("\n".join(("image,label", *lines)))
    return [folder / "set"]


def hugging_face(folder: Path) -> list[str | Path]:
    places = write_images(folder / "set" / "validation")
    rows = ({"file_name": p, "label": int(n)} for p, n in zip(places, LABELS, strict=True))
    (folder / "set" / "validation" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [folder / "set"]


def coco(folder: Path) -> list[str | Path]:
    places = write_images(folder / "set" / "val2017")
    ids = [int(label) for label in LABELS]
    content = {
        "images": [{"id": n, "file_name": place[2:]} for n, place in enumerate(places)],
        "annotations": [{"image_id": n, "category_id": label} for n, label in enumerate(ids)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(NAMES)],
    }
    (folder / "set" / "annotations").mkdir()
    file = folder / "set" / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps(content))
    return [file]


def arrays(folder: Path) -> list[str | Path]:
    (folder / "truth").mkdir()
    np.save(folder / "pixels.npy", PIXELS)
    np.save(folder / "truth" / "numbers.npy", LABELS)
    return [folder / "pixels.npy", "--labels", folder / "truth" / "numbers.npy"]


def linked(folder: Path) -> list[str | Path]:
    (folder / "store").mkdir()
    for place in write_images(folder / "set", ("0", "1", "2")):
        kept = folder / "store" / Path(place).name
        (folder / "set" / place).rename(kept)
        (folder / "set" / place).symlink_to(kept)
    return [folder / "set", "--data-root", folder / "store"]


def renamed(folder: Path) -> list[str | Path]:
    """In the order of their names cat is class 2; here it is told to be 0."""
    write_images(folder / "set", ("cat", "bee", "ant"))
    (folder / "map.csv").write_text("label,class\ncat,0\nbee,1\nant,2\n")
    return [folder / "set", "--class-map", folder / "map.csv"]


FORMS: dict[str, Form] = {
    "zip": archived("zip"), "tar": archived("tar"), "tar.gz": archived("gztar"),
    "labels.csv": listed, "Hugging Face": hugging_face, "COCO": coco, "npy": arrays,
    "links": linked, "class map": renamed,
}  # fmt: skip


def scanned(*arguments: str | Path, cwd: Path) -> dict[str, Any]:
    done = soda("scan", *arguments, "--method", "soda", "-q", "-f", "json", cwd=cwd)
    assert done.returncode in (0, 1, 3), done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The scan with the images in one .npz file."""
    folder = tmp_path_factory.mktemp("usual")
    model, data = write_grey_case(folder)
    return scanned(model, "--data", data, cwd=folder)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_scan(form: str, tmp_path: Path, usual: dict[str, Any]) -> None:
    model, data = write_grey_case(tmp_path)
    data.unlink()
    report = scanned(model, "--data", *FORMS[form](tmp_path), cwd=tmp_path)
    assert report["verdict"] == usual["verdict"]
    for name in ("classes", "samples", "accuracy"):
        assert report["dataset"][name] == usual["dataset"][name]
    assert report["environment"]["sandbox"]["active"]


def test_links_are_not_followed_unasked(tmp_path: Path) -> None:
    model, _ = write_grey_case(tmp_path)
    done = soda("scan", model, "--data", linked(tmp_path)[0])
    assert done.returncode == 2
    assert "is a link that leaves the folder" in complaint(done.stderr)
    assert "--data-root" in done.stderr


# The class of an image is which of its first three pixels is the brightest.
BRIGHTEST = graph(
    "f = Flatten(x)  m = MatMul(f, W)  h = Relu(m)  y = MatMul(h, A)",
    "float[4,3] W = {1,0,0, 0,1,0, 0,0,1, 0,0,0}, float[3,3] A = {1,0,0, 0,1,0, 0,0,1}",
)


def test_permuted_labels_are_told_and_the_map_for_them_is_written_where_asked(
    tmp_path: Path,
) -> None:
    folder, model = tmp_path, tmp_path / "model.onnx"
    model.write_bytes(BRIGHTEST)
    classes = np.arange(3).repeat(12)
    images = (200 * np.eye(4, dtype=np.uint8))[classes].reshape(-1, 2, 2, 1)
    np.savez(folder / "permuted.npz", images=images, labels=(classes + 1) % 3)
    before = set(folder.iterdir())
    done = soda("scan", model, "-d", "permuted.npz", "--method", "soda", "-q", cwd=folder)
    assert done.returncode == 3
    told = " ".join(done.stdout.split())
    assert "permuted: 0 -> 2 (100%), 1 -> 0 (100%), 2 -> 1 (100%)." in told
    assert "give it as --class-map" in told
    assert "--class-map-output FILE writes the class map" in done.stderr
    assert set(folder.iterdir()) == before
    out = folder / "map.json"
    done = soda("scan", model, "-d", "permuted.npz", "--method", "soda", "-q", "-f", "json",
                "--class-map-output", out, cwd=folder)  # fmt: skip
    assert json.loads(done.stdout)["dataset"]["suggested_class_map"] == {"0": 2, "1": 0, "2": 1}
    assert json.loads(out.read_text()) == {"0": 2, "1": 0, "2": 1}
    report = scanned(model, "-d", "permuted.npz", "--class-map", out, cwd=folder)
    assert report["dataset"]["accuracy"] == 1.0
    assert report["dataset"]["suggested_class_map"] is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"0": 1, "1": 1, "2": 2}', "1 is named more than once"),
        ('{"0": 1, "0": 0}', "the label '0' is named more than once"),
        ("0,1\n1,2\n0,2\n", "the label '0' is named more than once"),
        ("label,class\n0,one\n", "the line '0,one' is no label and class number"),
        ('{"0": -1}', "0 or more"),
        ('{"0": 1.5}', "no class map"),
        ("[", "no class map"),
        ('{"0": 0, "1": 1, "two": 2}', "'two', which clean.npz does not have"),
        ("[0, 1]", "says nothing of '2'"),
        ("[0, 1, 3]", "outside the model's classes 0..2: 3"),
    ],
)
def test_wrong_class_maps(text: str, words: str, tmp_path: Path) -> None:
    model, data = write_grey_case(tmp_path)
    (tmp_path / "map").write_text(text)
    done = invoke("scan", model, "-d", data, "--class-map", tmp_path / "map")
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.split())
    assert str(tmp_path) not in done.stderr


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("nothing.h5", "nothing.h5 is not there"),
        ("empty.h5", "empty.h5 is empty"),
        ("empty", "empty holds no class folders"),
        ("set.txt", "set.txt is of no format known here"),
        ("page.h5", "page.h5 is a web page"),
    ],
)
def test_wrong_data_is_told_once_for_many_models(data: str, words: str, tmp_path: Path) -> None:
    """A child for each of the models would take minutes."""
    (tmp_path / "models").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.h5").touch()
    (tmp_path / "set.txt").write_text("images")
    (tmp_path / "page.h5").write_text("<html>404</html>")
    model, _ = write_grey_case(tmp_path)
    for number in range(50):
        shutil.copy(model, tmp_path / "models" / f"{number}.onnx")
    begin = time.monotonic()
    done = soda("scan", tmp_path / "models", "-d", tmp_path / data, "--reference", model)
    assert time.monotonic() - begin < 20
    assert (done.returncode, done.stdout) == (2, "")
    assert words in complaint(done.stderr)
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_damaged_data_is_told_once_for_many_models(jobs: int, tmp_path: Path) -> None:
    """The first child that opens it tells; no other model is begun."""
    model, data = write_grey_case(tmp_path)
    (tmp_path / "models").mkdir()
    for number in range(20):
        shutil.copy(model, tmp_path / "models" / f"{number}.onnx")
    data.write_bytes(data.read_bytes()[:-30])
    done = soda("scan", tmp_path / "models", "-d", data, "--no-cache", "--jobs", jobs, "-q")
    assert (done.returncode, done.stdout) == (2, "")
    assert "clean.npz cannot be read" in complaint(done.stderr)
