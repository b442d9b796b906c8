"""Measures the second opinion on models of known truth, and calibrates it.

    python -m benchmarks.references [--part NAME ...] [--twins FOLDER] [--auto] [--write]

The references of a model are the other models of its data set, but for those with its own trigger;
poisoned ones are among them. With fewer than all they are drawn at random, several times. Flows are
kept in build/references; what is there is not computed again.

Parts as in `benchmarks.evaluate`, and "population" (`python -m benchmarks.population`). The
thresholds are made from all but the judging half: half way between the highest clean model, over
all draws, and the lowest true pair over it, and 0.03 over the clean one at least. Every model is
judged by the thresholds made from the *other* data sets (leave one data set out). `--write` puts
those of all data sets into the detector's `calibration.json`. `--twins FOLDER` takes the models in
FOLDER/DATASET as the only references instead. `--auto` tells what the default method says: where
references show nothing, what a scan without them found, by what `python -m benchmarks.evaluate`
kept, with a threshold from the other data sets, too. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np

from benchmarks.calibrate import Scanned, read_scans
from benchmarks.calibrate import calibrate as calibrate_search
from benchmarks.cases import PARTS, POPULATION_PART, Case, cases_of
from benchmarks.common import machine_facts, markdown_table
from onnx_soda import RuntimeOptions, ScanOptions, load_dataset, load_model
from onnx_soda._detect.concepts.experiment import MOST_CLASSES, why_not_tried
from onnx_soda._detect.references.bank import BANK_VERSION
from onnx_soda._detect.references.flows import Flows, bank_flows
from onnx_soda._detect.references.opinion import SecondOpinion, second_opinion
from onnx_soda._suspect import Suspect

_KEPT = Path(__file__).resolve().parents[1] / "build" / "references"
PACKAGED = Path(str(files("onnx_soda._detect.references") / "calibration.json"))
CALIBRATING = ("bundled", "shared", "development", POPULATION_PART)
_COUNTS, _DRAWS = (1, 2, 4, 8), 3
# References of which one is poisoned, in the measurement of that.
_OF = 4
# Where no true pair lies over the clean models; and how far the threshold lies over these at least:
# the least spread between honest models. True pairs lie close above them, so that the middle alone
# would leave no room for the next clean model.
_NO_HIT, _LEAST = 0.1, 0.03


@dataclass(frozen=True, eq=False)
class Known:
    """A model of known truth with its flows."""

    case: Case
    part: str
    flows: Flows

    @property
    def dataset(self) -> str:
        """Name of its data set."""
        return self.case.dataset

    @property
    def trigger(self) -> tuple[int, int] | None:
        """Victim and target; None for a clean model."""
        victim, target = self.case.victim, self.case.target
        return None if victim is None or target is None else (victim, target)


@dataclass(frozen=True, eq=False)
class Said:
    """What some references say of a model."""

    model: Known
    references: int
    opinion: SecondOpinion

    @cached_property
    def pair(self) -> tuple[int, int]:
        """The pair that stands out most."""
        return self.opinion.ranked()[0]

    @property
    def shared(self) -> float:
        """How far a pair stands out that a reference turns as well."""
        accomplice = self.opinion.accomplice
        return accomplice.beyond if accomplice else 0.0

    @property
    def shared_right(self) -> bool:
        """Whether that is the true pair."""
        accomplice = self.opinion.accomplice
        return accomplice is not None and accomplice.pair == self.model.trigger

    def named(self, limits: Thresholds) -> tuple[int, int] | None:
        """Return the pair that is reported; None where none is."""
        if self.beyond > limits.threshold:
            return self.pair
        accomplice = self.opinion.accomplice
        return accomplice.pair if accomplice and self.shared > limits.shared else None

    @property
    def beyond(self) -> float:
        """How far it stands out; what decides."""
        return self.opinion.beyond(self.pair)

    @property
    def clean(self) -> bool:
        """Whether the model is clean."""
        return self.model.trigger is None

    @property
    def right(self) -> bool:
        """Whether the first pair is the true one."""
        return self.pair == self.model.trigger

    @property
    def rank(self) -> int:
        """Rank of the true pair, from 1."""
        assert self.model.trigger is not None  # noqa: S101 - for backdoored models
        return self.opinion.ranked().index(self.model.trigger) + 1


@dataclass(frozen=True)
class Thresholds:
    """How far a pair must stand out to be reported, and up to where a model may be clean.

    The same for pairs that a reference turns as well.
    """

    threshold: float
    clear: float
    shared: float
    shared_clear: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """What is reported of a model.

    Attributes:
        said: What its references say.
        limits: What that was judged by.
        named: The pair that is reported; None where none is.
    """

    said: Said
    limits: Thresholds
    named: tuple[int, int] | None


def calibrate(said: Iterable[Said], shared: Iterable[Said]) -> Thresholds:
    """Make thresholds from models of known truth.

    Args:
        said: What references said of them that do not have their backdoor.
        shared: What was said of them where one of four has it, or none has and they are clean.
    """
    said, shared = list(said), list(shared)
    usual = between(
        [one.beyond for one in said if one.clean], [one.beyond for one in said if one.right]
    )
    with_accomplice = between(
        [one.shared for one in shared if one.clean],
        [one.shared for one in shared if one.shared_right],
    )
    return Thresholds(*usual, *with_accomplice)


def between(clean: Sequence[float], right: Sequence[float]) -> tuple[float, float]:
    """Return the middle between the highest clean value and the lowest right one over it, or more.

    Returns:
        That, and the highest clean value.
    """
    clear = max([0.0, *clean])
    lowest = min((one for one in right if one > clear), default=clear + _NO_HIT)
    return round(max((clear + lowest) / 2, clear + _LEAST), 4), round(clear, 4)


def flows_of(case: Case, threads: int | None) -> Flows:
    """Return a model's flows, kept or computed."""
    return flows_at(case.model, case.data, case.model.stem, threads)


def flows_at(model: Path, data: Path, name: str, threads: int | None) -> Flows:
    """Return the flows of a model file, kept under a name or computed."""
    place = _KEPT / f"{name}-bank{BANK_VERSION}.npz"
    if place.is_file():
        kept = np.load(place)
        return Flows(kept["shares"], kept["images"])
    options = ScanOptions(runtime=RuntimeOptions(threads=threads))
    found = bank_flows(Suspect(load_model(model), load_dataset(data), options))
    place.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(place, shares=found.shares, images=found.images)
    print(f"{name}: flows computed", file=sys.stderr, flush=True)
    return found


def references_of(model: Known, models: Sequence[Known]) -> list[Known]:
    """Return the other models of a data set that do not have the same backdoor."""
    return [
        other
        for other in models
        if other is not model
        and other.dataset == model.dataset
        and (model.trigger is None or other.trigger != model.trigger)
    ]


def drawn(models: Sequence[Known], count: int | None) -> Iterator[Said]:
    """Ask a number of references about every model that has as many, in several draws.

    Args:
        models: All models.
        count: The number; None for all there are.
    """
    rng = np.random.default_rng(0)
    for model in models:
        references = references_of(model, models)
        if len(references) < (count or 1):
            continue
        tried = set()
        for _ in range(_DRAWS if count else 1):
            chosen = tuple(sorted(rng.permutation(len(references))[:count].tolist()))
            if chosen not in tried:
                tried.add(chosen)
                yield ask(model, [references[place] for place in chosen])


def ask(model: Known, references: Sequence[Known]) -> Said:
    """Ask some references about a model."""
    flows = [other.flows for other in references]
    return Said(model, len(flows), second_opinion(model.flows, flows))


def one_poisoned(models: Sequence[Known]) -> Iterator[Said]:
    """Ask four references of which one has the same backdoor, about backdoored models."""
    rng = np.random.default_rng(0)
    for model in models:
        honest = references_of(model, models)
        guilty = [
            other
            for other in models
            if other is not model
            and other.trigger == model.trigger is not None
            and other.dataset == model.dataset
        ]
        if len(honest) < _OF - 1 or not guilty:
            continue
        chosen = [honest[place] for place in rng.permutation(len(honest))[: _OF - 1]]
        yield ask(model, [*chosen, guilty[rng.integers(len(guilty))]])


def read_models(parts: Sequence[str], threads: int | None) -> list[Known]:
    """Return the backdoored and the clean models of some parts whose images can be changed."""
    found = []
    for part, case in [(one, case) for one in parts for case in cases_of(one)]:
        if case.effective is False:
            continue
        clean = load_dataset(case.data)
        if why_not_tried(clean, min(len(np.unique(clean.labels)), MOST_CLASSES)) is None:
            found.append(Known(case, part, flows_of(case, threads)))
    return found


def twins_of(folder: Path, models: Sequence[Known], threads: int | None) -> Iterator[Said]:
    """Ask the models in a folder per data set about every model."""
    for model in models:
        name = model.dataset.split()[0]
        twins = sorted((folder / name).glob("*.onnx"))
        flows = [flows_at(one, model.case.data, f"{name}-{one.stem}", threads) for one in twins]
        if flows:
            yield Said(model, len(flows), second_opinion(model.flows, flows))


def judged(said: Sequence[Said], shared: Sequence[Said]) -> list[Outcome]:
    """Judge each by the thresholds made from the other data sets.

    Args:
        said: To be judged, by thresholds made from those of them that calibrate.
        shared: As for `calibrate`.
    """
    left_out = {
        name: calibrate(_makers(said, without=name), _makers(shared, without=name))
        for name in {one.model.dataset for one in said}
    }
    limits = [left_out[one.model.dataset] for one in said]
    return [Outcome(one, limit, one.named(limit)) for one, limit in zip(said, limits, strict=True)]


def with_search(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return what the default method says: what references show, else what the search found.

    Left out are models that were not scanned.
    """
    scans = {scan.facts["model"]: scan for scan in read_scans("default")}
    found = {name: _searched(scan, scans.values()) for name, scan in scans.items()}
    return [
        replace(one, named=one.named or found[one.said.model.case.model.stem])
        for one in outcomes
        if one.said.model.case.model.stem in found
    ]


def _searched(scan: Scanned, scans: Iterable[Scanned]) -> tuple[int, int] | None:
    """Return the first pair that a scan without references reports."""
    makers = [
        other
        for other in scans
        if other.facts["part"] in CALIBRATING and other.facts["dataset"] != scan.facts["dataset"]
    ]
    first = scan.first
    over = scan.score > calibrate_search(makers).threshold
    return (first["victim"], first["target"]) if over else None


def _makers(said: Iterable[Said], without: str = "") -> list[Said]:
    """Return those that calibrate, but for one data set."""
    return [one for one in said if one.model.part in CALIBRATING and one.model.dataset != without]


_COLUMNS = (
    "group", "backdoored", "true pair first", "pair named", "target named", "wrong pair named",
    "clean", "clean flagged",
)  # fmt: skip


def row_of(name: str, outcomes: Sequence[Outcome]) -> list[object]:
    """Return how some draws went."""
    bad = [one for one in outcomes if not one.said.clean]
    clean = [one.named is not None for one in outcomes if one.said.clean]
    named = [(one.named, one.said.model.trigger) for one in bad]
    right = sum(pair == trigger for pair, trigger in named)
    targets = sum(bool(pair and trigger and pair[1] == trigger[1]) for pair, trigger in named)
    wrong = sum(pair is not None and pair != trigger for pair, trigger in named)
    first = sum(one.said.right for one in bad)
    shares = [_share(count, len(bad)) for count in (first, right, targets, wrong)]
    return [name, len(bad), *shares, len(clean), _share(sum(clean), len(clean))]


def _share(count: int, total: int) -> str:
    return f"{count} ({count / total:.0%})" if total else "-"


def model_rows(outcomes: Sequence[Outcome]) -> Iterator[list[object]]:
    """Yield a row for each model."""
    for outcome in outcomes:
        one, named = outcome.said, outcome.named
        victim, target = one.pair
        wrong = named is not None and named != one.model.trigger
        yield [
            one.model.case.model.stem,
            one.model.part,
            "-" if one.clean else f"{one.model.case.success_rate:.2f}",
            one.references,
            "-" if one.clean else one.rank,
            f"{victim} -> {target}",
            f"{one.beyond:+.2f}",
            f"{one.opinion.level():.2f}",
            f"{outcome.limits.threshold:.2f}",
            "-" if named is None else "wrong pair reported" if wrong else "reported",
        ]


_MODEL_COLUMNS = (
    "model", "part", "SR", "references", "rank of the true pair", "first pair", "stands out by",
    "level", "left-out threshold", "outcome",
)  # fmt: skip


def grouped(outcomes: Sequence[Outcome]) -> Iterator[list[object]]:
    """Yield a row per data set and per part, and one for all."""
    for name in dict.fromkeys(one.said.model.dataset for one in outcomes):
        yield row_of(name, [one for one in outcomes if one.said.model.dataset == name])
    for name in dict.fromkeys(one.said.model.part for one in outcomes):
        yield row_of(name, [one for one in outcomes if one.said.model.part == name])
    yield row_of("all", outcomes)


def write(found: Mapping[int, Sequence[Said]], shared: Sequence[Said]) -> None:
    """Write the thresholds of all calibrating models, by number of references."""
    thresholds = {}
    for count, said in found.items():
        makers = _makers(said)
        made = calibrate(makers, _makers(shared))
        thresholds[str(count)] = {
            "threshold": made.threshold,
            "clear": made.clear,
            "clean": len({one.model.case.model for one in makers if one.clean}),
            "backdoored": len({one.model.case.model for one in makers if not one.clean}),
        }
    facts = {
        "bank": BANK_VERSION,
        "command": "python -m benchmarks.references --write",
        "references": thresholds,
        "accomplice": {"threshold": made.shared, "clear": made.shared_clear},
    }
    PACKAGED.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=(*PARTS, POPULATION_PART))
    parser.add_argument("--twins", type=Path)
    parser.add_argument("--auto", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    parts = arguments.part or list(CALIBRATING)
    models = read_models(parts, arguments.threads)
    print(f"# A second opinion, bank {BANK_VERSION}, {', '.join(parts)}\n\n{machine_facts()}\n")
    counts = (_OF,) if arguments.twins else _COUNTS
    few = {count: list(drawn(models, count)) for count in counts}
    poisoned = list(one_poisoned(models))
    shared = [*(one for one in few[_OF] if one.clean), *poisoned]
    heard = with_search if arguments.auto else list
    if arguments.twins:
        twins = list(twins_of(arguments.twins, models, arguments.threads))
        tell("With twins alone", heard(judged(twins, shared)), each=True)
        return
    for count, said in few.items():
        tell(f"{count} of them, drawn", heard(judged(said, shared)))
    tell("All of them", heard(judged(list(drawn(models, None)), shared)), each=True)
    limits = {one.said.model.dataset: one.limits for one in judged(few[_OF], shared)}
    outcomes = [
        Outcome(one, limits[one.model.dataset], one.named(limits[one.model.dataset]))
        for one in poisoned
    ]
    tell("One of four has the same backdoor", heard(outcomes))
    if arguments.write:
        write(few, shared)


def tell(title: str, outcomes: Sequence[Outcome], each: bool = False) -> None:
    """Print how some draws went, by group, and model by model where wanted."""
    print(f"## {title}\n\n{markdown_table(_COLUMNS, grouped(outcomes))}\n")
    if each:
        print(f"{markdown_table(_MODEL_COLUMNS, model_rows(outcomes))}\n")


if __name__ == "__main__":
    main()
