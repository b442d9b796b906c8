"""Which class of the model each label is: as the user says, or as the model's answers show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_soda import CleanSet, DataOptions, LabelError, load_dataset
from onnx_soda._data.class_map import find_relabelling
from onnx_soda._data.inference import infer_preprocessing
from onnx_soda._data.preprocessing import PRESETS

from .helpers import SHAPE, random_pixels, read_all, write_class_folders

PIXELS = random_pixels(3)


def pets(folder: Path, class_map: dict[str, int | None]) -> CleanSet:
    """One image each of ant (0), bee (1) and cat (2), with a class map."""
    if not (folder / "ant").exists():
        names = ("ant", "bee", "cat")
        write_class_folders(folder, {n: PIXELS[k : k + 1] for k, n in enumerate(names)})
    return load_dataset(folder, options=DataOptions(class_map=class_map))


def test_labels_get_the_classes_of_the_model(tmp_path: Path) -> None:
    clean = pets(tmp_path, {"cat": 0, "ant": 1, "bee": 3})
    assert clean.labels.tolist() == [1, 3, 0]
    # The model's class 2 has no name here.
    assert clean.class_names == ("cat", "ant", "2", "bee")
    assert np.array_equal(read_all(clean, SHAPE), PIXELS)
    assert clean.notes == ("The labels were given the classes that the class map says.",)


def test_a_label_without_a_class_is_left_out(tmp_path: Path) -> None:
    clean = pets(tmp_path, {"cat": 0, "ant": 1, "bee": None})
    assert clean.labels.tolist() == [1, 0]
    assert np.array_equal(read_all(clean, SHAPE), PIXELS[[0, 2]])
    assert clean.notes[1] == "Left out by the class map: 1 images of 'bee'."


@pytest.mark.parametrize("names", [("0", "1", "10"), ("00", "01", "10")])
def test_labels_that_are_numbers(tmp_path: Path, names: tuple[str, ...]) -> None:
    write_class_folders(tmp_path, {n: PIXELS[k : k + 1] for k, n in enumerate(names)})
    told = {names[0]: 2, "1": 0, "10": 1}
    clean = load_dataset(tmp_path, options=DataOptions(class_map=told))
    assert clean.labels.tolist() == [2, 0, 1]
    assert clean.class_names is None


@pytest.mark.parametrize(
    ("class_map", "words"),
    [
        ({"cat": 0, "ant": 1, "bee": 2, "dog": 3}, r"names 'dog', which .* does not have: its "),
        ({"cat": 0, "ant": 1}, "says nothing of 'bee'"),
        ({"0": 0, "1": 1, "2": 2}, "names '0', '1', '2', which"),
    ],
)
def test_maps_of_other_labels(tmp_path: Path, class_map: dict[str, int], words: str) -> None:
    with pytest.raises(LabelError, match=words) as caught:
        pets(tmp_path, dict(class_map))
    assert caught.value.advice


def test_one_number_written_in_two_ways(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=np.arange(3))
    told = DataOptions(class_map={"0": 0, "00": 1, "1": 2, "2": 3})
    with pytest.raises(LabelError, match="names the label '00' more than once"):
        load_dataset(tmp_path / "a.npz", options=told)


@pytest.mark.parametrize("wrong", [{"a": 1, "b": 1}, {"a": -1}, {"a": None}, {}])
def test_two_labels_of_one_class_and_other_wrong_numbers(wrong: dict[str, int | None]) -> None:
    with pytest.raises(ValueError, match="class_map must be different class numbers, 0 or more"):
        DataOptions(class_map=wrong)


def answers_of(order: list[int], each: int, stray: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, and answers by an order; the first `stray` of each class are called 0."""
    labels = np.arange(len(order)).repeat(each)
    answers = np.array(order)[labels]
    answers[np.arange(len(labels)) % each < stray] = 0
    return labels, answers


def test_answers_in_another_order_are_seen() -> None:
    labels, answers = answers_of([2, 0, 1], each=20, stray=2)
    found = find_relabelling(labels, answers, 3)
    assert found is not None
    # Of class 1, whose new class is 0, all 20 fit; of the others 18.
    assert found.pairs == ((0, 2, 0.9), (1, 0, 1.0), (2, 1, 0.9))
    assert found.accuracy == pytest.approx(56 / 60)
    assert "0 -> 2 (90%), 1 -> 0 (100%), 2 -> 1 (90%)" in found.sentence()
    assert found.class_map(None) == {"0": 2, "1": 0, "2": 1}
    # The labels had been read with a map: the new one is for the labels as they are in the file.
    given = {"x": 1, "y": 0, "z": 2, "w": None}
    assert found.class_map(given) == {"x": 0, "y": 2, "z": 1, "w": None}


def test_two_classes_changed_places_and_the_others_did_not() -> None:
    found = find_relabelling(*answers_of([0, 2, 1, 3], each=10), 4)
    assert found is not None
    assert "permuted: 1 -> 2 (100%), 2 -> 1 (100%)." in found.sentence()


@pytest.mark.parametrize(
    ("order", "each", "stray"),
    [
        ([0, 1, 2], 20, 0),  # in order
        ([0, 1, 2], 20, 8),  # in order, with many wrong answers
        ([1, 1, 1], 20, 0),  # always the same class
        ([1, 0, 2], 9, 0),  # too few images to tell
        ([1, 0, 2], 20, 15),  # the other class is rare
    ],
)
def test_answers_in_no_other_order(order: list[int], each: int, stray: int) -> None:
    labels, answers = answers_of(order, each, stray)
    assert find_relabelling(labels, answers, 3) is None


def test_the_preprocessing_is_found_in_any_order_of_the_classes() -> None:
    """With "signed" the model tells dark from light, and calls them the other way round.

    So none of its answers is a label. With "unit" it always says 1, which is right for half.
    """
    labels = np.arange(2).repeat(20)
    pixels = np.where(labels == 0, 40, 200).astype(np.uint8).reshape(-1, 1, 1, 1)

    def predict(way: object, some: np.ndarray) -> np.ndarray:
        one = some[:, 0, 0, 0] < 128 if way is PRESETS["signed"] else np.ones(len(some), bool)
        return np.stack([~one, one], axis=1).astype(np.float32)

    found = infer_preprocessing(pixels, labels, [PRESETS["unit"], PRESETS["signed"]], predict)
    assert (found.best.name, found.accuracy) == ("signed", 0.0)
