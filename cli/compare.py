"""`onnx-soda compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnx_soda._cache import Cache, usual_folder
from onnx_soda._compare import compare, methods_of
from onnx_soda._data.forms import check_clean_set
from onnx_soda._options import RuntimeOptions, ScanOptions, ScanRequest
from onnx_soda._results import ScanReport, failure_of

from .config import ConfigOption, class_order, data_options, repeat_command
from .options import (
    USUAL_MEMORY,
    USUAL_SECONDS,
    AllowMissingOption,
    ArchOption,
    BudgetOption,
    CacheDirOption,
    CacheOption,
    ClassMapOption,
    CleanSetOption,
    DataRootOption,
    Debug,
    ExitZeroOption,
    FailOnOption,
    FormatsOption,
    LabelsOption,
    MaxMemoryOption,
    Output,
    ParametersOption,
    PreprocessOption,
    ProviderOption,
    Quiet,
    ReferenceClassesOption,
    ReferenceOption,
    SamplesOption,
    SandboxOption,
    SeedOption,
    SizeOption,
    SourceArgument,
    SplitOption,
    ThreadsOption,
    TimeOption,
    TimeoutOption,
    conversion,
    height_and_width,
    limits_of,
    seconds_of,
)
from .output import (
    ProgressBar,
    failing_cleanly,
    of_report,
    stoppable,
    without_verdict,
)
from .reports import Targets, read_targets
from .scan import with_references

# The library decides what is usual.
_USUAL = ScanOptions()

DetectorsOption = Annotated[
    str | None,
    typer.Option(
        "--detectors",
        metavar="NAME,NAME,...",
        help="Those to compare.  [default: all that there are, with second-opinion where there are "
        "references]",
        show_default=False,
    ),
]


def compare_command(
    context: typer.Context,
    model: SourceArgument,
    data: CleanSetOption,
    detectors: DetectorsOption = None,
    split: SplitOption = "auto",
    class_map: ClassMapOption = None,
    labels: LabelsOption = None,
    data_root: DataRootOption = None,
    samples_per_class: SamplesOption = _USUAL.samples_per_class,
    preprocess: PreprocessOption = None,
    allow_missing_classes: AllowMissingOption = False,
    budget: BudgetOption = "default",
    parameters: ParametersOption = _USUAL.parameters,
    provider: ProviderOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = _USUAL.seed,
    arch: ArchOption = None,
    size: SizeOption = None,
    reference: ReferenceOption = None,
    reference_classes: ReferenceClassesOption = None,
    cache: CacheOption = True,
    cache_dir: CacheDirOption = None,
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
    debug: Debug = False,
) -> None:
    """Ask several detectors about one model, and put their answers side by side.

    Each scans by itself, with the same images, in a process of its own; --time and --timeout hold
    for each. What decides is what decides a scan; others flag many clean models. What a name
    stands for: `onnx-soda explain comparison`.

    Exit codes: 0 clean; 1 a finding as severe as --fail-on; 2 no detector could scan, or wrong
    usage; 3 inconclusive, or only lesser findings; 4 unsafe: it was not scanned.
    """
    limits = limits_of(sandbox, timeout, max_memory)
    sides = height_and_width(size) if size else None
    order, reading = class_order(reference_classes), data_options(class_map, labels, data_root)
    targets = read_targets(format_, output, fail_on, repeat_command(context))
    with failing_cleanly(debug):
        methods = methods_of(detectors, bool(reference))
        options = ScanOptions(
            budget=budget,
            time_limit=seconds_of(time) if time else None,
            parameters=parameters,
            preprocess=preprocess,
            size=sides,
            samples_per_class=samples_per_class,
            allow_missing_classes=allow_missing_classes,
            seed=seed,
            runtime=RuntimeOptions(provider, threads),
            reference_classes=order,
            data=reading,
        )
        preparing = Path(preprocess) if preprocess else None
        targets.check(True, [model, data, config, preparing, class_map, labels])
        check_clean_set(data, reading)
        request = ScanRequest(model, data, split, options, conversion(arch, sides), limits)
        remembered = Cache(cache_dir or usual_folder()) if cache else None
        if reference:
            request = with_references(request, reference, remembered, quiet)
        report = _compared(request, methods, remembered, targets, quiet)
        code = of_report(report, fail_on)
    raise typer.Exit(without_verdict(code) if exit_zero else code)


def _compared(
    request: ScanRequest,
    methods: tuple[str, ...],
    cache: Cache | None,
    targets: Targets,
    quiet: bool,
) -> ScanReport:
    try:
        with stoppable(), ProgressBar(quiet) as progress:
            report = compare(request, methods, cache, progress)
    except Exception as error:
        targets.tell_failure(failure_of(request.model.name, error), request.model)
        raise
    targets.tell(report, request.model)
    return report
