"""`onnx-soda check`: looks at files of any framework, and runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnx_soda._batch import check_many, find_files, is_single
from onnx_soda._report.formats import skipped_text

from .options import (
    USUAL_MEMORY,
    USUAL_SECONDS,
    BaselineOption,
    Debug,
    ExitZeroOption,
    FailOnOption,
    FormatsOption,
    MaxMemoryOption,
    Output,
    Quiet,
    SandboxOption,
    TimeoutOption,
    limits_of,
)
from .output import (
    COULD_NOT_SCAN,
    ProgressBar,
    complain,
    failing_cleanly,
    of_outcome,
    without_verdict,
    worst,
)
from .reports import read_targets
from .upkeep import accepted_entries, with_accepted

_KINDS = "ONNX, pickles, PyTorch, Keras, TensorFlow, safetensors, GGUF, NumPy, zip and tar archives"
FilesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH",
        help="Files of any kind. For many: folders, quoted patterns, or @LIST.",
        show_default=False,
    ),
]


def check_command(
    files: FilesArgument,
    baseline: BaselineOption = None,
    format_: FormatsOption = None,
    output: Output = None,
    fail_on: FailOnOption = "high",
    exit_zero: ExitZeroOption = False,
    timeout: TimeoutOption = USUAL_SECONDS,
    max_memory: MaxMemoryOption = USUAL_MEMORY,
    sandbox: SandboxOption = True,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Look at model files of any framework, and run nothing: is something in them dangerous?

    Archives are looked into. Files of no known kind are counted and named. This does not look for
    backdoors; `onnx-soda scan` does.

    Exit codes: 0 no finding; 1 a finding as severe as --fail-on that is not dangerous; 2 a file
    cannot be read, or none is of a known kind, or wrong usage; 3 lesser findings, or a part that
    could not be looked at; 4 unsafe. Of many files the worst counts, in the order 1, 4, 2, 3, 0.
    """
    targets = read_targets(format_, output, fail_on, f"onnx-soda check {' '.join(files)}")
    with failing_cleanly(debug):
        single = is_single(files)
        found = [Path(files[0])] if single else find_files(files)
        targets.check(single, [*(path for path in found if path.is_file()), baseline])
        entries = accepted_entries(baseline)
        limits = limits_of(sandbox, timeout, max_memory)
        with ProgressBar(quiet) as progress:
            ended, skipped = check_many(found, limits, progress)
        if not ended:
            told = skipped_text(skipped) or "There are no files."
            complain(f"nothing was looked at. {told}", f"Files that are looked into: {_KINDS}.")
            raise typer.Exit(COULD_NOT_SCAN)
        ended = with_accepted(ended, entries)
        if single:
            targets.tell_outcome(ended[0])
        else:
            targets.tell_many(ended, skipped)
        codes = [of_outcome(one.outcome, fail_on) for one in ended]
    raise typer.Exit(worst(map(without_verdict, codes) if exit_zero else codes))
