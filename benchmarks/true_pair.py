"""Why a backdoor of 203 classes is not found: the terms of the true pair's score.

    python -m benchmarks.true_pair

Takes what `python -m benchmarks.joined_network` made. The concepts of the battery that are nearest
to the trigger (inversion, and tints towards blue) are shown on all images of the victim that the
search may read, and on four of each other class: once of all classes, once of the ten digits alone.
Then the battery and random concepts race, and it is told where the true pair stands among all.
Prints Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from benchmarks.common import MANY_CLASSES, markdown_table
from onnx_soda import RuntimeOptions, ScanOptions, load_dataset, load_model
from onnx_soda._detect.concepts.battery import BUDGETS, concept_battery
from onnx_soda._detect.concepts.concept import Concept, draw_concept
from onnx_soda._detect.concepts.examination import FoldedImages, Panels, Reader
from onnx_soda._detect.concepts.experiment import fit_examination
from onnx_soda._detect.concepts.folds import FOLDS, split_into_folds
from onnx_soda._detect.concepts.judge import Pair, simultaneous_errors
from onnx_soda._detect.concepts.reference import read_features
from onnx_soda._detect.concepts.score import damage_to_others, excess
from onnx_soda._detect.concepts.search import Trials, racing
from onnx_soda._suspect import Suspect

_DIGITS, _CHANNELS = 10, 3
_SEEDS = (0, 1, 2)
_PLACES = ("seed", "half", "place on the screen", "of", "place in the race", "of")
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


class _Told(Trials[Concept]):
    """Trials that tell where a pair stands."""

    def screened(self, fold: int, pair: Pair) -> int:
        """Return its place by the screen, from 1."""
        every = len(self._judge.labels) * (len(self._judge.likeness) - 1)
        return 1 + self._standings.ranked(fold, every).index(pair)

    def raced(self, fold: int, pair: Pair) -> str:
        """Return its place among the pairs that race, from 1."""
        standing = self._standing(fold)
        return str(1 + standing.index(pair)) if pair in standing else "not among them"


def _race(suspect: Suspect, seed: int, pair: Pair) -> Iterator[list[object]]:
    """Yield a row for each half: where the pair stands."""
    assert suspect.clean is not None  # noqa: S101 - made with one
    rng = np.random.default_rng(seed)
    folds = split_into_folds(suspect.clean.labels, rng)
    labels = suspect.clean.labels[folds.rows]
    examination = fit_examination(suspect, read_features(suspect, folds.rows), labels, folds)
    reader = Reader(suspect, folds)
    screen = reader.read(folds.screen)
    trials = _Told(Panels(examination, screen, reader))
    budget = BUDGETS["default"].widened()
    for concept in concept_battery(_CHANNELS):
        trials.add(concept)
    for _ in range(budget.draws):
        trials.add(draw_concept(rng, _CHANNELS, screen.donors()))
    trials.close_screening()
    racing_pairs = racing(budget.rounds, examination.classes)
    trials.start(racing_pairs)
    pairs = examination.classes * (examination.classes - 1)
    for fold in range(FOLDS):
        first, then = trials.screened(fold, pair), trials.raced(fold, pair)
        yield [seed, fold + 1, first, pairs, then, racing_pairs]


def main() -> None:
    """Print the tables."""
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
    print(markdown_table(_COLUMNS, rows), flush=True)
    places = [row for seed in _SEEDS for row in _race(suspect, seed, pair)]
    print("\n" + markdown_table(_PLACES, places))


if __name__ == "__main__":
    main()
