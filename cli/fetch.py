"""`onnx-soda fetch`: fetches a file and pins it, see `onnx_soda._fetch`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from onnx_soda._fetch import DIGEST, SCHEMES, USUAL_BYTES, Fetched, Wanted, fetch, place_of
from onnx_soda._report.tables import fact_table
from onnx_soda._system import folder_to_fill
from onnx_soda._words import printable

from .options import MEBIBYTE, Debug, Quiet
from .output import CLEAN, ProgressBar, deliver, failing_cleanly

_MOST_MEBIBYTES = 2**24


def fetch_command(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help=f"Address: {', '.join(f'{one}://' for one in SCHEMES)}."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Put the file here.")
    ],
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="REV", help="Branch, tag or commit (hf://)."),
    ] = None,
    sha256: Annotated[
        str | None,
        typer.Option("--sha256", metavar="HEX", help="Refuse the file if this is not its SHA-256."),
    ] = None,
    max_size: Annotated[
        int,
        typer.Option("--max-size", min=1, max=_MOST_MEBIBYTES, help="The most MiB to fetch."),
    ] = USUAL_BYTES // MEBIBYTE,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fetch a model or clean images, and pin them; no other command opens the network.

    Of the Hugging Face hub the revision is resolved to a commit first, and weights that lie beside
    an ONNX file come with it. No file is overwritten, and none is opened. It needs the extra [hub].

    Exit codes: 0 fetched; 2 could not fetch, not what was asked for, or wrong usage.
    """
    if sha256 is not None and not DIGEST.fullmatch(sha256.lower()):
        raise typer.BadParameter("64 hexadecimal digits are needed", param_hint="--sha256")
    with failing_cleanly(debug):
        wanted = Wanted(revision, sha256 and sha256.lower(), max_size * MEBIBYTE)
        place = place_of(url, wanted)
        with folder_to_fill(output, Path(os.devnull)), ProgressBar(quiet) as progress:
            address, files = fetch(url, place, output, wanted, progress)
        deliver(_told(address, files), None)
        # As text, not broken at the width of a page: they are copied.
        deliver(_next(address, files[0]), None)
    raise typer.Exit(CLEAN)


def _told(address: str, files: list[Fetched]) -> RenderableType:
    rows = [("from", address)]
    for one in files:
        rows += [
            ("file", f"{one.path}, {one.size:,} bytes"),
            ("begins like", one.kind),
            ("sha256", one.sha256),
        ]
    return fact_table(rows)


def _next(address: str, first: Fetched) -> str:
    """Return the commands to go on with."""
    folder = shlex.quote(str(first.path.parent))
    again = f"onnx-soda fetch {shlex.quote(address)} --sha256 {first.sha256} -o {folder}"
    scan = f"onnx-soda scan {shlex.quote(str(first.path))} --data CLEAN_SET"
    lines = ("", f"The same again: {again}", f"Scan it: {scan}")
    return "".join(f"{printable(line)}\n" for line in lines)
