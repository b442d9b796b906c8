"""Where the time of a default scan goes: the model alone, changed images, styles, all around them.

    python -m benchmarks.throughput [--against FOLDER] [--whole] [--precision] [--network NAME ...]

Networks of torchvision with random weights, of 10 classes, on random images of 224 x 224, and the
bundled network on images of 32 x 32; one thread. What they answer means nothing. Time is that of
the processor, which other programs on the machine change less than that of the clock. With FOLDER,
another state of the project (`git worktree add FOLDER COMMIT`), both are measured in turn, each in
a process of its own.

With --whole, scans are timed, and how much of that is inside ONNX Runtime's sessions. With
--precision, the networks are run in float16, and in 8 bits by onnxruntime.quantization.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What is imported inside functions is, in a job, of the state that is measured.
_CLASSES, _SIDE, _EACH = 10, 224, 6
_NETWORKS = ("mobilenet_v3_small", "resnet18")
_DIGITS = "digits"
_ROOT = Path(__file__).resolve().parents[1]
# Every so many concepts of the battery, so many styles, and how often: all again for the median.
_STEP, _STYLES, _ROUNDS = 24, 4, 3
_COLUMNS = (
    "network", "state", "model alone, ms an image", "unchanged", "concepts", "/ model alone",
    "styles", "/ model alone",
)  # fmt: skip
_LOW_COLUMNS = ("network", "computed in", "ms an image", "times faster", "largest difference")
_BATCH = 8
# Share of a ResNet-18's multiplications that come after the layer of styles.
_RESNET_SECOND = 0.453
_WHOLE_COLUMNS = (
    "network", "state", "passes", "processor, s", "inside sessions", "ms a pass",
)  # fmt: skip


def _processor_ms(work: Callable[[], object], images: int) -> float:
    work()  # the first run is slower
    spent = []
    for _ in range(_ROUNDS):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return 1000 * median(spent) / images


def _cost(model: Path, images: Path) -> dict[str, float]:
    """Return milliseconds an image of the model alone, and of probes."""
    from onnx_soda import RuntimeOptions, ScanOptions, load_dataset, load_model
    from onnx_soda._detect.concepts.battery import concept_battery
    from onnx_soda._detect.concepts.folds import group_by_fold
    from onnx_soda._detect.concepts.probe import Probe, ProbeImages
    from onnx_soda._detect.concepts.reference import fit_reference_head, read_features
    from onnx_soda._detect.concepts.styles import StyleLibrary
    from onnx_soda._suspect import Suspect

    options = ScanOptions(preprocess="imagenet", runtime=RuntimeOptions("cpu", 1))
    suspect = Suspect(load_model(model), load_dataset(images), options)
    rows = np.arange(2 * _CLASSES)
    features = read_features(suspect, rows)
    labels, fold = rows % _CLASSES, rows // _CLASSES
    heads = tuple(
        fit_reference_head(pooling, layer, labels, fold, _CLASSES)
        for pooling, layer in zip(features.poolings, features.layers, strict=True)
    )
    pixels = suspect.pixels(rows)
    members = ProbeImages(pixels, group_by_fold(labels, fold, _CLASSES), fold)
    battery = concept_battery(3)[::_STEP]
    plain = Probe(suspect, members, heads, _CLASSES)
    given = suspect.inputs(pixels)
    alone = _processor_ms(lambda: suspect.body.logits(given), len(rows))
    unchanged = _processor_ms(lambda: plain.flows(None), len(rows))
    concepts = _processor_ms(
        lambda: [plain.flows(one) for one in battery], len(rows) * len(battery)
    )
    layer = features.style_layer
    if layer is None:
        raise ValueError(f"{model.name}: no layer has a style")
    styled = Probe(suspect, members, heads, _CLASSES, layer)
    library = StyleLibrary(layer, features.styles, pixels)
    some = [library.take(donor, 0.6) for donor in range(_STYLES)]
    styles = _processor_ms(lambda: [styled.flows(one) for one in some], len(rows) * len(some))
    return {"alone": alone, "unchanged": unchanged, "concepts": concepts, "styles": styles}


def _whole(model: Path, images: Path, aim: float) -> dict[str, float]:
    """Return what a default scan costs, and how much of it is inside sessions."""
    from onnx_soda import RuntimeOptions, ScanOptions, load_dataset, load_model, scan
    from onnx_soda._model.runtime import Session

    inside = [0.0]
    for name in {"run", "leave"} & set(vars(Session)):
        _count_inside(Session, name, inside)
    options = ScanOptions(
        preprocess="imagenet", min_accuracy=0, time_limit=aim, runtime=RuntimeOptions("cpu", 1)
    )
    start = time.process_time()
    report = scan(load_model(model), load_dataset(images), options)
    spent = time.process_time() - start
    return {"passes": report.coverage.passes, "seconds": spent, "inside": inside[0] / spent}


def _count_inside(session: type, name: str, inside: list[float]) -> None:
    run = getattr(session, name)

    def timed(*arguments: object, **named: object) -> object:
        start = time.process_time()
        try:
            return run(*arguments, **named)
        finally:
            inside[0] += time.process_time() - start

    setattr(session, name, timed)


def _in_state(state: Path, job: str, model: Path, images: Path, aim: float) -> dict[str, float]:
    """Do a job with some state of the project, in a process of its own."""
    command = [sys.executable, __file__, "--job", job, str(model), str(images), str(aim)]
    environment = {**os.environ, "PYTHONPATH": str(state), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _costs_row(name: str, state: str, cost: dict[str, float]) -> list[object]:
    ratios = (cost["concepts"] / cost["alone"], cost["styles"] / cost["alone"])
    times = [f"{cost[part]:.2f}" for part in ("alone", "unchanged", "concepts", "styles")]
    return [name, state, *times[:3], f"{ratios[0]:.2f}", times[3], f"{ratios[1]:.2f}"]


def _whole_row(name: str, state: str, cost: dict[str, float]) -> list[object]:
    each = 1000 * cost["seconds"] / cost["passes"]
    seconds, inside = f"{cost['seconds']:.0f}", f"{cost['inside']:.1%}"
    return [name, state, int(cost["passes"]), seconds, inside, f"{each:.2f}"]


class _Images:
    """What onnxruntime.quantization learns ranges from: a few batches."""

    def __init__(self, name: str, images: NDArray[np.float32]) -> None:
        self._batches = iter([{name: images[:_BATCH]}, {name: images[_BATCH : 2 * _BATCH]}])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


def _ways(name: str, model: Path, images: NDArray[np.float32]) -> dict[str, Path]:
    """Write a network in fewer bits; return the files."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from onnxruntime.transformers.float16 import convert_float_to_float16

    folder, given = model.parent, onnx.load(model)
    ready, whole = folder / f"{name}-ready.onnx", folder / f"{name}-8.onnx"
    quant_pre_process(str(model), str(ready), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(ready),
        str(whole),
        _Images(given.graph.input[0].name, images),
        quant_format=quantization.QuantFormat.QOperator,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )
    dynamic, half = folder / f"{name}-dynamic.onnx", folder / f"{name}-16.onnx"
    quantization.quantize_dynamic(
        str(ready), str(dynamic), weight_type=quantization.QuantType.QUInt8
    )
    onnx.save(convert_float_to_float16(given, keep_io_types=True), half)
    return {"float32": model, "8 bits": whole, "8 bits, weights alone": dynamic, "float16": half}


def _low(name: str, model: Path) -> Iterator[list[object]]:
    """Yield a network's time in float32, in 8 bits and in float16."""
    from onnx_soda._model.runtime import relative_difference

    images = np.random.default_rng(0).random((4 * _BATCH, 3, _SIDE, _SIDE), np.float32)
    times, answers = {}, {}
    for way, file in _ways(name, model, images).items():
        session = _plain_session(file)
        feeds = {session.get_inputs()[0].name: images}
        times[way] = _processor_ms(partial(session.run, None, feeds), len(images))
        answers[way] = session.run(None, feeds)[0]
    for way, spent in times.items():
        difference = relative_difference([answers[way]], [answers["float32"]])
        yield [name, way, f"{spent:.1f}", f"{times['float32'] / spent:.2f}", f"{difference:.3f}"]


def _screening_share(classes: int, each: int) -> float:
    """Return which share of a default search of a ResNet-18 showing concepts to the screen is."""
    from onnx_soda._detect.concepts.battery import BUDGETS
    from onnx_soda._detect.concepts.examination import count_by_fold
    from onnx_soda._detect.concepts.folds import split_into_folds
    from onnx_soda._detect.concepts.plan import Ground, planned_passes, screening_passes

    labels = np.repeat(np.arange(classes), each)
    folds = split_into_folds(labels, np.random.default_rng(0))
    labels = labels[folds.rows]
    search, confirm = (
        count_by_fold(labels[chosen], folds.fold[chosen], classes)
        for chosen in (folds.search, folds.confirm)
    )
    ground = Ground(search, confirm, channels=3, styled=True, style_pass=_RESNET_SECOND)
    plan = ground.whole(BUDGETS["default"], int(folds.turn[folds.screen].max()) + 1)
    unstyled = replace(plan, budget=replace(plan.budget, donors=0))
    return screening_passes(unstyled, ground) / planned_passes(plan, ground)


def _plain_session(file: Path) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])


def _write_digits(folder: Path) -> tuple[Path, Path]:
    import h5py

    with h5py.File(_ROOT / "fixtures" / "digits-clean.h5") as file:
        images, labels = file["images"][()], file["labels"][()]
    rows = np.concatenate([np.flatnonzero(labels == one)[:_EACH] for one in range(_CLASSES)])
    path = folder / "digits.npz"
    np.savez(path, images=images[rows], labels=labels[rows])
    return _ROOT / "fixtures" / "digits-clean.onnx", path


def _files(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Write networks and images; return the files of each."""
    from benchmarks.planned import write_images, write_network

    images = write_images(_CLASSES, _EACH)
    others = {name: (write_network(name, _CLASSES), images) for name in _NETWORKS}
    return {_DIGITS: _write_digits(folder), **others}


def _low_tables(files: Mapping[str, tuple[Path, Path]]) -> Iterator[str]:
    from benchmarks.common import markdown_table

    networks = {name: model for name, (model, _) in files.items() if name != _DIGITS}
    rows = [row for name, model in networks.items() for row in _low(name, model)]
    yield markdown_table(_LOW_COLUMNS, rows)
    counts = ("classes", "images of each", "share of the screening with concepts")
    ways = ((10, 100), (43, 75))
    yield markdown_table(counts, [(*way, f"{_screening_share(*way):.0%}") for way in ways])


def _state_table(arguments: argparse.Namespace, files: Mapping[str, tuple[Path, Path]]) -> str:
    """Measure one state, or two in turn."""
    from benchmarks.common import markdown_table

    columns: Sequence[str] = _WHOLE_COLUMNS if arguments.whole else _COLUMNS
    job, row = ("whole", _whole_row) if arguments.whole else ("cost", _costs_row)
    states = {"this": _ROOT}
    if arguments.against:
        states = {"before": arguments.against.resolve(), **states}
    rows = [
        row(name, state, _in_state(path, job, *paths, arguments.time))
        for name, paths in files.items()
        for state, path in states.items()
    ]
    return markdown_table(columns, rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--job", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--precision", action="store_true")
    parser.add_argument("--time", type=float, default=1e6, help="seconds that a scan aims at")
    parser.add_argument("--network", nargs="+", default=(_DIGITS, *_NETWORKS))
    return parser.parse_args()


def main() -> None:
    """Print the tables."""
    arguments = _arguments()
    if arguments.job:
        job, model, images, aim = arguments.job
        paths = Path(model), Path(images)
        print(json.dumps(_cost(*paths) if job == "cost" else _whole(*paths, float(aim))))
        return
    from benchmarks.common import machine_facts

    print(f"# Throughput\n\n{machine_facts()}\n", flush=True)
    with tempfile.TemporaryDirectory() as made:
        every = _files(Path(made))
        files = {name: every[name] for name in arguments.network}
        if arguments.precision:
            print("\n\n".join(_low_tables(files)))
        else:
            print(_state_table(arguments, files))


if __name__ == "__main__":
    main()
