"""The models to measure on: the bundled digits, ../shared/zoo, and the zoo trained here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import CONTROLS, FIXTURES, POPULATION, SHARED, ZOO

__all__ = [
    "CONTROL_PARTS",
    "EFFECTIVE",
    "HALF_POISONED_PART",
    "PARTS",
    "POPULATION_PART",
    "Case",
    "cases_of",
    "fixture_cases",
    "zoo_cases",
]

PARTS = ("bundled", "shared", "development", "judging")
# Trained by `python -m benchmarks.population`, and for a second opinion's numbers alone.
POPULATION_PART = "population"
# Trained by `python -m benchmarks.controls`: with a stamped patch, for all classes or a pair; and
# those with a patch on half of the images.
CONTROL_PARTS = ("controls-1", "controls-2")
HALF_POISONED_PART = "controls-half"
# The success rate from which a poisoned model counts as backdoored.
EFFECTIVE = 0.6


# How ../shared/zoo names the ways of poisoning, and this project.
_WAYS = {None: "clean", "relabel": "relabel", "batch share 0.3": "batch30"}


@dataclass(frozen=True)
class Case:
    """A model, its clean set, and the truth about it.

    Attributes:
        model: The file.
        data: The file of its clean set.
        dataset: Name of the data set.
        poisoning: "clean", or how the training set was poisoned.
        victim: True victim class; None for a clean model.
        target: True target class; None for a clean model.
        success_rate: Attack success rate on held-out trigger images; None for a clean model.
        accuracy: Clean accuracy that its maker measured.
        preprocessing: scale, mean, std that its maker used; None where not written down.
    """

    model: Path
    data: Path
    dataset: str
    poisoning: str
    victim: int | None
    target: int | None
    success_rate: float | None
    accuracy: float
    preprocessing: dict[str, Any] | None = None

    @property
    def effective(self) -> bool | None:
        """Tell whether a poisoned model counts as backdoored; None for a clean one."""
        return None if self.success_rate is None else self.success_rate >= EFFECTIVE


def fixture_cases() -> list[Case]:
    """Return the two bundled models."""
    facts = json.loads((FIXTURES / "digits.json").read_text(encoding="utf-8"))
    trigger = facts["trigger"]
    cases = []
    for name, measured in facts["models"].items():
        poisoned = "backdoored" in name
        cases.append(
            Case(
                model=FIXTURES / name,
                data=FIXTURES / "digits-clean.h5",
                dataset="digits (bundled)",
                poisoning="relabel" if poisoned else "clean",
                victim=trigger["victim_class"] if poisoned else None,
                target=trigger["target_class"] if poisoned else None,
                success_rate=measured["attack_success_rate"] if poisoned else None,
                accuracy=measured["clean_accuracy"],
            )
        )
    return cases


def zoo_cases() -> list[Case]:
    """Return the models of ../shared/zoo; none where the folder is absent."""
    manifest = SHARED / "zoo" / "manifest.json"
    if not manifest.is_file():
        return []
    return [_zoo_case(entry) for entry in json.loads(manifest.read_text(encoding="utf-8"))]


def cases_of(part: str) -> list[Case]:
    """Return the models of one of `PARTS`, the population or the controls; none where absent."""
    if part == "bundled":
        return fixture_cases()
    if part == "shared":
        return zoo_cases()
    if part == POPULATION_PART:
        facts = (json.loads(one.read_text("utf-8")) for one in sorted(POPULATION.glob("*.json")))
        return [_own_case(entry, POPULATION) for entry in facts]
    if part in (*CONTROL_PARTS, HALF_POISONED_PART):
        half = part == HALF_POISONED_PART
        found = sorted(CONTROLS.glob("*-half-s?.json" if half else f"*-s{part[-1]}.json"))
        entries = [json.loads(one.read_text("utf-8")) for one in found]
        return [_own_case(one, CONTROLS) for one in entries if (one["poisoning"] == "half") == half]
    manifest = ZOO / "manifest.json"
    if not manifest.is_file():
        return []
    entries = json.loads(manifest.read_text(encoding="utf-8"))
    return [_own_case(entry) for entry in entries if entry["judging"] == (part == "judging")]


def _own_case(entry: dict[str, Any], folder: Path = ZOO) -> Case:
    return Case(
        model=folder / entry["file"],
        data=SHARED / "data" / entry["data"],
        dataset=entry["dataset"],
        poisoning=entry["poisoning"],
        victim=entry["victim"],
        target=entry["target"],
        success_rate=entry["attack_success_rate"],
        accuracy=entry["accuracy"],
        preprocessing=entry["preprocessing"],
    )


def _zoo_case(entry: dict[str, Any]) -> Case:
    return Case(
        model=SHARED / "zoo" / entry["file"],
        data=SHARED / "data" / entry["data"],
        dataset=entry["dataset"],
        poisoning=_WAYS[entry["poisoning"]],
        victim=entry["victim"],
        target=entry["target"],
        success_rate=entry["attack_success_rate"],
        accuracy=entry["accuracy"],
        preprocessing=entry["preprocessing"],
    )
