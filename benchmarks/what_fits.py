"""What a scan plans to do in a time, by the number of classes and the speed of the model.

    python -m benchmarks.what_fits [--time SECONDS ...] [--side PIXELS]

No model is run: these are the plans that a scan makes where its model runs so many images in a
second, all threads together. Reading the clean images comes first: once for the accuracy, once for
the reference, each in a quarter of the time left at most. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import markdown_table
from onnx_soda import RuntimeOptions, ScanOptions
from onnx_soda._detect.concepts.battery import BUDGETS
from onnx_soda._detect.concepts.examination import PANEL_BYTES, count_by_fold
from onnx_soda._detect.concepts.folds import FOLDS, MOST_OF_ONE_KIND, Folds, split_into_folds
from onnx_soda._detect.concepts.outlook import (
    FEWEST_FITTED,
    PLANNED,
    SCREEN_MEMORY,
    choose,
    in_memory,
)
from onnx_soda._detect.concepts.plan import Ground, Plan, planned_passes
from onnx_soda._suspect import FEWEST_READ, READING, of_each_that_fit

# Classes, and images of each: digits, the network of 203 classes, ImageNet with few and with many.
_SETS = ((10, 100), (43, 60), (203, 60), (1000, 5), (1000, 50))
_SAMPLE = ScanOptions().samples_per_class
_RATES = (10, 50, 250, 1000, 4000)
_COLUMNS = (
    "classes", "images of each", "images/s", "aim, s", "read, s", "passes planned", "of the whole",
    "victims", "concepts", "styles", "screen",
)  # fmt: skip


def _ground(classes: int, each: int, side: int) -> tuple[Ground, Folds]:
    labels = np.arange(classes).repeat(each)
    folds = split_into_folds(labels, np.random.default_rng(0))

    def count(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        return count_by_fold(labels[folds.rows[chosen]], folds.fold[chosen], classes)

    image = 4 * 3 * side * side
    return Ground(count(folds.search), count(folds.confirm), 3, True, PANEL_BYTES // image), folds


def _cells(plan: Plan, whole: Plan) -> list[object]:
    return [
        f"{plan.victims} of {whole.victims}",
        f"{plan.concepts} of {whole.concepts}",
        f"{plan.styles} of {whole.styles}",
        f"{plan.screen} of {whole.screen}",
    ]


def _reading(classes: int, each: int, aim: float, rate: float) -> float:
    """Return the seconds that reading takes, for the accuracy and then for the reference."""
    seconds, labels = 0.0, np.arange(classes).repeat(each)
    turns = split_into_folds(labels, np.random.default_rng(0)).turn
    fitted = min(FOLDS * (int(turns.max()) + 1), each)
    for most, fewest in ((min(each, _SAMPLE), FEWEST_READ), (fitted, FOLDS * FEWEST_FITTED)):
        fitting = READING * (aim - seconds) * rate
        images = of_each_that_fit(most, fewest, fitting, lambda some: classes * some)
        seconds += classes * images / rate
    return seconds


def _rows(aim: float, side: int) -> Iterator[list[object]]:
    room = SCREEN_MEMORY * RuntimeOptions().memory_limit / (4 * 3 * side * side)
    for classes, each in _SETS:
        ground, folds = _ground(classes, each, side)
        budget = BUDGETS["default"]
        budget = budget.widened() if classes > MOST_OF_ONE_KIND else budget
        whole = ground.whole(budget, int(folds.turn[folds.screen].max()) + 1)
        for rate in _RATES:
            read = _reading(classes, each, aim, rate)
            if read >= aim:
                yield [classes, each, rate, f"{aim:.0f}", f"{read:.0f}", "-", "-", *["-"] * 4]
                continue
            largest = in_memory(ground, whole, room)
            plan = choose(ground, largest, PLANNED * (aim - read) * rate)
            passes, most = planned_passes(plan, ground), planned_passes(whole, ground)
            yield [
                classes, each, rate, f"{aim:.0f}", f"{read:.0f}", passes,
                f"{100 * passes / most:.0f} %", *_cells(plan, whole),
            ]  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--time", nargs="+", type=float, default=[900.0])
    parser.add_argument("--side", type=int, default=224)
    arguments = parser.parse_args()
    rows = [row for aim in arguments.time for row in _rows(aim, arguments.side)]
    print(markdown_table(_COLUMNS, rows))


if __name__ == "__main__":
    main()
