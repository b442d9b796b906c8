"""Arguments and options of all commands. Choices are the library's own Literals and registries."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from onnx_soda._data.forms import FORM_NAMES
from onnx_soda._detect.base import DETECTORS
from onnx_soda._errors import OptionError
from onnx_soda._options import (
    AUTO,
    DEFAULT_SECONDS,
    LARGEST_SIDE,
    AttributionMethod,
    BudgetName,
    ConvertOptions,
    DataOptions,
    Export,
    Limits,
    NeuronKind,
    Parameters,
    ProviderName,
    Reconstruction,
    RepairOptions,
    RuntimeOptions,
    ScanOptions,
    Scope,
    SplitName,
    Spread,
    TwinOptions,
    usual_memory,
)
from onnx_soda._registry import Registry
from onnx_soda._repair.base import REMOVERS
from onnx_soda._report.formats import FORMATS, REPAIR_FORMATS
from onnx_soda._rules import Severity

MEBIBYTE = 2**20
USUAL_SECONDS = DEFAULT_SECONDS
USUAL_MEMORY = usual_memory() // MEBIBYTE
# A year, and more memory than machines have.
_MOST_SECONDS, _MOST_MEBIBYTES = 366 * 24 * 3600, 2**24
# ONNX Runtime starts as many as it is told; a hundred thousand fill the machine's memory.
MOST_THREADS = 256
# By name: the outliers by median absolute deviation, in place of a share of the neurons.
OUTLIERS = "mad"

PlainFormat = Literal["text", "json"]
USUAL_FORM = "text"

# --- messages of the library name options as Python does; the command line has flags.

_FLAGS = {
    "memory": "--max-memory",
    "seconds": "--timeout",
    "time_limit": "--time",
    "limits": "--no-sandbox",
    "pair": "--victim and --target",
    "spread": "--mad",
    "triggers": "--trigger-images",
    "data": "--data CLEAN_SET",
    "references": "--reference MODEL",
    "debug": "--debug",
    "sha256": "--sha256",
    "revision": "--revision",
    "max_size": "--max-size",
}
_OPTIONS = {
    field.name
    for options in (
        *(ScanOptions, DataOptions, RuntimeOptions, RepairOptions, ConvertOptions, TwinOptions),
        Limits,
    )
    for field in fields(options)
}
_NAMED = re.compile(r"`([a-z_][a-z_0-9]*)(?:=([^`]*))?`")


def in_flags(text: str) -> str:
    """Return a message with the flags of the options that it names in backticks.

    >>> in_flags("Set `batch_size`, or `scope=deep`; see `onnx-soda doctor`.")
    'Set --batch-size, or --scope deep; see `onnx-soda doctor`.'
    >>> in_flags("Ask for `time_limit=5400`.")
    'Ask for --time 1h30m.'
    """

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name not in _FLAGS and name not in _OPTIONS:
            return found.group()
        shown = _FLAGS.get(name, f"--{name.replace('_', '-')}")
        if name == "time_limit" and value and value.isdecimal():
            value = in_units(int(value))
        return shown if value in (None, "None") else f"{shown} {value}"

    return _NAMED.sub(flag, text)


# --- checks


def _known(registry: Registry[Any], *others: str) -> Callable[[str], str]:
    """Return a check that a name is in a registry, or is one of some others."""

    def check(name: str) -> str:
        try:
            if name not in others:
                registry.find(name)
        except OptionError as error:
            raise typer.BadParameter(f"{error.message}. {error.advice}") from error
        return name

    return check


def _finite(value: float) -> float:
    """Refuse NaN, which is in every range, and infinity, which JSON has no number for."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, not {value}")
    return value


def _top(value: str) -> str:
    if value != OUTLIERS:
        try:
            share = float(value)
        except ValueError as error:
            raise typer.BadParameter(f"{value!r} is neither a share nor 'mad'") from error
        if not 0 < share <= 1:
            raise typer.BadParameter(f"a share is over 0 and at most 1, not {value}")
    return value


def _sized(text: str) -> str:
    height_and_width(text)
    return text


def height_and_width(text: str) -> tuple[int, int]:
    """Read "224" or "224x160".

    Raises:
        BadParameter: It is neither.
    """
    sides = [int(part) if part.isdecimal() else 0 for part in text.lower().split("x")]
    if len(sides) > 2 or not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise typer.BadParameter(
            f"{text!r} is neither pixels nor height x width, as 224 or 224x160, up to "
            f"{LARGEST_SIDE}",
            param_hint="--size",
        )
    return sides[0], sides[-1]


_TIME = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?", re.ASCII)
_UNITS = {"h": 3600, "m": 60, "s": 1}


def seconds_of(text: str) -> float:
    """Read a time: 90, 90s, 10m, 1h30m.

    >>> [seconds_of(text) for text in ("90", "90s", "10m", "1h30m")]
    [90.0, 90.0, 600.0, 5400.0]

    Raises:
        BadParameter: It is none, or too short or too long.
    """
    found = _TIME.fullmatch(text.strip().lower())
    parts = zip(found.groups(), _UNITS.values(), strict=True) if found else ()
    seconds = float(sum(int(part) * unit for part, unit in parts if part))
    if not 1 <= seconds <= _MOST_SECONDS:
        raise typer.BadParameter(
            f"{text!r} is no time from a second to a year, as 90, 90s, 10m or 1h30m",
            param_hint="--time",
        )
    return seconds


def in_units(seconds: int) -> str:
    """Return a time as `seconds_of` reads it.

    >>> [in_units(seconds) for seconds in (90, 600, 5400, 7200)]
    ['1m30s', '10m', '1h30m', '2h']
    """
    parts = []
    for name, unit in _UNITS.items():
        count, seconds = divmod(seconds, unit)
        parts.append(f"{count}{name}" if count else "")
    return "".join(parts)


def _timed(text: str) -> str:
    seconds_of(text)
    return text


def conversion(arch: str | None, size: tuple[int, int] | None) -> ConvertOptions:
    """Return how a model of another framework is converted; the result takes square images."""
    square = size[0] if size and size[0] == size[1] else None
    return ConvertOptions(arch, size=square)


def limits_of(sandbox: bool, timeout: float, max_memory: int) -> Limits | None:
    """Return the limits of the child process; None where none is wanted."""
    return Limits(max_memory * MEBIBYTE, timeout) if sandbox else None


# --- of several commands

ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="The ONNX file.", show_default=False)
]
SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="The ONNX file, or a file that `onnx-soda convert` reads.",
        show_default=False,
    ),
]
LogitsOption = Annotated[
    str | None,
    typer.Option("--logits", metavar="NAME", help="The tensor with the scores before the softmax."),
]
FormatOption = Annotated[
    PlainFormat | None,
    typer.Option(
        "--format",
        "-f",
        help="Form of the report; if not given, the ending of its file tells.  [default: text]",
        show_default=False,
        case_sensitive=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write the report to this file."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout",
        min=1,
        max=_MOST_SECONDS,
        callback=_finite,
        help="The most seconds that the work may take.",
    ),
]
TimeOption = Annotated[
    str | None,
    typer.Option(
        "--time",
        metavar="TIME",
        callback=lambda text: text if text is None else _timed(text),
        help="The time a scan aims at, as 90s, 10m or 1h30m; it tries as much as fits. --timeout "
        "ends it in any case.  [default: 15m]",
        show_default=False,
    ),
]
MaxMemoryOption = Annotated[
    int,
    typer.Option(
        "--max-memory",
        min=64,
        max=_MOST_MEBIBYTES,
        help="The most MiB that the work may take.  [default: 8 GiB or 3/4 of the machine]",
        show_default=False,
    ),
]
SandboxOption = Annotated[
    bool,
    typer.Option("--sandbox/--no-sandbox", help="Open the model in a sandboxed child process."),
]
ArchOption = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="LIBRARY:NAME",
        help="The network that bare weights belong to, as torchvision:resnet18.",
    ),
]
SquareOption = Annotated[
    int | None,
    typer.Option(
        "--size", min=1, max=LARGEST_SIDE, help="Pixels of images, if the source does not say."
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="PIXELS|HxW",
        callback=lambda text: text and _sized(text),
        help="Size of images, if the model does not say; inferred if not given.",
    ),
]
SplitOption = Annotated[SplitName, typer.Option("--split", help="Part of the clean set to use.")]
PreprocessOption = Annotated[
    str | None,
    typer.Option(
        "--preprocess", metavar="PRESET|FILE", help="Preprocessing; inferred if not given."
    ),
]
BudgetOption = Annotated[
    BudgetName, typer.Option("--budget", help="How many changes of images to try.")
]
ProviderOption = Annotated[
    ProviderName, typer.Option("--provider", help="Where ONNX Runtime computes.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=MOST_THREADS, help="Threads; all cores if not given."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed for all that is drawn.")]

# --- of scan

ModelsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help="Model files. For many: folders, quoted patterns, or @LIST.",
        show_default=False,
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", "-d", metavar="PATH", help=f"Clean labelled images: {FORM_NAMES}."),
]
ClassMapOption = Annotated[
    Path | None,
    typer.Option(
        "--class-map",
        metavar="FILE",
        help="JSON or CSV: which class number of the model each label of the clean images is.",
        show_default=False,
    ),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="The labels, where they lie elsewhere: .npy for .npy images, CSV, JSON lines or COCO "
        "for a folder or archive of images.",
        show_default=False,
    ),
]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        metavar="FOLDER",
        help="Links in a folder of images may lead below this folder, too.",
        show_default=False,
    ),
]
ClassMapOutput = Annotated[
    Path | None,
    typer.Option(
        "--class-map-output",
        metavar="FILE",
        help="Where the labels look permuted, write the --class-map for them here.",
        show_default=False,
    ),
]
SamplesOption = Annotated[
    int,
    typer.Option(
        "--samples-per-class",
        min=1,
        help="The most clean images of each class for accuracy and last layer.",
    ),
]
AllowMissingOption = Annotated[
    bool, typer.Option("--allow-missing-classes", help="Go on where classes have no images.")
]
MinAccuracyOption = Annotated[
    float | None,
    typer.Option(
        "--min-accuracy",
        min=0,
        max=1,
        callback=lambda value: value if value is None else _finite(value),
        help="Conclude nothing under this clean accuracy.  [default: surely above chance]",
        show_default=False,
    ),
]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method",
        metavar=f"<{'|'.join((AUTO, *DETECTORS.names))}>",
        callback=_known(DETECTORS, AUTO),
        help="The detector that decides; auto is the second opinion where there are references, "
        "and changes of what images show otherwise.",
    ),
]
LayerOption = Annotated[
    str,
    typer.Option(
        "--layer",
        metavar="WORD|NAME",
        help="Layer for the paper's statistic: last, deep, middle, shallow, or the name of a "
        "tensor (tensor:NAME where it is one of these words).",
    ),
]
NeuronsOption = Annotated[
    NeuronKind,
    typer.Option(
        "--neurons",
        help="What a neuron of a feature map is: a channel, or every place of each, as the paper "
        "counts.",
    ),
]
FactorOption = Annotated[float, typer.Option("--a", help="Scaling factor of do(x = a x + b).")]
OffsetOption = Annotated[float, typer.Option("--b", help="Offset of do(x = a x + b).")]
AttributionOption = Annotated[
    AttributionMethod,
    typer.Option(
        "--attribution",
        help="How to compute the causal attribution; auto is closed-form where it can, else "
        "batched, and first-order (estimates by slopes; needs torch) for many places.",
    ),
]
ThresholdOption = Annotated[
    float,
    typer.Option(
        "--threshold",
        min=0,
        callback=_finite,
        help="Anomaly index from which a class is abnormal (paper's statistic).",
    ),
]
MadOption = Annotated[
    Spread,
    typer.Option("--mad", help="Median or mean absolute deviation in the anomaly index."),
]
ParametersOption = Annotated[
    Parameters,
    typer.Option(
        "--parameters",
        help="Whose parameters a method of other authors takes: its own paper's, or those of the "
        "published comparison.",
    ),
]
ZerosOption = Annotated[
    bool, typer.Option("--toolkit-zeros", help="Average in zeros as the paper's toolkit does.")
]
PatchesOption = Annotated[
    bool,
    typer.Option(
        "--patches/--no-patches", help="Search for patch triggers, too, where torch is installed."
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Images per run; fits the memory limit if not given."),
]
MemoryOption = Annotated[
    int,
    typer.Option(
        "--memory-limit",
        min=1,
        help="MiB for the activations of one batch, and half as much for images that are kept.",
    ),
]
JobsOption = Annotated[
    int, typer.Option("--jobs", "-j", min=1, max=MOST_THREADS, help="Models to scan at once.")
]
ReferenceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--reference",
        metavar="PATH",
        help="Another model of the same classes, to compare with; several. For many: as MODEL.",
        show_default=False,
    ),
]
ReferenceClassesOption = Annotated[
    Path | None,
    typer.Option(
        "--reference-classes",
        metavar="FILE",
        help="Where references number the classes otherwise: JSON list of what each class of the "
        "clean images is in the references.",
        show_default=False,
    ),
]
CacheOption = Annotated[
    bool,
    typer.Option("--cache/--no-cache", help="Remember scans of many models, and references."),
]
CacheDirOption = Annotated[
    Path | None, typer.Option("--cache-dir", metavar="FOLDER", help="Where to remember them.")
]
BaselineOption = Annotated[
    Path | None,
    typer.Option("--baseline", metavar="FILE", help="Accepted findings; see `baseline`."),
]
FormatsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        "-f",
        metavar="FORM[=FILE]",
        help=f"Form of the report: {', '.join(FORMATS.names)}; several with files. If not given, "
        "the ending of --output tells.  [default: text]",
        show_default=False,
    ),
]
FailOnOption = Annotated[
    Severity, typer.Option("--fail-on", help="Exit with 1 on a finding as severe as this.")
]
ExitZeroOption = Annotated[
    bool, typer.Option("--exit-zero", help="Exit with 0 instead of 1, 3 or 4.")
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show times and providers on stderr.")
]

# --- of repair

CleanSetOption = Annotated[
    Path, typer.Option("--data", "-d", metavar="PATH", help="Clean labelled images, as for scan.")
]
ModelOutput = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="Write the repaired model here.")
]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="JSON report of a scan of this model."),
]
VictimOption = Annotated[
    int | None, typer.Option("--victim", min=0, help="Victim class; with --target.")
]
TargetOption = Annotated[
    int | None, typer.Option("--target", min=0, help="Target class; with --victim.")
]
RemoverOption = Annotated[
    str,
    typer.Option(
        "--method",
        metavar=f"<{'|'.join(REMOVERS.names)}>",
        callback=_known(REMOVERS),
        help="How to remove the backdoor.",
    ),
]
ScopeOption = Annotated[
    Scope,
    typer.Option(
        "--scope",
        help="Weights to train: those that read the neurons (head), also those that feed them "
        "alone (path), or all on the way to them (deep).",
    ),
]
ReconstructionOption = Annotated[
    Reconstruction,
    typer.Option("--reconstruction", help="Make infected images by concepts or by ascent."),
]
TopOption = Annotated[
    str,
    typer.Option(
        "--top",
        metavar="SHARE|mad",
        callback=_top,
        help="Share of the neurons to train, or 'mad' for the outliers.",
    ),
]
MaxDropOption = Annotated[
    float,
    typer.Option(
        "--max-accuracy-drop",
        min=0,
        max=100,
        callback=_finite,
        help="The most points of clean accuracy to lose.",
    ),
]
TriggersOption = Annotated[
    Path | None,
    typer.Option(
        "--trigger-images", metavar="PATH", help="Real trigger images, to measure with only."
    ),
]
ExportOption = Annotated[
    Export,
    typer.Option("--export", help="Put the weights into the file's graph, or export a new graph."),
]
WholeOption = Annotated[
    bool,
    typer.Option(
        "--whole",
        help="Repair what stands out most against --reference models, named or not.",
    ),
]
RescanOption = Annotated[bool, typer.Option(help="Scan the repaired model.")]
RepairFormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        metavar=f"<{'|'.join(REPAIR_FORMATS.names)}>",
        callback=lambda name: name and _known(REPAIR_FORMATS)(name.lower()),
        help="Form of the report; if not given, the ending of its file tells.  [default: text]",
        show_default=False,
    ),
]
ReportOutput = Annotated[
    Path | None,
    typer.Option("--report-output", metavar="FILE", help="Write the report of the repair here."),
]
