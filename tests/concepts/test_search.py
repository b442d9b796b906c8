"""The search on a net with a backdoor built in by hand."""

from __future__ import annotations

import numpy as np

from fixtures.graphs import build
from onnx_soda._detect.concepts.battery import Budget, concept_battery
from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.examination import Panel
from onnx_soda._detect.concepts.folds import group_by_fold
from onnx_soda._detect.concepts.judge import Judge
from onnx_soda._detect.concepts.probe import Probe, ProbeImages
from onnx_soda._detect.concepts.search import search
from onnx_soda._detect.concepts.styles import Change
from onnx_soda._model.load import load_model
from onnx_soda._options import RuntimeOptions, ScanOptions
from onnx_soda._suspect import Suspect


def test_the_battery_is_fixed_and_can_be_rendered_and_described() -> None:
    for channels in (1, 3):
        battery = concept_battery(channels)
        assert battery == concept_battery(channels)
        assert len({concept.describe() for concept in battery}) > 0.9 * len(battery)
        for concept in battery:
            concept.render((channels, 12, 12))


class Watched:
    """Panels of one set of images, which remember what they were asked."""

    def __init__(self, panel: Panel) -> None:
        self._panel, self.asked = panel, list[Change | None]()
        self.judge, self.screen = panel.judge, self

    def flows(self, change: Change | None) -> np.ndarray:
        if all(change is not one for one in self.asked):
            self.asked.append(change)
        return self._panel.flows(change)

    def of(self, victim: int, fold: int) -> Watched:
        del victim, fold
        return self


def test_good_concepts_are_joined_with_others_but_for_the_last_round() -> None:
    rng = np.random.default_rng(0)
    labels, fold = np.arange(12) % 3, np.arange(12) // 6
    images = ProbeImages(
        rng.random((12, 1, 2, 2)).astype(np.float32), group_by_fold(labels, fold, 3), fold
    )
    options = ScanOptions(preprocess="unit", runtime=RuntimeOptions("cpu", 1))
    suspect = Suspect(load_model(build("gemm").SerializeToString()), options=options)
    probe = Probe(suspect, images, (), 3)
    judge = Judge(
        Judge.by_fold(probe.flows(None)),
        np.full((2, 3), 2),
        np.full((2, 3), 2),
        np.zeros((3, 3)),
        np.zeros(0),
        np.zeros((2, 3, 3)),
    )
    panels = Watched(Panel(probe, judge))
    budget = Budget(draws=4, rounds=((2, 4), (2, 4)), donors=0, style_rounds=())
    found = search(panels, 1, rng, budget)
    asked = [change for change in panels.asked if isinstance(change, Concept)]
    assert found.tried == len(asked) == budget.concepts(channels=1)
    start = len(concept_battery(1)) + 4
    joined = [concept.then is not None for concept in asked]
    assert not any(joined[:start])
    # Each fold makes 2 x 4 variations; every second one joins two, unless they are of one family.
    assert 2 < sum(joined[start : start + 16]) <= 8
    new = [c.then for c in asked[start + 16 :] if c.then]
    families = {c.then.family for c in asked[start : start + 16] if c.then}
    assert {then.family for then in new} <= families
