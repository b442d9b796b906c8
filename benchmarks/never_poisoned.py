"""What models that were never poisoned with a trigger make of its images.

    python -m benchmarks.never_poisoned

The success rate that a repair can reach: images at the border of two classes go to the target in
any model. Takes all other models of known truth of the data set, clean ones and those with another
trigger, and the trigger's test images that `benchmarks.repair` measures with. Prints Markdown.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from benchmarks.cases import PARTS, Case, cases_of
from benchmarks.common import markdown_table
from benchmarks.repair import shown_triggers, split, without_trigger
from onnx_soda import load_model
from onnx_soda._suspect import Suspect

_COLUMNS = (
    "data set", "pair", "trigger images", "models", "to the target, mean", "least", "most",
    "to the victim, mean", "one image",
)  # fmt: skip


def _triggers() -> Iterable[Case]:
    """Return a poisoned model of each trigger."""
    first: dict[tuple[str, int | None, int | None], Case] = {}
    for part in PARTS[1:]:
        for case in cases_of(part):
            if case.effective:
                first.setdefault((case.dataset, case.victim, case.target), case)
    return first.values()


def _row(case: Case) -> list[object]:
    clean, _, triggers = split(case)
    pair = (int(case.victim or 0), int(case.target or 0))
    told = [
        shown_triggers(Suspect(load_model(other.model), clean), triggers, pair)
        for other in without_trigger(case)
    ]
    rates = [one.target_rate for one in told]
    return [
        case.dataset,
        "{} -> {}".format(*pair),
        len(triggers.labels),
        len(told),
        f"{np.mean(rates):.3f}",
        f"{min(rates):.3f}",
        f"{max(rates):.3f}",
        f"{np.mean([one.victim_rate for one in told]):.3f}",
        f"{1 / len(triggers.labels):.3f}",
    ]


def main() -> None:
    """Measure all triggers and print the table."""
    print(markdown_table(_COLUMNS, [_row(case) for case in _triggers()]))


if __name__ == "__main__":
    main()
