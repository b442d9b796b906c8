"""Twins in this process: what is trained, kept, refused and told."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from fixtures import boards
from onnx_soda import ImageError, OutputError, TwinOptions, TwinsAnswer, make_twins

pytest.importorskip("torch", reason="twins are trained with torch")

# Boards are told apart in a second; the usual hundred epochs would be half a minute.
QUICK = TwinOptions(epochs=20)
KEY = "onnx_soda.twin"


@dataclass(frozen=True)
class Made:
    """Twins of the boards."""

    data: Path
    folder: Path
    answer: TwinsAnswer


def make(data: Path, folder: Path, options: TwinOptions = QUICK) -> TwinsAnswer:
    return make_twins(data, folder, options=options, limits=None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("boards")
    data = boards.write(folder)[2]
    return Made(data, folder / "twins", make(data, folder / "twins"))


def test_four_networks_learn_an_easy_set(made: Made) -> None:
    twins = made.answer.twins
    assert [twin.architecture for twin in twins] == ["vgg", "resnet", "mobilenet", "densenet"]
    assert all(twin.accuracy > 0.95 and twin.sound and not twin.kept for twin in twins)
    # Of 60 images of each of the four classes every fifth is held out.
    assert (made.answer.images, made.answer.held_out, made.answer.classes) == (192, 48, 4)
    # Half way from 1/4 to 1.
    assert made.answer.bound == 0.625
    assert made.answer.sound
    assert list(contents(made.folder)) == [twin.file for twin in twins]


def test_a_file_says_where_it_comes_from(made: Made) -> None:
    twin = made.answer.twins[1]
    model = onnx.load(made.folder / twin.file)
    facts = json.loads({entry.key: entry.value for entry in model.metadata_props}[KEY])
    assert facts["tool"].startswith("onnx-soda ")
    assert len(facts["data_sha256"]) == 64
    assert (facts["architecture"], facts["number"], facts["seed"]) == ("resnet", 2, 0)
    assert (facts["epochs"], facts["images"], facts["held_out"]) == (20, 192, 48)
    assert facts["held_out_accuracy"] == round(twin.accuracy, 4)
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("images", "logits")
    batch, *rest = image.type.tensor_type.shape.dim
    assert batch.dim_param
    assert [one.dim_value for one in rest] == [3, 8, 8]
    assert [one.version for one in model.opset_import] == [17]
    assert all(len(content) < 500_000 for content in contents(made.folder).values())


def test_the_same_seed_gives_the_same_files_and_another_does_not(
    made: Made, tmp_path: Path
) -> None:
    one = replace(QUICK, count=1)
    name = one.files[0]
    make(made.data, tmp_path / "same", one)
    make(made.data, tmp_path / "other", replace(one, seed=1))
    assert (tmp_path / "same" / name).read_bytes() == (made.folder / name).read_bytes()
    assert (tmp_path / "other" / name).read_bytes() != (made.folder / name).read_bytes()


def test_more_than_four_take_the_architectures_in_turn() -> None:
    assert TwinOptions(count=6).files[3:] == (
        "twin-4-densenet.onnx",
        "twin-5-vgg.onnx",
        "twin-6-resnet.onnx",
    )


def test_what_is_there_is_kept_and_what_is_missing_is_trained(made: Made) -> None:
    before = contents(made.folder)
    missing = made.answer.twins[2].file
    (made.folder / missing).unlink()
    times = {path.name: path.stat().st_mtime_ns for path in made.folder.iterdir()}
    again = make(made.data, made.folder)
    assert [twin.kept for twin in again.twins] == [True, True, False, True]
    assert {path.name: path.stat().st_mtime_ns for path in made.folder.iterdir()}.items() >= (
        times.items()
    )
    assert contents(made.folder) == before
    assert [replace(twin, kept=False) for twin in again.twins] == list(made.answer.twins)


@pytest.mark.parametrize("other", [replace(QUICK, epochs=21), replace(QUICK, seed=1)])
def test_twins_of_other_options_are_replaced(
    made: Made, tmp_path: Path, other: TwinOptions
) -> None:
    one = replace(other, count=1)
    (tmp_path / one.files[0]).write_bytes((made.folder / one.files[0]).read_bytes())
    (twin,) = make(made.data, tmp_path, one).twins
    assert not twin.kept
    assert (tmp_path / twin.file).read_bytes() != (made.folder / twin.file).read_bytes()


def test_twins_of_other_images_are_replaced(made: Made, tmp_path: Path) -> None:
    pixels, labels = boards.images(30, seed=5)
    np.savez(tmp_path / "other.npz", images=pixels, labels=labels)
    one, folder = replace(QUICK, count=1), tmp_path / "twins"
    folder.mkdir()
    (folder / one.files[0]).write_bytes((made.folder / one.files[0]).read_bytes())
    (twin,) = make(tmp_path / "other.npz", folder, one).twins
    assert not twin.kept


def test_a_twin_that_is_not_what_it_says_is_trained_anew(made: Made, tmp_path: Path) -> None:
    one = replace(QUICK, count=1)
    model = onnx.load(made.folder / one.files[0])
    for tensor in model.graph.initializer:
        tensor.raw_data = bytes(len(tensor.raw_data))
    onnx.save(model, tmp_path / one.files[0])
    (twin,) = make(made.data, tmp_path, one).twins
    assert not twin.kept
    assert contents(tmp_path)[twin.file] == contents(made.folder)[twin.file]


@pytest.mark.parametrize("kind", ["model", "text", "link", "folder"])
def test_a_file_that_is_no_twin_is_left_alone(made: Made, tmp_path: Path, kind: str) -> None:
    foreign = tmp_path / QUICK.files[3]
    if kind == "model":
        foreign.write_bytes(boards.model().SerializeToString())
    elif kind == "text":
        foreign.write_text("notes")
    elif kind == "link":
        foreign.symlink_to(made.folder / QUICK.files[3])
    else:
        foreign.mkdir()
    with pytest.raises(OutputError, match=r"twin-4-densenet\.onnx is in the folder already"):
        make(made.data, tmp_path)
    # Nothing was trained before it was seen.
    assert [path.name for path in tmp_path.iterdir()] == [foreign.name]
    assert foreign.is_symlink() == (kind == "link")


def test_too_small_a_set_is_told(tmp_path: Path) -> None:
    pixels, labels = boards.images(12)
    few = np.flatnonzero((labels != 2) | (np.arange(len(labels)) % 2 == 0))
    np.savez(tmp_path / "few.npz", images=pixels[few], labels=labels[few])
    answer = make(tmp_path / "few.npz", tmp_path / "twins")
    assert answer.twins == ()
    assert not answer.sound
    assert answer.problem == (
        "The clean set is too small for twins: they need 10 images of each class at least, and it "
        "has 6 of class 2."
    )
    assert not (tmp_path / "twins").exists()


def test_a_twin_that_learns_nothing_is_not_written(tmp_path: Path) -> None:
    pixels, labels = boards.images(30)
    mixed = np.random.default_rng(0).permutation(labels)
    np.savez(tmp_path / "mixed.npz", images=pixels, labels=mixed)
    answer = make(tmp_path / "mixed.npz", tmp_path / "twins", replace(QUICK, count=2))
    assert [(twin.sound, twin.sha256) for twin in answer.twins] == [(False, "")] * 2
    assert all(twin.accuracy < answer.bound for twin in answer.twins)
    assert not answer.sound
    assert not (tmp_path / "twins").exists()


def test_nothing_is_written_into_the_clean_set(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="lies in the clean set"):
        make(tmp_path, tmp_path / "twins")


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    pixels, labels = boards.images(20)
    np.savez(tmp_path / "tiny.npz", images=pixels[:, :6, :6], labels=labels)
    with pytest.raises(ImageError, match="from 8 x 8 on"):
        make(tmp_path / "tiny.npz", tmp_path / "twins")
    np.savez(tmp_path / "floats.npz", images=pixels / np.float32(100) - 1, labels=labels)
    with pytest.raises(ImageError, match="no scale of pixels"):
        make(tmp_path / "floats.npz", tmp_path / "twins")


def test_progress_is_told(made: Made, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    make_twins(
        made.data, tmp_path, options=replace(QUICK, count=1), limits=None,
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    own = [(done, of) for stage, done, of in steps if stage == "twin 1 of 1, vgg"]
    # 192 images are six batches of 32, in 20 epochs.
    assert own == [(done, 120) for done in range(1, 121)]


@pytest.mark.parametrize("wrong", ["count", "epochs", "threads"])
def test_options_out_of_range_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"{wrong} must be 1 or more"):
        TwinOptions(**{wrong: 0})
