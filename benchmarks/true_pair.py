"""Why a backdoor of 203 classes is not found: the terms of the true pair's score.

    python -m benchmarks.true_pair

Takes what `python -m benchmarks.joined_network` made. The concepts of the battery that are nearest
to the trigger (inversion, and tints towards blue) are shown on all images of the victim that the
search may read, and on four of each other class: once of all classes, once of the ten digits alone.
Prints Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from benchmarks.common import MANY_CLASSES, markdown_table
from onnx_soda import RuntimeOptions, ScanOptions, load_dataset, load_model
from onnx_soda._detect.concepts.battery import concept_battery
from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.examination import (
    FoldedImages,
    Reader,
)
from onnx_soda._detect.concepts.experiment import fit_examination
from onnx_soda._detect.concepts.folds import FOLDS, split_into_folds
from onnx_soda._detect.concepts.judge import simultaneous_errors
from onnx_soda._detect.concepts.reference import read_features
from onnx_soda._detect.concepts.score import damage_to_others, excess
from onnx_soda._suspect import Suspect

_DIGITS, _CHANNELS = 10, 3
_BLUE = 2
_COLUMNS = (
    "others", "images of the victim in a half", "8 and 3 alike", "concept", "excess", "damage",
    "score", "standard error", "errors between score and bound",
)  # fmt: skip


def _near_the_trigger() -> list[Concept]:
    """Return inversion, and the strong tints that are blue above all."""
    battery = concept_battery(_CHANNELS)
    tints = [one for one in battery if one.family == "tint" and one.values["strength"][0] > 0.5]
    blue = [one for one in tints if np.argmax(one.values["colour"]) == _BLUE]
    return [one for one in battery if one.family == "inversion"] + [
        one for one in blue if len(set(one.values["colour"])) > 1
    ]


def _rows(suspect: Suspect, name: str, most: int, pair: tuple[int, int]) -> Iterator[list[object]]:
    """Yield a row for each concept, by the images of the first so many classes."""
    assert suspect.clean is not None  # noqa: S101 - made with one
    every = split_into_folds(suspect.clean.labels, np.random.default_rng(0))
    folds = every.of(suspect.clean.labels[every.rows] < most)
    labels = suspect.clean.labels[folds.rows]
    features, reader = read_features(suspect, folds.rows), Reader(suspect, folds)
    examination = fit_examination(suspect, features, labels, folds)
    own = labels == pair[0]
    shown: FoldedImages = reader.read(own | (folds.turn < FOLDS))
    panel, row = examination.open(shown), int(np.searchsorted(shown.present, pair[0]))
    for concept in _near_the_trigger():
        flows, judge = panel.flows(concept), panel.judge
        more = excess(flows, judge.trust, judge.rows)[:, row, pair[1]].mean()
        damage = [
            damage_to_others(flows[fold][None], judge.unchanged[fold], judge.rows)[0, row]
            for fold in range(FOLDS)
        ]
        score, error = judge.score(flows[None], pair[0])
        yield [
            name,
            int(own.sum() // FOLDS),
            f"{examination.likeness[pair]:.2f}",
            concept.describe(),
            f"{more:.2f}",
            f"{np.mean(damage):.2f}",
            f"{score[0, :, 0, pair[1]].mean():+.2f}",
            f"{np.sqrt(np.square(error[0, :, 0, pair[1]]).sum()) / FOLDS:.2f}",
            f"{simultaneous_errors(examination.classes):.1f}",
        ]


def main() -> None:
    """Print the table."""
    facts = json.loads((MANY_CLASSES / "facts.json").read_text(encoding="utf-8"))
    pair = facts["victim"], facts["target"]
    suspect = Suspect(
        load_model(MANY_CLASSES / "joined.onnx"),
        load_dataset(MANY_CLASSES / "joined.npz"),
        ScanOptions(preprocess="unit", runtime=RuntimeOptions("cpu", 1)),
    )
    rows = [
        row
        for name, most in (("202 classes", facts["classes"]), ("9 digits", _DIGITS))
        for row in _rows(suspect, name, most, pair)
    ]
    print(markdown_table(_COLUMNS, rows))


if __name__ == "__main__":
    main()
