"""`onnx-soda twins`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnx_soda._answers import Twin, TwinsAnswer
from onnx_soda._api import make_twins
from onnx_soda._options import TwinOptions
from onnx_soda._report.json import to_json
from onnx_soda._report.tables import fact_table
from onnx_soda._words import printable

from .config import data_options
from .options import (
    MOST_THREADS,
    USUAL_MEMORY,
    USUAL_SECONDS,
    ClassMapOption,
    CleanSetOption,
    DataRootOption,
    Debug,
    FormatOption,
    LabelsOption,
    MaxMemoryOption,
    Quiet,
    SandboxOption,
    SeedOption,
    SplitOption,
    TimeoutOption,
    limits_of,
)
from .output import CLEAN, INCONCLUSIVE, ProgressBar, deliver, failing_cleanly

# The library decides what is usual.
_USUAL = TwinOptions()
_MOST_TWINS, _MOST_EPOCHS = 64, 10_000

FolderOutput = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FOLDER", help="Write the twins here.", show_default=False
    ),
]
CountOption = Annotated[
    int, typer.Option("--count", min=1, max=_MOST_TWINS, help="How many twins to train.")
]
EpochsOption = Annotated[
    int | None,
    typer.Option(
        "--epochs",
        min=1,
        max=_MOST_EPOCHS,
        help="Passes over the images; chosen by their number if not given.",
    ),
]
TwinThreadsOption = Annotated[
    int,
    typer.Option("--threads", min=1, max=MOST_THREADS, help="Threads; each number has its twins."),
]


def twins_command(
    data: CleanSetOption,
    output: FolderOutput,
    count: CountOption = _USUAL.count,
    epochs: EpochsOption = None,
    seed: SeedOption = _USUAL.seed,
    split: SplitOption = "auto",
    class_map: ClassMapOption = None,
    labels: LabelsOption = None,
    data_root: DataRootOption = None,
    threads: TwinThreadsOption = _USUAL.threads,
    timeout: TimeoutOption = USUAL_SECONDS,
    max_memory: MaxMemoryOption = USUAL_MEMORY,
    sandbox: SandboxOption = True,
    format_: FormatOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train small reference models on the clean images alone, for `scan --reference`.

    A fifth of the images is held out, and each twin's accuracy on it is shown. A twin that is there
    already, from the same images and options, is kept. One that is too weak is not written.

    Exit codes: 0 there is a twin to use; 2 could not train, or wrong usage; 3 the clean set is too
    small, or every twin is too weak.
    """
    with failing_cleanly(debug):
        reading = data_options(class_map, labels, data_root)
        options = TwinOptions(count, epochs, seed, threads, reading)
        with ProgressBar(quiet) as progress:
            answer = make_twins(
                data,
                output,
                options=options,
                split=split,
                limits=limits_of(sandbox, timeout, max_memory),
                progress=progress,
            )
        read = {"--data": data, "--class-map": class_map, "--labels": labels}
        use = _flags({**read, "--data-root": data_root, "--reference": output})
        deliver(to_json(answer) if format_ == "json" else _rendered(answer, output, use), None)
    raise typer.Exit(CLEAN if answer.sound else INCONCLUSIVE)


def _flags(given: Mapping[str, Path | None]) -> str:
    return " ".join(
        f"{flag} {shlex.quote(str(path))}" for flag, path in given.items() if path is not None
    )


def _rendered(answer: TwinsAnswer, output: Path, use: str) -> RenderableType:
    if answer.problem:
        return Text(printable(answer.problem))
    facts = [
        ("images", f"{answer.images} trained on, {answer.held_out} held out"),
        ("classes", str(answer.classes)),
        ("seconds", f"{answer.seconds:.0f}"),
        *(("note", note) for note in answer.notes),
    ]
    lines = [Text(), *(Text(printable(line)) for line in _closing(answer, output, use))]
    return Group(fact_table(facts), Text(), _table(answer.twins), *lines)


def _table(twins: tuple[Twin, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("twin", overflow="fold")
    table.add_column("epochs", justify="right")
    table.add_column("accuracy, held out", justify="right")
    table.add_column("")
    for twin in twins:
        state = "kept" if twin.kept else "trained" if twin.sound else "too weak, not written"
        table.add_row(Text(twin.file), str(twin.epochs), f"{twin.accuracy:.1%}", state)
    return table


def _closing(answer: TwinsAnswer, output: Path, use: str) -> list[str]:
    """Return what to say below the table: what the twins are worth, and how to use them."""
    weak = [twin for twin in answer.twins if not twin.sound]
    said = []
    if weak:
        which = "Every twin" if not answer.sound else f"{len(weak)} of {len(answer.twins)} twins"
        verb = "is" if len(weak) == 1 or not answer.sound else "are"
        said.append(
            f"{which} {verb} too weak to be a reference: under {answer.bound:.0%} of the images "
            "held out get their class. More clean images help, or more --epochs."
        )
    if answer.sound:
        said.append(f"Use them: onnx-soda scan MODEL {use}")
    own = {twin.file for twin in answer.twins if twin.sound}
    others = sorted(path.name for path in output.glob("*.onnx") if path.name not in own)
    if others:
        said.append(
            f"Also in the folder, and used with it: {', '.join(others)}. Move away what is of "
            "another clean set."
        )
    return said
