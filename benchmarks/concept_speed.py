"""Time of the default scan: in all, inside ONNX Runtime, and against bare forward passes.

    python -m benchmarks.concept_speed [WORD ...]

Everything about a model is measured in one run. "Inside" is the time spent in the runs of ONNX
Runtime sessions, of the whole scan; "bare" what the model alone takes for as many images as the
probes showed it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from benchmarks.cases import Case, cases_of
from benchmarks.common import machine_facts, markdown_table
from onnx_soda import ScanOptions, load_dataset, load_model, scan
from onnx_soda._detect.concepts.concept import draw_concept
from onnx_soda._detect.concepts.layers import make_pooling
from onnx_soda._detect.concepts.probe import Probe, ProbeImages
from onnx_soda._detect.concepts.reference import ReferenceHead
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.parts import Body
from onnx_soda._model.runtime import Session
from onnx_soda._numbers import ConceptNumbers
from onnx_soda._results import numbers_of
from onnx_soda._suspect import Suspect

_SCAN_COLUMNS = (
    "model", "concepts", "passes", "scan, s", "concepts, s", "inside ONNX Runtime", "bare, s",
    "concepts / bare",
)  # fmt: skip
_BARE_IMAGES = 2000


@contextmanager
def _inside() -> Iterator[list[float]]:
    """Collect the seconds of every run of a session."""
    seconds: list[float] = []
    ways = {name: getattr(Session, name) for name in ("run", "leave")}

    def timed(work: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object, **options: object) -> object:
            start = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                seconds.append(time.perf_counter() - start)

        return run

    for name, work in ways.items():
        setattr(Session, name, timed(work))
    try:
        yield seconds
    finally:
        for name, work in ways.items():
            setattr(Session, name, work)


def _bare_seconds_per_image(case: Case) -> float:
    anatomy = dissect(load_model(case.model))
    body, image = Body(anatomy, ScanOptions().runtime), anatomy.view.image
    pixels = np.zeros(image.concrete_shape(_BARE_IMAGES), image.numpy_dtype())
    body.logits(pixels)
    start = time.perf_counter()
    body.logits(pixels)
    return (time.perf_counter() - start) / _BARE_IMAGES


def _scan_row(case: Case) -> list[object]:
    start = time.perf_counter()
    with _inside() as inside:
        report = scan(load_model(case.model), load_dataset(case.data))
    seconds = time.perf_counter() - start
    evidence = numbers_of(report, "concepts", ConceptNumbers)
    if evidence is None:
        raise ValueError(f"{case.model.name}: the concepts were not tried")
    stage = report.timing["concepts"]
    bare = _bare_seconds_per_image(case) * report.coverage.passes
    return [
        case.model.stem,
        evidence.concepts,
        report.coverage.passes,
        f"{seconds:.0f}",
        f"{stage:.0f}",
        f"{sum(inside) / seconds:.0%}",
        f"{bare:.0f}",
        f"{stage / bare:.2f}",
    ]


def _linear_rows() -> list[list[object]]:
    """Time probes over numbers of images and of concepts on the bundled digits model."""
    model = load_model(cases_of("bundled")[0].model)
    suspect = Suspect(model, options=ScanOptions(preprocess="unit"))
    anatomy = suspect.anatomy
    classes, width = 10, (anatomy.layer.shape or (0, 0))[1]
    pooling = make_pooling(anatomy.layer.name, 1, (1, int(width or 0)), grid=False)
    weights, biases = np.zeros((2, int(width or 0), classes)), np.zeros((2, classes))
    heads = (ReferenceHead(pooling, weights, biases, (1.0, 1.0)),)
    rng = np.random.default_rng(0)
    rows: list[list[object]] = []
    for images in (128, 256, 512):
        pixels = rng.random((images, 3, 32, 32), dtype=np.float32)
        groups = np.ones((images, 1), dtype=np.float32)
        members = ProbeImages(pixels, groups, np.zeros(images, dtype=np.int64))
        probe = Probe(suspect, members, heads, classes)
        probe.flows(None)
        for count in (10, 20, 40):
            concepts = [draw_concept(rng, 3) for _ in range(count)]
            start = time.perf_counter()
            for concept in concepts:
                probe.flows(concept)
            seconds = time.perf_counter() - start
            rows.append([images, count, f"{seconds:.2f}", f"{1e6 * seconds / images / count:.0f}"])
    return rows


def main() -> None:
    """Print the tables."""
    words = sys.argv[1:] or ["digits-backdoored", "mnist_m-vgg-clean-s1", "gtsrb-vgg-clean-s1"]
    cases = [c for part in ("bundled", "shared") for c in cases_of(part)]
    chosen = [case for case in cases if any(word in case.model.stem for word in words)]
    print(f"# Speed of the default scan\n\n{machine_facts()}\n")
    print(markdown_table(_SCAN_COLUMNS, map(_scan_row, chosen)))
    columns = ("images", "concepts", "seconds", "microseconds per image and concept")
    print(f"\n## Time over images and concepts\n\n{markdown_table(columns, _linear_rows())}")


if __name__ == "__main__":
    main()
