"""A command infers the preprocessing once, and a repair takes the concepts that the scan found."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from fixtures import boards
from onnx_soda import (
    CleanSet,
    ConceptNumbers,
    OnnxModel,
    RepairOptions,
    RuntimeOptions,
    ScanOptions,
    ScanReport,
    load_dataset,
    load_model,
    named_pairs,
    numbers_of,
    read_report,
    repair,
    scan,
    to_json,
)
from onnx_soda._detect.concepts.concept import concept_of

CPU = RuntimeOptions(threads=1)
PAIR = (boards.VICTIM, boards.TARGET)


class Told:
    """Remembers what progress was told, by stage."""

    def __init__(self) -> None:
        self.steps: dict[str, list[int]] = defaultdict(list)

    def __call__(self, stage: str, done: int, total: int) -> None:
        assert done <= total
        self.steps[stage].append(done)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[OnnxModel, CleanSet]:
    model, _, clean, _ = boards.write(tmp_path_factory.mktemp("boards"))
    return load_model(model), load_dataset(clean)


@pytest.fixture(scope="module")
def report(case: tuple[OnnxModel, CleanSet]) -> ScanReport:
    return scan(*case, ScanOptions(budget="quick", preprocess="unit", runtime=CPU))


@pytest.mark.parametrize("known", [None, "unit"])
def test_repair_and_new_scan_infer_the_preprocessing_once(
    known: str | None, case: tuple[OnnxModel, CleanSet]
) -> None:
    """The trials count up from 1 to the last; a second inference would begin again at 1."""
    told = Told()
    options = RepairOptions(
        scope="head",
        reconstruction="ascent",
        scan=ScanOptions("soda", preprocess=known, runtime=CPU),
    )
    done = repair(*case, pair=PAIR, options=options, progress=told)
    assert done.summary.rescan is not None
    trials = told.steps["ways of preprocessing tried"]
    assert trials == list(range(1, len(trials) + 1))
    assert bool(trials) == (known is None)


def test_scan_and_repair_infer_it_once(case: tuple[OnnxModel, CleanSet]) -> None:
    told = Told()
    options = RepairOptions(scan=ScanOptions("soda", runtime=CPU))
    repair(*case, options=options, progress=told)
    trials = told.steps["ways of preprocessing tried"]
    assert trials == list(range(1, len(trials) + 1))
    assert trials


def test_the_concepts_of_a_report_are_those_that_a_repair_uses(
    case: tuple[OnnxModel, CleanSet], report: ScanReport, tmp_path: Path
) -> None:
    """They survive the way through the JSON file, number by number, and none is searched."""
    (tmp_path / "scan.json").write_text(to_json(report), encoding="utf-8")
    told = Told()
    options = RepairOptions(
        scope="head",
        reconstruction="concepts",
        rescan=False,
        scan=ScanOptions(preprocess="unit", runtime=CPU),
    )
    done = repair(
        *case,
        read_report(tmp_path / "scan.json", report.model.sha256),
        options=options,
        progress=told,
    )
    numbers = numbers_of(report, "concepts", ConceptNumbers)
    assert numbers is not None
    pair = next(named_pairs(report))
    kept = next(
        one.concepts
        for one in numbers.pairs
        if (one.victim_class, one.target_class) == pair and one.concepts
    )
    assert done.summary.concepts == tuple(concept_of(values).describe() for values in kept)
    assert "concepts tried" not in told.steps
    assert done.summary.after is not None
    assert done.summary.before is not None
    assert done.summary.after.target_rate < 0.2 < 0.5 < done.summary.before.target_rate
