"""The command line: `onnx-soda`."""

from __future__ import annotations

import io
import logging
import signal
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from .files import convert_command, diff_command, inspect_command
from .output import COULD_NOT_SCAN, abandon_stdout, complain
from .repair import repair_command
from .rules import explain_command, rules_command
from .scan import scan_command
from .upkeep import baseline_command, cache_command, doctor_command

app = typer.Typer(
    name="onnx-soda",
    help="Finds and repairs semantic backdoors in ONNX image classifiers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("scan")(scan_command)
app.command("repair")(repair_command)
app.command("diff")(diff_command)
app.command("convert")(convert_command)
app.command("inspect")(inspect_command)
app.command("rules")(rules_command)
app.command("explain")(explain_command)
app.command("baseline")(baseline_command)
app.command("cache")(cache_command)
app.command("doctor")(doctor_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onnx-soda {version('onnx-soda')}")
        raise typer.Exit


@app.callback()
def _common(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def _stop(number: int, _: object) -> None:
    """End as a signal asks, but by the way that removes what is half done."""
    raise SystemExit(128 + number)


def main() -> None:
    """Run the command line."""
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _stop)
    # onnx-ir logs what it cannot infer, with traceback and with names from the file as they are.
    logging.getLogger("onnx_ir").addHandler(logging.NullHandler())
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A class name that the terminal's encoding lacks must not lose the report.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except OSError as error:  # what Typer prints itself, as --help and --version
        abandon_stdout()
        complain(f"nothing can be written to stdout: {error.strerror}", "")
        raise SystemExit(COULD_NOT_SCAN) from error
