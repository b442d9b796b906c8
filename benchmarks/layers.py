"""Times the paper's statistic on the layers of its Table 6: `python -m benchmarks.layers`.

Prints Markdown. A neuron is every place of every channel, as the paper counts. The model for times
is a ResNet-18 of full width in the form for CIFAR-10 with random weights, whose head is fitted to
the images: what it answers means little, and time does not depend on it. How good estimates are is
measured on it, and on trained networks of reduced width from benchmarks/models.

The paper's loop is timed on a few neurons and extrapolated. It runs the layers behind the neuron
alone, in batches, on activations that stay where they are: a quicker loop than the paper's.

Seconds are of the processor, on one thread: so other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.cases import Case, cases_of, zoo_cases
from benchmarks.common import PAPER, SHARED, kept, machine_facts, markdown_table
from benchmarks.networks import write_images, write_resnet18
from benchmarks.shared_data import read_shared
from onnx_soda import CleanSet, ScanOptions, load_dataset, load_model
from onnx_soda._detect.soda.analysis import analyse
from onnx_soda._detect.soda.attribution import Interventions
from onnx_soda._model.anatomy import ROLES
from onnx_soda._model.parts import Body
from onnx_soda._options import NeuronKind, RuntimeOptions
from onnx_soda._suspect import Observation, Suspect

__all__ = ["TABLE_MODELS", "keep_table"]

TABLE_MODELS = {
    "green_car": "cifar10-vgg-batch30-green_car-s2",
    "striped_wall_car": "cifar10-mobilenet-batch30-striped_wall_car-s1",
    "clean": "cifar10-resnet-clean-s1",
}
"""Models of benchmarks/models for the paper's Table 6: trained backdoors that took, and a clean."""

_CLASSES, _SIDE = 10, 32
# Of each class: where the tail has a closed form, and where places are set one by one.
_IMAGES, _FEW_IMAGES = 100, 10
# Neurons of the loop that are timed.
_TIMED = 3
_COLUMNS = (
    "model", "layer", "shape", "neurons", "images", "method", "bare pass, s",
    "pass and statistic, s", "of the bare pass", "loop, s", "times faster",
    "rank correlation: median, lowest", "largest error",
)  # fmt: skip
_FOUND_COLUMNS = (
    "model", "true target", "layer", "neurons", "flagged: index", "true target: index, rank",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Model:
    """A model to measure on.

    Attributes:
        name: Shown in the table.
        file: Its file.
        clean: Its clean images.
        options: How it is scanned; the layer is set for each row.
    """

    name: str
    file: Path
    clean: CleanSet
    options: ScanOptions


def _row(model: _Model, layer: str) -> list[object]:
    options = replace(model.options, layer=layer, neurons="places")
    suspect = Suspect(load_model(model.file), model.clean, options)
    bare = _bare(suspect)
    start = time.process_time()
    seen = suspect.observation
    assert seen is not None  # noqa: S101 - there are clean images
    result = analyse(suspect.tail, seen, options)
    seconds = time.process_time() - start
    assert result is not None  # noqa: S101 - there are clean images
    loop = _loop(suspect, seen.whole()) * result.neurons
    estimate = result.attribution.estimate
    print(f"{model.name}, {layer}: {seconds:.1f} s, {estimate}", file=sys.stderr, flush=True)
    return [
        model.name,
        layer,
        " x ".join(map(str, seen.layer.shape[1:])),
        f"{result.neurons:,}",
        len(seen.labels),
        result.attribution.method,
        f"{bare:.1f}",
        f"{seconds:.1f}",
        f"{seconds / bare:.2f}",
        f"{loop:,.0f}",
        f"{loop / seconds:,.0f}",
        f"{estimate.rank_correlation:.4f}, {estimate.lowest_rank_correlation:.4f}"
        if estimate
        else "exact",
        f"{estimate.largest_error:.1%}" if estimate else "exact",
    ]


def _bare(suspect: Suspect) -> float:
    """Time one pass over the images, prepared already, that gives the logits alone."""
    _ = suspect.preprocessing, suspect.tail, suspect.body
    images = suspect.inputs(suspect.pixels(suspect.sample))
    body = Body(suspect.anatomy, suspect.options.runtime)
    body.logits(images[:1])
    start = time.process_time()
    body.logits(images)
    return time.process_time() - start


def _loop(suspect: Suspect, seen: Observation) -> float:
    """Time one neuron of the loop, over all images."""
    experiment = Interventions(
        suspect.tail, seen.layer, seen.labels, suspect.options.intervention, seen.sides, "places"
    )
    times = []
    for neuron in range(_TIMED):
        start = time.process_time()
        experiment.shift(neuron)
        times.append(time.process_time() - start)
    return float(np.median(times))


def _wide(folder: Path, options: ScanOptions) -> _Model:
    """Write a ResNet-18 of full width for CIFAR-10, fitted to its test images or to patterns."""
    images, path = folder / "images.npz", folder / "resnet18.onnx"
    source, each = SHARED / "data" / "cifar10.h5", options.samples_per_class
    if source.exists():
        data = read_shared(source.stem)
        rows = np.concatenate(
            [np.flatnonzero(data.test_labels == label)[:each] for label in range(_CLASSES)]
        )
        np.savez(images, images=data.test[rows], labels=data.test_labels[rows])
    else:
        write_images(images, _CLASSES, each, _SIDE)
    write_resnet18(path, images, small_images=True)
    named = replace(options, preprocess="unit")
    return _Model("ResNet-18, random weights", path, load_dataset(images), named)


def _trained(options: ScanOptions) -> Iterator[_Model]:
    """Yield the trained residual networks for CIFAR-10, where its images are at hand."""
    for case in (*cases_of("development"), *cases_of("judging")):
        if case.dataset == "cifar10" and "resnet" in case.model.name and case.data.exists():
            yield _Model(case.model.stem, case.model, load_dataset(case.data), options)


def _found(options: ScanOptions, kind: NeuronKind) -> Iterator[list[object]]:
    """Yield what the statistic says of each layer of the models of ../shared/zoo."""
    for case in zoo_cases():
        clean, known = load_dataset(case.data), None
        for layer in ROLES:
            print(f"{case.model.stem}, {layer}", file=sys.stderr)
            chosen = replace(options, layer=layer, neurons=kind)
            suspect = Suspect(load_model(case.model), clean, chosen, known=known)
            known = suspect.preprocessing
            result = analyse(suspect.tail, suspect.observation, chosen)
            assert result is not None  # noqa: S101 - there are clean images
            index = -result.targets.index
            flagged = [f"{label}: {index[label]:.1f}" for label in result.targets.flagged]
            rank = "-"
            if case.target is not None:
                place = int((index > index[case.target]).sum()) + 1
                rank = f"{index[case.target]:.1f}, {place} of {len(index)}"
            target = "-" if case.target is None else str(case.target)
            yield [
                case.model.stem,
                target,
                layer,
                result.neurons,
                ", ".join(flagged) or "none",
                rank,
            ]


def _judged(case: Case, layer: str, images: int) -> dict[str, object]:
    """Return what the statistic says of one layer of a model, and how long it takes."""
    runtime = RuntimeOptions(provider="cpu", threads=1)
    chosen = ScanOptions(samples_per_class=images, layer=layer, neurons="places", runtime=runtime)
    suspect = Suspect(load_model(case.model), load_dataset(case.data), chosen)
    _ = suspect.preprocessing
    start = time.process_time()
    result = analyse(suspect.tail, suspect.observation, chosen)
    assert result is not None  # noqa: S101 - there are clean images
    flagged = [one for one in result.victims if one.target_class in result.targets.flagged]
    return {
        "model": case.model.stem,
        "layer": layer,
        "neurons": result.neurons,
        "images": images,
        "method": result.attribution.method,
        "named": [[one.victim_class, one.target_class] for one in flagged],
        "pair": [case.victim, case.target],
        "seconds": round(time.process_time() - start, 1),
    }


def keep_table(layers: Sequence[str] = ROLES, into: Path = PAPER) -> None:
    """Measure what the paper's Table 6 tells, of `TABLE_MODELS`, where it is not kept."""
    for part in ("development", "judging"):
        for case in cases_of(part):
            for layer in layers if case.model.stem in TABLE_MODELS.values() else ():
                images = _IMAGES if layer in ("last", "deep") else _FEW_IMAGES
                path = into / "layers" / f"{case.model.stem}-{layer}.json"
                kept(path, partial(_judged, case, layer, images))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=_IMAGES, help="Images of each class.")
    parser.add_argument("--layers", nargs="+", choices=ROLES, default=ROLES)
    parser.add_argument("--trained", action="store_true", help="Trained networks alone.")
    parser.add_argument(
        "--zoo", choices=("channels", "places"), help="What the statistic says of ../shared/zoo."
    )
    chosen = parser.parse_args()
    runtime = RuntimeOptions(provider="cpu", threads=1)
    options = ScanOptions(samples_per_class=chosen.images, runtime=runtime)
    print(f"# The paper's layers\n\n{machine_facts()}\n")
    if chosen.zoo:
        print(markdown_table(_FOUND_COLUMNS, _found(options, chosen.zoo)))
        return
    with tempfile.TemporaryDirectory() as name:
        models = _trained(options) if chosen.trained else iter([_wide(Path(name), options)])
        rows = (_row(model, layer) for model in models for layer in chosen.layers)
        print(markdown_table(_COLUMNS, rows))


if __name__ == "__main__":
    main()
