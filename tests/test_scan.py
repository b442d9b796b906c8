"""The scan as a library call: progress, and agreement of its parts."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from onnx_soda import ScanOptions, load_dataset, load_model, scan
from onnx_soda.model.runtime_options import RuntimeOptions
from onnx_soda.options import AttributionMethod

FIXTURES = Path(__file__).parents[1] / "fixtures"
CPU = RuntimeOptions(provider="cpu", batch_size=32)


@pytest.mark.parametrize(
    ("attribution", "interventions"), [("batched", 96), ("brute-force", 960), ("auto", 0)]
)
def test_progress_goes_up_to_all(attribution: AttributionMethod, interventions: int) -> None:
    told = defaultdict(list)
    report = scan(
        load_model(FIXTURES / "digits-clean.onnx"),
        load_dataset(FIXTURES / "digits-clean.h5"),
        ScanOptions("soda", samples_per_class=10, attribution=attribution, runtime=CPU),
        lambda stage, done, total: told[stage].append((done, total)),
    )
    assert report.coverage.samples == 100
    ends = {stage: steps[-1] for stage, steps in told.items()}
    assert ends.pop("clean images through the model") == (100, 100)
    tried, of = ends.pop("ways of preprocessing tried")
    assert 1 < tried <= of
    assert ends == (
        {"interventions on neurons": (interventions, interventions)} if interventions else {}
    )
    for steps in told.values():
        done = [step for step, _ in steps]
        assert done == sorted(set(done))


def test_the_report_does_not_depend_on_the_batch_size() -> None:
    model = load_model(FIXTURES / "digits-clean.onnx")
    clean = load_dataset(FIXTURES / "digits-clean.h5")
    reports = [
        scan(
            model,
            clean,
            ScanOptions(
                "soda", samples_per_class=10, runtime=RuntimeOptions("cpu", batch_size=size)
            ),
        )
        for size in (1, 33)
    ]
    assert reports[0].verdict == reports[1].verdict
    assert reports[0].dataset == reports[1].dataset
    pccs = [report.evidence.soda.pcc for report in reports if report.evidence.soda]
    np.testing.assert_allclose(*pccs, atol=1e-5)
