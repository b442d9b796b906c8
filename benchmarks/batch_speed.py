"""Measures throughput and memory of a model's body at several batch sizes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

from benchmarks.children import in_child
from benchmarks.scan_speed import Subject, prepared_images
from onnx_soda import ScanOptions, load_model
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.parts import Body
from onnx_soda._options import RuntimeOptions

__all__ = ["Throughput", "throughputs"]

_REPEATS = 5


@dataclass(frozen=True)
class Throughput:
    """Images per second at a batch size, and the peak memory of the process in MiB."""

    batch: int
    images_per_second: float
    peak: float


def throughputs(subject: Subject, batches: tuple[int, ...], images: int) -> list[Throughput]:
    """Measure each batch size in a process of its own.

    Args:
        subject: The model and its clean set.
        batches: Batch sizes.
        images: Number of images of a pass.
    """
    measured = [(batch, in_child(_throughput, subject, batch, images)) for batch in batches]
    return [Throughput(batch, rate, peak) for batch, (rate, peak) in measured]


def _throughput(subject: Subject, batch: int, count: int) -> float:
    _, images = prepared_images(subject)
    images = images[:count]
    runtime = RuntimeOptions(provider=ScanOptions().runtime.provider, batch_size=batch)
    body = Body(dissect(load_model(subject.model)), runtime)
    body.observe(images[:batch])
    rates = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        body.observe(images)
        rates.append(len(images) / (time.perf_counter() - start))
    return median(rates)
