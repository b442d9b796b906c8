"""`onnx-soda scan`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from onnx_soda import ScanOptions, load_dataset, load_model, scan
from onnx_soda.causal.interventions import Intervention
from onnx_soda.model.providers import RuntimeOptions
from onnx_soda.report.jsonfile import check_writable, to_json
from onnx_soda.report.plain import printable
from onnx_soda.report.schema import ScanReport
from onnx_soda.report.text import render_report

from .arguments import Debug, Format, FormatOption, LogitsOption, ModelArgument, Output, Quiet
from .exit_codes import CLEAN, of_verdict
from .failures import failing_cleanly
from .output import deliver, deliver_renderable
from .progress import ProgressBar

__all__ = ["scan_command"]

_MEBIBYTE = 2**20


class Provider(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Spread(StrEnum):
    """Typical deviation of the anomaly index."""

    MEDIAN = "median"
    MEAN = "mean"


class AttributionChoice(StrEnum):
    """How to compute the causal attribution."""

    AUTO = "auto"
    CLOSED_FORM = "closed-form"
    BATCHED = "batched"
    BRUTE_FORCE = "brute-force"


class Split(StrEnum):
    """Part of a data set."""

    AUTO = "auto"
    TRAIN = "train"
    VAL = "val"
    TEST = "test"
    ALL = "all"


DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        "-d",
        metavar="PATH",
        help="Clean labelled images: HDF5, npz, folder of class folders, IDX or Parquet.",
    ),
]


def scan_command(
    model: ModelArgument,
    data: DataOption = None,
    split: Annotated[Split, typer.Option(help="Part of the clean set to use.")] = Split.AUTO,
    samples_per_class: Annotated[
        int, typer.Option(min=1, help="The most clean images to use of each class.")
    ] = 100,
    preprocess: Annotated[
        str | None,
        typer.Option(metavar="PRESET|FILE", help="Preprocessing; inferred where not given."),
    ] = None,
    allow_missing_classes: Annotated[
        bool,
        typer.Option("--allow-missing-classes", help="Go on where classes have no images."),
    ] = False,
    min_accuracy: Annotated[
        float, typer.Option(min=0, max=1, help="Clean accuracy under which nothing is concluded.")
    ] = 0.5,
    layer: Annotated[
        str,
        typer.Option(metavar="ROLE|NAME", help="Layer: last, deep, middle, shallow, or a tensor."),
    ] = "last",
    logits: LogitsOption = None,
    a: Annotated[float, typer.Option("--a", help="Scaling factor of do(x = a x + b).")] = 1.0,
    b: Annotated[float, typer.Option("--b", help="Offset of do(x = a x + b).")] = 1.0,
    attribution: Annotated[
        AttributionChoice, typer.Option(help="How to compute the causal attribution.")
    ] = AttributionChoice.AUTO,
    threshold: Annotated[
        float, typer.Option(min=0, help="Anomaly index over which a class is abnormal.")
    ] = 2.0,
    mad: Annotated[
        Spread, typer.Option(help="Median or mean absolute deviation in the anomaly index.")
    ] = Spread.MEDIAN,
    toolkit_zeros: Annotated[
        bool,
        typer.Option("--toolkit-zeros", help="Average in zeros as the paper's toolkit does."),
    ] = False,
    provider: Annotated[Provider, typer.Option(help="Where to compute.")] = Provider.AUTO,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; all cores where not given.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per run; fitted to the memory limit else.")
    ] = None,
    memory_limit: Annotated[
        int, typer.Option(min=1, help="MiB for the activations of one batch.")
    ] = 2048,
    seed: Annotated[int, typer.Option(min=0, help="For the choice of images.")] = 0,
    format_: FormatOption = Format.TEXT,
    output: Output = None,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="Exit with 0 whatever the verdict.")
    ] = False,
    quiet: Quiet = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Timing and choices on stderr.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Look for a semantic backdoor in an ONNX image classifier.

    Exit codes: 0 clean, 1 backdoor found, 2 could not scan or wrong usage, 3 inconclusive.
    """
    intervention = _intervention(a, b)
    with failing_cleanly(debug):
        options = ScanOptions(
            layer=layer,
            logits=logits,
            intervention=intervention,
            attribution=attribution.value,
            threshold=threshold,
            spread=mad.value,
            toolkit_zeros=toolkit_zeros,
            preprocess=preprocess,
            samples_per_class=samples_per_class,
            allow_missing_classes=allow_missing_classes,
            min_accuracy=min_accuracy,
            seed=seed,
            runtime=RuntimeOptions(provider.value, threads, batch_size, memory_limit * _MEBIBYTE),
        )
        if output is not None:
            check_writable(output)
        with ProgressBar(quiet) as progress:
            clean = load_dataset(data, split.value) if data else None
            report = scan(load_model(model), clean, options, progress)
        if format_ is Format.JSON:
            deliver(to_json(report), output)
        else:
            deliver_renderable(render_report(report), output)
        if verbose:
            _tell_timing(report)
    raise typer.Exit(CLEAN if exit_zero else of_verdict(report.verdict))


def _intervention(a: float, b: float) -> Intervention:
    try:
        return Intervention(a, b)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _tell_timing(report: ScanReport) -> None:
    providers = ", ".join(report.environment.providers)
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in report.timing.items())
    print(f"{printable(report.model.file)}: {stages}; {providers}", file=sys.stderr)
