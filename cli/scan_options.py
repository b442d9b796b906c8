"""Options of `onnx-soda scan`."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AllowMissingOption",
    "AttributionChoice",
    "AttributionOption",
    "BaselineOption",
    "BatchSizeOption",
    "BudgetChoice",
    "BudgetOption",
    "CacheDirOption",
    "CacheOption",
    "DataOption",
    "ExitZeroOption",
    "FactorOption",
    "FailOn",
    "FailOnOption",
    "JobsOption",
    "LayerOption",
    "MadOption",
    "MemoryOption",
    "MethodChoice",
    "MethodOption",
    "MinAccuracyOption",
    "ModelsArgument",
    "OffsetOption",
    "PreprocessOption",
    "Provider",
    "ProviderOption",
    "SamplesOption",
    "SeedOption",
    "Split",
    "SplitOption",
    "Spread",
    "ThreadsOption",
    "ThresholdOption",
    "VerboseOption",
    "ZerosOption",
]


# ONNX Runtime starts as many as it is told; a hundred thousand fill the machine's memory.
_MOST_THREADS = 256


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


class MethodChoice(StrEnum):
    """What decides."""

    CONCEPTS = "concepts"
    SODA = "soda"


class BudgetChoice(StrEnum):
    """How many concepts to try."""

    QUICK = "quick"
    DEFAULT = "default"
    THOROUGH = "thorough"


class FailOn(StrEnum):
    """Severities of findings."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"


class Split(StrEnum):
    """Part of a data set."""

    AUTO = "auto"
    TRAIN = "train"
    VAL = "val"
    TEST = "test"
    ALL = "all"


def _finite(value: float) -> float:
    """Refuse infinity, which JSON has no number for."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, not {value}")
    return value


DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        "-d",
        metavar="PATH",
        help="Clean labelled images: HDF5, npz, folder of class folders, IDX or Parquet.",
    ),
]
SplitOption = Annotated[Split, typer.Option("--split", help="Part of the clean set to use.")]
SamplesOption = Annotated[
    int,
    typer.Option(
        "--samples-per-class",
        min=1,
        help="The most clean images of each class for accuracy and last layer.",
    ),
]
PreprocessOption = Annotated[
    str | None,
    typer.Option(
        "--preprocess", metavar="PRESET|FILE", help="Preprocessing; inferred where not given."
    ),
]
AllowMissingOption = Annotated[
    bool, typer.Option("--allow-missing-classes", help="Go on where classes have no images.")
]
MinAccuracyOption = Annotated[
    float,
    typer.Option(
        "--min-accuracy", min=0, max=1, help="Clean accuracy under which nothing is concluded."
    ),
]
MethodOption = Annotated[
    MethodChoice,
    typer.Option(
        "--method",
        help="Decide by changing what images show, or by the paper's last-layer statistic.",
    ),
]
BudgetOption = Annotated[
    BudgetChoice, typer.Option("--budget", help="How many interventions to try.")
]
LayerOption = Annotated[
    str,
    typer.Option(
        "--layer", metavar="ROLE|NAME", help="Layer: last, deep, middle, shallow, or a tensor."
    ),
]
FactorOption = Annotated[float, typer.Option("--a", help="Scaling factor of do(x = a x + b).")]
OffsetOption = Annotated[float, typer.Option("--b", help="Offset of do(x = a x + b).")]
AttributionOption = Annotated[
    AttributionChoice,
    typer.Option("--attribution", help="How to compute the causal attribution."),
]
ThresholdOption = Annotated[
    float,
    typer.Option(
        "--threshold",
        min=0,
        callback=_finite,
        help="Anomaly index over which a class is abnormal (paper's statistic).",
    ),
]
MadOption = Annotated[
    Spread, typer.Option("--mad", help="Median or mean absolute deviation in the anomaly index.")
]
ZerosOption = Annotated[
    bool, typer.Option("--toolkit-zeros", help="Average in zeros as the paper's toolkit does.")
]
ProviderOption = Annotated[Provider, typer.Option("--provider", help="Where to compute.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=_MOST_THREADS, help="Threads; all cores where not given."),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Images per run; fitted to the memory limit else."),
]
MemoryOption = Annotated[
    int, typer.Option("--memory-limit", min=1, help="MiB for the activations of one batch.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="For the choice of images.")]
FailOnOption = Annotated[
    FailOn, typer.Option("--fail-on", help="Least severity of a finding that makes it exit with 1.")
]
ExitZeroOption = Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 instead of 1 or 3.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Timing and choices on stderr.")
]
ModelsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help="Model files; folders, quoted patterns or @LIST for many.",
        show_default=False,
    ),
]
JobsOption = Annotated[
    int, typer.Option("--jobs", "-j", min=1, max=_MOST_THREADS, help="Models scanned at once.")
]
CacheOption = Annotated[
    bool,
    typer.Option("--cache/--no-cache", help="Remember scans of many models for the next time."),
]
CacheDirOption = Annotated[
    Path | None,
    typer.Option("--cache-dir", metavar="FOLDER", help="Where they are remembered."),
]
BaselineOption = Annotated[
    Path | None,
    typer.Option("--baseline", metavar="FILE", help="Accepted findings, see `baseline`."),
]
