"""Times a scan against a bare ONNX Runtime pass over the same images."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_soda import (
    CleanSet,
    OnnxModel,
    ScanOptions,
    load_dataset,
    load_model,
    scan,
)
from onnx_soda._model.runtime import provider_list
from onnx_soda._suspect import Suspect

__all__ = [
    "ScanTimes",
    "Subject",
    "bare_pass",
    "command_seconds",
    "prepared_images",
    "scan_once",
    "scan_times",
]  # fmt: skip

# Batch sizes that the bare pass may choose from, and the images on which it chooses.
_BATCHES = (1, 8, 32, 64, 128, 256)
_TRIAL_IMAGES = 256

Inputs = NDArray[np.generic]


@dataclass(frozen=True)
class Subject:
    """A model to scan.

    Attributes:
        name: Shown in the tables.
        model: Its file.
        data: Its clean set.
        preprocess: Preset or JSON file with the right preprocessing.
        repeats: How often each measurement is taken.
    """

    name: str
    model: Path
    data: Path
    preprocess: str
    repeats: int = 7

    def options(self, given: bool) -> ScanOptions:
        """Return the options of a scan, with the preprocessing given or to be inferred."""
        return ScanOptions("soda", preprocess=self.preprocess if given else None)


@dataclass(frozen=True)
class ScanTimes:
    """Medians over the repeats, in seconds; ratios are medians of each repeat's ratio.

    Attributes:
        images: Number of images.
        batch: Batch size of the bare pass.
        session: Opening the bare session.
        bare: The bare pass, session open.
        prepare: Decoding and preprocessing the images, in this thread.
        scan: scan() with the preprocessing given and inferred.
        ratio: The same over `bare`.
        full_ratio: The same over prepare + bare.
        load: Loading the model and opening the clean set.
        path_ratio: Load and scan over session and bare pass, the same two.
        stages: Timing of each stage in the report, the same two.
    """

    images: int
    batch: int
    session: float
    bare: float
    prepare: float
    scan: dict[bool, float]
    ratio: dict[bool, float]
    full_ratio: dict[bool, float]
    load: float
    path_ratio: dict[bool, float]
    stages: dict[bool, dict[str, float]]


def prepared_images(subject: Subject) -> tuple[str, Inputs]:
    """Return the name of the model's input and the images of a scan, ready for it."""
    return _prepare(load_model(subject.model), load_dataset(subject.data), subject)


def _prepare(model: OnnxModel, clean: CleanSet, subject: Subject) -> tuple[str, Inputs]:
    suspect = Suspect(model, clean, subject.options(True))
    return suspect.anatomy.view.image.name, suspect.inputs(suspect.pixels(suspect.sample))


def _open(subject: Subject) -> ort.InferenceSession:
    runtime = subject.options(True).runtime
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = runtime.thread_count
    return ort.InferenceSession(str(subject.model), settings, providers=provider_list(runtime))


def _run(session: ort.InferenceSession, name: str, images: Inputs, batch: int) -> None:
    for start in range(0, len(images), batch):
        session.run(None, {name: images[start : start + batch]})


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _best_batch(subject: Subject, name: str, images: Inputs) -> int:
    def trial(batch: int) -> float:
        session = _open(subject)
        some = images[:_TRIAL_IMAGES]
        return min(_seconds(lambda: _run(session, name, some, batch)) for _ in range(2))

    return min((batch for batch in _BATCHES if batch <= len(images)), key=trial)


def bare_pass(subject: Subject, batch: int) -> None:
    """Run the model over the images once; for its peak memory."""
    name, images = prepared_images(subject)
    _run(_open(subject), name, images, batch)


def scan_once(subject: Subject, given: bool) -> None:
    """Load and scan once; for its peak memory."""
    scan(load_model(subject.model), load_dataset(subject.data), subject.options(given))


def scan_times(subject: Subject) -> ScanTimes:
    """Take all measurements in turn, as often as the subject says."""
    name, images = prepared_images(subject)
    batch = _best_batch(subject, name, images)
    rounds = [_Round.take(subject, name, images, batch) for _ in range(subject.repeats)]
    both = (True, False)
    return ScanTimes(
        images=len(images),
        batch=batch,
        session=median(r.session for r in rounds),
        bare=median(r.bare for r in rounds),
        prepare=median(r.prepare for r in rounds),
        scan={given: median(r.scan[given] for r in rounds) for given in both},
        ratio={given: median(r.scan[given] / r.bare for r in rounds) for given in both},
        full_ratio={
            given: median(r.scan[given] / (r.prepare + r.bare) for r in rounds) for given in both
        },
        load=median(r.load for r in rounds),
        path_ratio={
            given: median((r.load + r.scan[given]) / (r.session + r.bare) for r in rounds)
            for given in both
        },
        stages={
            given: {
                stage: median(r.stages[given][stage] for r in rounds)
                for stage in rounds[0].stages[given]
            }
            for given in both
        },
    )


@dataclass(frozen=True)
class _Round:
    """One repeat; the fields are those of `ScanTimes`."""

    session: float
    bare: float
    prepare: float
    scan: dict[bool, float]
    load: float
    stages: dict[bool, dict[str, float]]

    @classmethod
    def take(cls, subject: Subject, name: str, images: Inputs, batch: int) -> _Round:
        start = time.perf_counter()
        session = _open(subject)
        opened = time.perf_counter()
        _run(session, name, images, batch)
        ran = time.perf_counter()
        model, clean = load_model(subject.model), load_dataset(subject.data)
        loaded = time.perf_counter()
        prepare = _seconds(lambda: _prepare(model, clean, subject))
        scans: dict[bool, float] = {}
        stages: dict[bool, dict[str, float]] = {}
        for given in (True, False):
            begin = time.perf_counter()
            stages[given] = dict(scan(model, clean, subject.options(given)).timing)
            scans[given] = time.perf_counter() - begin
        return cls(opened - start, ran - opened, prepare, scans, loaded - ran, stages)


def command_seconds(*arguments: str, repeats: int) -> float:
    """Return the wall-clock time of the command line, interpreter start included."""
    command = [sys.executable, "-m", "onnx_soda", *arguments]

    def call() -> None:
        subprocess.run(command, check=True, capture_output=True)

    return median(_seconds(call) for _ in range(repeats))
