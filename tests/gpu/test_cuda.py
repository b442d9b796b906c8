"""CUDA gives what the processor gives, and gives it again. Skipped where there is no CUDA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fixtures.graphs import HEADS, build
from onnx_soda import ScanOptions, load_dataset, load_model, scan
from onnx_soda._detect.concepts.battery import concept_battery
from onnx_soda._detect.concepts.concept import draw_concept
from onnx_soda._detect.concepts.folds import group_by_fold
from onnx_soda._detect.concepts.probe import Probe, ProbeImages
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.parts import Body
from onnx_soda._model.runtime import CPU, CUDA
from onnx_soda._numbers import SodaNumbers
from onnx_soda._options import RuntimeOptions
from onnx_soda._report.json import report_as_dict
from onnx_soda._results import ScanReport, numbers_of
from onnx_soda._suspect import Suspect

pytestmark = pytest.mark.gpu

FIXTURES = Path(__file__).parents[2] / "fixtures"
MODELS = ("digits-clean.onnx", "digits-backdoored.onnx")
ON_CPU = RuntimeOptions(provider="cpu")
ON_CUDA = RuntimeOptions(provider="cuda")


def scanned(model: str, runtime: RuntimeOptions, **options: str) -> ScanReport:
    return scan(
        load_model(FIXTURES / model),
        load_dataset(FIXTURES / "digits-clean.h5"),
        ScanOptions(runtime=runtime, **options),
    )


def numbers(report: ScanReport) -> SodaNumbers:
    found = numbers_of(report, "soda", SodaNumbers)
    assert found is not None
    return found


@pytest.mark.parametrize("head", HEADS)
def test_every_head_gives_the_same_logits(head: str) -> None:
    anatomy = dissect(load_model(build(head).SerializeToString()))
    image = anatomy.view.image
    shape = image.concrete_shape(5, 2, 2)
    pixels = np.random.default_rng(0).integers(0, 9, shape).astype(image.numpy_dtype())
    on_cuda, on_cpu = Body(anatomy, ON_CUDA), Body(anatomy, ON_CPU)
    assert on_cuda.providers == (CUDA, CPU)
    np.testing.assert_allclose(on_cuda.logits(pixels), on_cpu.logits(pixels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 7, None])
def test_the_digits_model_gives_the_same_logits(batch_size: int | None) -> None:
    anatomy = dissect(load_model(FIXTURES / MODELS[0]))
    pixels = np.random.default_rng(0).random((20, 3, 32, 32), dtype=np.float32)
    on_cuda = Body(anatomy, replace(ON_CUDA, batch_size=batch_size))
    np.testing.assert_allclose(
        on_cuda.logits(pixels), Body(anatomy, ON_CPU).logits(pixels), rtol=1e-4, atol=1e-4
    )


def test_a_concept_is_the_same_intervention_in_every_family() -> None:
    model, clean = load_model(FIXTURES / MODELS[1]), load_dataset(FIXTURES / "digits-clean.h5")
    on_cuda, on_cpu = (
        Suspect(model, clean, ScanOptions(preprocess="unit", runtime=runtime))
        for runtime in (ON_CUDA, ON_CPU)
    )
    rows, rng = np.arange(200), np.random.default_rng(0)
    groups = group_by_fold(clean.labels[rows], rows % 2, 10)
    images = ProbeImages(on_cpu.pixels(rows), groups, rows % 2)
    cuda_probe, cpu_probe = (Probe(suspect, images, (), 10) for suspect in (on_cuda, on_cpu))
    concepts = [None, *concept_battery(3), *(draw_concept(rng, 3) for _ in range(50))]
    flows = np.stack([cpu_probe.flows(concept) for concept in concepts])
    assert flows.std(axis=0).max() > 0.2  # concepts do something
    np.testing.assert_allclose(np.stack([cuda_probe.flows(c) for c in concepts]), flows, atol=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_scans_agree_and_name_the_provider(model: str) -> None:
    on_cuda, on_cpu = scanned(model, ON_CUDA), scanned(model, ON_CPU)
    assert on_cuda.environment.providers == (CUDA, CPU)
    assert on_cpu.environment.providers == (CPU,)
    assert on_cuda.verdict == on_cpu.verdict
    np.testing.assert_allclose(numbers(on_cuda).pcc, numbers(on_cpu).pcc, atol=1e-4)


def test_auto_takes_cuda() -> None:
    assert scanned(MODELS[0], RuntimeOptions()).environment.providers[0] == CUDA


@pytest.mark.parametrize("attribution", ["auto", "batched"])
def test_repeating_a_scan_gives_identical_numbers(attribution: str) -> None:
    first, second = (
        report_as_dict(scanned(MODELS[1], ON_CUDA, attribution=attribution)) for _ in range(2)
    )
    for report in (first, second):
        del report["timing"], report["created"]
    assert first == second


def test_interventions_with_the_images_kept_on_the_device_give_the_closed_form() -> None:
    batched = numbers(scanned(MODELS[0], ON_CUDA, attribution="batched"))
    closed = numbers(scanned(MODELS[0], ON_CPU))
    assert (batched.method, closed.method) == ("batched", "closed-form")
    np.testing.assert_allclose(batched.pcc, closed.pcc, atol=1e-3)
