"""`onnx-soda scan`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from onnx_soda._baseline import Entry
from onnx_soda._batch import (
    Ended,
    ask_all,
    find_models,
    is_single,
    left_out,
    scan_many,
    scan_one,
)
from onnx_soda._cache import Cache, usual_folder
from onnx_soda._data.forms import check_clean_set
from onnx_soda._errors import OptionError
from onnx_soda._options import (
    DataOptions,
    Intervention,
    RuntimeOptions,
    ScanOptions,
    ScanRequest,
)
from onnx_soda._results import ScanReport, failure_of
from onnx_soda._system import check_writable, write_text
from onnx_soda._words import printable

from .config import ConfigOption, class_order, data_options, repeat_command
from .options import (
    MEBIBYTE,
    USUAL_MEMORY,
    USUAL_SECONDS,
    AllowMissingOption,
    ArchOption,
    AttributionOption,
    BaselineOption,
    BatchSizeOption,
    BudgetOption,
    CacheDirOption,
    CacheOption,
    ClassMapOption,
    ClassMapOutput,
    DataOption,
    DataRootOption,
    Debug,
    ExitZeroOption,
    FactorOption,
    FailOnOption,
    FormatsOption,
    JobsOption,
    LabelsOption,
    LayerOption,
    LogitsOption,
    MadOption,
    MaxMemoryOption,
    MemoryOption,
    MethodOption,
    MinAccuracyOption,
    ModelsArgument,
    NeuronsOption,
    OffsetOption,
    Output,
    ParametersOption,
    PatchesOption,
    PreprocessOption,
    ProviderOption,
    Quiet,
    ReferenceClassesOption,
    ReferenceOption,
    SamplesOption,
    SandboxOption,
    SeedOption,
    SizeOption,
    SplitOption,
    ThreadsOption,
    ThresholdOption,
    TimeOption,
    TimeoutOption,
    VerboseOption,
    ZerosOption,
    conversion,
    height_and_width,
    limits_of,
    seconds_of,
)
from .output import (
    ProgressBar,
    failing_cleanly,
    of_outcome,
    of_report,
    stoppable,
    tell_traceback,
    without_verdict,
    worst,
)
from .reports import Targets, read_targets
from .upkeep import accepted_entries, with_accepted

# The library decides what is usual.
_USUAL = ScanOptions()


def scan_command(
    context: typer.Context,
    models: ModelsArgument,
    data: DataOption = None,
    split: SplitOption = "auto",
    class_map: ClassMapOption = None,
    class_map_output: ClassMapOutput = None,
    labels: LabelsOption = None,
    data_root: DataRootOption = None,
    samples_per_class: SamplesOption = _USUAL.samples_per_class,
    preprocess: PreprocessOption = None,
    allow_missing_classes: AllowMissingOption = False,
    min_accuracy: MinAccuracyOption = None,
    method: MethodOption = _USUAL.method,
    budget: BudgetOption = "default",
    layer: LayerOption = _USUAL.layer,
    neurons: NeuronsOption = "channels",
    logits: LogitsOption = None,
    a: FactorOption = _USUAL.intervention.a,
    b: OffsetOption = _USUAL.intervention.b,
    attribution: AttributionOption = "auto",
    threshold: ThresholdOption = _USUAL.threshold,
    mad: MadOption = "median",
    toolkit_zeros: ZerosOption = False,
    parameters: ParametersOption = _USUAL.parameters,
    patches: PatchesOption = _USUAL.patches,
    provider: ProviderOption = "auto",
    threads: ThreadsOption = None,
    batch_size: BatchSizeOption = None,
    memory_limit: MemoryOption = _USUAL.runtime.memory_limit // MEBIBYTE,
    seed: SeedOption = _USUAL.seed,
    arch: ArchOption = None,
    size: SizeOption = None,
    jobs: JobsOption = 1,
    reference: ReferenceOption = None,
    reference_classes: ReferenceClassesOption = None,
    cache: CacheOption = True,
    cache_dir: CacheDirOption = None,
    baseline: BaselineOption = None,
    config: ConfigOption = None,
    time: TimeOption = None,
    timeout: TimeoutOption = USUAL_SECONDS,
    max_memory: MaxMemoryOption = USUAL_MEMORY,
    sandbox: SandboxOption = True,
    format_: FormatsOption = None,
    output: Output = None,
    fail_on: FailOnOption = "high",
    exit_zero: ExitZeroOption = False,
    quiet: Quiet = False,
    verbose: VerboseOption = False,
    debug: Debug = False,
) -> None:
    """Look for a backdoor in an image classifier, or in many.

    Models in other formats are converted first; see `onnx-soda convert`. Of many models the worst
    exit code counts, in the order 1, 4, 2, 3, 0.

    Ctrl-C ends the scan, and reports what is done; a second one ends it at once.

    Exit codes: 0 clean; 1 a finding as severe as --fail-on; 2 could not scan, or wrong usage; 3
    inconclusive, or not complete, or only lesser findings that speak for a backdoor; 4 unsafe:
    something in the file is dangerous, and it was not scanned.
    """
    intervention = _intervention(a, b)
    sides = height_and_width(size) if size else None
    limits = limits_of(sandbox, timeout, max_memory)
    if reference and data is None:
        raise typer.BadParameter("clean images (--data) are needed, too", param_hint="--reference")
    order, reading = class_order(reference_classes), data_options(class_map, labels, data_root)
    targets = read_targets(format_, output, fail_on, repeat_command(context))
    with failing_cleanly(debug):
        options = ScanOptions(
            method=method,
            budget=budget,
            time_limit=seconds_of(time) if time else None,
            layer=layer,
            neurons=neurons,
            logits=logits,
            intervention=intervention,
            attribution=attribution,
            threshold=threshold,
            spread=mad,
            toolkit_zeros=toolkit_zeros,
            parameters=parameters,
            patches=patches,
            preprocess=preprocess,
            size=sides,
            samples_per_class=samples_per_class,
            allow_missing_classes=allow_missing_classes,
            min_accuracy=min_accuracy,
            seed=seed,
            runtime=RuntimeOptions(provider, threads, batch_size, memory_limit * MEBIBYTE),
            reference_classes=order,
            data=reading,
        )
        single = is_single(models)
        found = [Path(models[0])] if single else find_models(models)
        preparing = Path(preprocess) if preprocess else None
        inputs = [*found, data, baseline, config, preparing, class_map, labels]
        targets.check(single, inputs)
        _check_class_map_output(class_map_output, single, inputs)
        # Of one model without references the failure goes into its report.
        _check_data(None if single and not reference else data, reading)
        entries = accepted_entries(baseline)
        convert = conversion(arch, sides)
        request = ScanRequest(Path(models[0]), data, split, options, convert, limits)
        remembered = Cache(cache_dir or usual_folder()) if cache else None
        if reference:
            request = with_references(request, reference, remembered, quiet)
        if single:
            report = _scan_alone(request, targets, entries, quiet)
            codes = [of_report(report, fail_on)]
            _tell_class_map(report, class_map_output)
            if verbose:
                _tell_timing(report)
        else:
            ended = _scan_all(found, request, remembered, jobs, quiet)
            ended = with_accepted(ended, entries)
            targets.tell_many(ended, left_out(models, ended))
            for one in ended:
                if verbose and isinstance(one.outcome, ScanReport):
                    _tell_timing(one.outcome)
                if debug and one.error:
                    tell_traceback(one.error)
            codes = [of_outcome(one.outcome, fail_on) for one in ended]
    raise typer.Exit(worst(map(without_verdict, codes) if exit_zero else codes))


def _scan_alone(
    request: ScanRequest, targets: Targets, entries: Sequence[Entry], quiet: bool
) -> ScanReport:
    model = request.model
    try:
        with stoppable(), ProgressBar(quiet, _seconds(request)) as progress:
            found, _ = scan_one(request, progress=progress)
    except Exception as error:
        targets.tell_failure(failure_of(model.name, error), model)
        raise
    (ended,) = with_accepted([Ended(model, found, 0, False)], entries)
    assert isinstance(ended.outcome, ScanReport)  # noqa: S101 - it went in as one
    targets.tell(ended.outcome, model)
    return ended.outcome


def _check_data(data: Path | None, reading: DataOptions) -> None:
    if data is not None:
        check_clean_set(data, reading)


def _check_class_map_output(
    output: Path | None, single: bool, inputs: Sequence[Path | None]
) -> None:
    if output is None:
        return
    if not single:
        raise OptionError(
            "a class map is written for one model, and there are many",
            "Scan one of them alone with --class-map-output.",
        )
    check_writable(output, *inputs)


def _tell_class_map(report: ScanReport, output: Path | None) -> None:
    """Write the class map that the model's answers suggest; tell of it on stderr."""
    found = report.dataset and report.dataset.suggested_class_map
    if found and output is not None:
        write_text(output, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        told = f"class map written to {output.name}; check it, then scan with --class-map"
    elif found:
        told = "--class-map-output FILE writes the class map that these labels need"
    elif output is not None:
        told = f"{output.name} is not written: the labels do not look permuted"
    else:
        return
    print(printable(f"onnx-soda: {told}."), file=sys.stderr)


def _seconds(request: ScanRequest) -> float:
    return request.limits.seconds if request.limits else math.inf


def _scan_all(
    models: Sequence[Path], request: ScanRequest, cache: Cache | None, jobs: int, quiet: bool
) -> list[Ended]:
    with stoppable() as stopping, ProgressBar(quiet) as progress:
        ended = list(scan_many(models, request, cache, jobs, progress, stopping, progress.within))
    place = {model: number for number, model in enumerate(models)}
    return sorted(ended, key=lambda one: place[one.model])


def with_references(
    request: ScanRequest, references: list[str], cache: Cache | None, quiet: bool
) -> ScanRequest:
    """Ask every reference once, for all models of the command and of later ones."""
    with ProgressBar(quiet) as progress:
        return replace(request, references=ask_all(references, request, cache, progress))


def _intervention(a: float, b: float) -> Intervention:
    try:
        return Intervention(a, b)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _tell_timing(report: ScanReport) -> None:
    providers = ", ".join(report.environment.providers)
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in report.timing.items())
    print(printable(f"{report.model.file}: {stages}; {providers}"), file=sys.stderr)
