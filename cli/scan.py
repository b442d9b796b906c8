"""`onnx-soda scan`."""

from __future__ import annotations

import sys

import typer

from onnx_soda.causal.interventions import Intervention
from onnx_soda.converters.protocol import ConvertOptions
from onnx_soda.model.runtime_options import RuntimeOptions
from onnx_soda.options import ScanOptions
from onnx_soda.report.outcomes import failure_of
from onnx_soda.report.plain import printable
from onnx_soda.report.schema import ScanReport
from onnx_soda.sandbox.files import scan_file
from onnx_soda.sandbox.sources import as_onnx, with_origin

from .arguments import (
    USUAL_MEMORY,
    USUAL_SECONDS,
    ArchOption,
    Debug,
    LogitsOption,
    MaxMemoryOption,
    ModelArgument,
    Output,
    Quiet,
    SandboxOption,
    SizeOption,
    TimeoutOption,
    limits_of,
)
from .exit_codes import CLEAN, of_report
from .failures import failing_cleanly
from .formats import FormatsOption, read_targets
from .progress import ProgressBar
from .repeat import repeat_command
from .scan_options import (
    AllowMissingOption,
    AttributionChoice,
    AttributionOption,
    BatchSizeOption,
    BudgetChoice,
    BudgetOption,
    DataOption,
    ExitZeroOption,
    FactorOption,
    FailOn,
    FailOnOption,
    LayerOption,
    MadOption,
    MemoryOption,
    MethodChoice,
    MethodOption,
    MinAccuracyOption,
    OffsetOption,
    PreprocessOption,
    Provider,
    ProviderOption,
    SamplesOption,
    SeedOption,
    Split,
    SplitOption,
    Spread,
    ThreadsOption,
    ThresholdOption,
    VerboseOption,
    ZerosOption,
)

__all__ = ["scan_command"]

_MEBIBYTE = 2**20
# The library decides what is usual.
_USUAL = ScanOptions()


def scan_command(
    context: typer.Context,
    model: ModelArgument,
    data: DataOption = None,
    split: SplitOption = Split.AUTO,
    samples_per_class: SamplesOption = _USUAL.samples_per_class,
    preprocess: PreprocessOption = None,
    allow_missing_classes: AllowMissingOption = False,
    min_accuracy: MinAccuracyOption = _USUAL.min_accuracy,
    method: MethodOption = MethodChoice.CONCEPTS,
    budget: BudgetOption = BudgetChoice.DEFAULT,
    layer: LayerOption = _USUAL.layer,
    logits: LogitsOption = None,
    a: FactorOption = _USUAL.intervention.a,
    b: OffsetOption = _USUAL.intervention.b,
    attribution: AttributionOption = AttributionChoice.AUTO,
    threshold: ThresholdOption = _USUAL.threshold,
    mad: MadOption = Spread.MEDIAN,
    toolkit_zeros: ZerosOption = False,
    provider: ProviderOption = Provider.AUTO,
    threads: ThreadsOption = None,
    batch_size: BatchSizeOption = None,
    memory_limit: MemoryOption = _USUAL.runtime.memory_limit // _MEBIBYTE,
    seed: SeedOption = _USUAL.seed,
    arch: ArchOption = None,
    size: SizeOption = None,
    timeout: TimeoutOption = USUAL_SECONDS,
    max_memory: MaxMemoryOption = USUAL_MEMORY,
    sandbox: SandboxOption = True,
    format_: FormatsOption = None,
    output: Output = None,
    fail_on: FailOnOption = FailOn.HIGH,
    exit_zero: ExitZeroOption = False,
    quiet: Quiet = False,
    verbose: VerboseOption = False,
    debug: Debug = False,
) -> None:
    """Look for a backdoor in an image classifier.

    What is not ONNX is converted first, see `onnx-soda convert`.

    Exit codes: 0 clean, 1 a finding as grave as --fail-on, 2 could not scan or wrong usage, 3
    inconclusive, or only lesser findings that speak for a backdoor.
    """
    intervention = _intervention(a, b)
    limits = limits_of(sandbox, timeout, max_memory)
    targets = read_targets(format_, output, fail_on.value, repeat_command(context))
    with failing_cleanly(debug):
        options = ScanOptions(
            method=method.value,
            budget=budget.value,
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
        targets.check()
        try:
            with (
                ProgressBar(quiet) as progress,
                as_onnx(model, ConvertOptions(arch, size=size), limits, progress) as (path, origin),
            ):
                found = scan_file(
                    path, data, split.value, options, limits=limits, progress=progress
                )
        except Exception as error:
            targets.tell_failure(failure_of(model.name, error), model)
            raise
        report = with_origin(found, origin)
        targets.tell(report, model)
        if verbose:
            _tell_timing(report)
    raise typer.Exit(CLEAN if exit_zero else of_report(report, fail_on.value))


def _intervention(a: float, b: float) -> Intervention:
    try:
        return Intervention(a, b)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _tell_timing(report: ScanReport) -> None:
    providers = ", ".join(report.environment.providers)
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in report.timing.items())
    print(f"{printable(report.model.file)}: {stages}; {providers}", file=sys.stderr)
