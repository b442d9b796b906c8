"""Options of `onnx-soda repair`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "OUTLIERS",
    "CleanSetOption",
    "ExportChoice",
    "ExportOption",
    "MaxDropOption",
    "ModelOutput",
    "ReconstructionChoice",
    "ReconstructionOption",
    "RepairFormat",
    "RepairFormatOption",
    "ReportOption",
    "ReportOutput",
    "RescanOption",
    "ScopeChoice",
    "ScopeOption",
    "SourceArgument",
    "TargetOption",
    "TopOption",
    "TriggersOption",
    "VictimOption",
]

# By name: the outliers by median absolute deviation, in place of a share of the neurons.
OUTLIERS = "mad"


class ScopeChoice(StrEnum):
    """Which weights are trained."""

    AUTO = "auto"
    HEAD = "head"
    PATH = "path"
    DEEP = "deep"


class ReconstructionChoice(StrEnum):
    """How infected images are made."""

    CONCEPTS = "concepts"
    ASCENT = "ascent"
    BOTH = "both"


class ExportChoice(StrEnum):
    """How the repaired model is made."""

    WEIGHTS = "weights"
    TORCH = "torch"


def _top(value: str) -> str:
    if value != OUTLIERS:
        try:
            share = float(value)
        except ValueError as error:
            raise typer.BadParameter(f"{value!r} is neither a share nor 'mad'") from error
        if not 0 < share <= 1:
            raise typer.BadParameter(f"a share is over 0 and at most 1, not {value}")
    return value


SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="The ONNX file, or what `onnx-soda convert` reads.",
        show_default=False,
    ),
]
CleanSetOption = Annotated[
    Path, typer.Option("--data", "-d", metavar="PATH", help="Clean labelled images, as for scan.")
]
ModelOutput = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="The repaired model.")
]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="JSON report of a scan of this model."),
]
VictimOption = Annotated[
    int | None, typer.Option("--victim", min=0, help="Source class, whatever a scan says.")
]
TargetOption = Annotated[
    int | None, typer.Option("--target", min=0, help="Class that it is turned into.")
]
ScopeOption = Annotated[
    ScopeChoice,
    typer.Option(
        "--scope",
        help="Train what reads the neurons, what feeds them alone too, or all paths through them.",
    ),
]
ReconstructionOption = Annotated[
    ReconstructionChoice,
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
        "--max-accuracy-drop", min=0, max=100, help="Points of clean accuracy to lose at most."
    ),
]
TriggersOption = Annotated[
    Path | None,
    typer.Option(
        "--trigger-images", metavar="PATH", help="Real trigger images, to measure with only."
    ),
]
ExportOption = Annotated[
    ExportChoice,
    typer.Option("--export", help="Put weights into the file's graph, or export it anew."),
]
RescanOption = Annotated[bool, typer.Option(help="Scan the repaired model.")]


class RepairFormat(StrEnum):
    """Forms of the report of a repair."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"


RepairFormatOption = Annotated[
    RepairFormat,
    typer.Option("--format", "-f", help="Form of the report.", case_sensitive=False),
]
ReportOutput = Annotated[
    Path | None,
    typer.Option("--report-output", metavar="FILE", help="Write the report of the repair here."),
]
