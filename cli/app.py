"""The command line: `onnx-soda`. A command's module is imported when that command is run."""

from __future__ import annotations

import io
import logging
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

COMMANDS: Mapping[str, tuple[str, str]] = {
    "scan": ("scan:scan_command", "Look for a backdoor in an image classifier, or in many."),
    "fleet": (
        "fleet:fleet_app",
        "Scan many models from a manifest, with results that outlive a run.",
    ),
    "compare": (
        "compare:compare_command",
        "Ask several detectors about one model, and put their answers side by side.",
    ),
    "check": (
        "check:check_command",
        "Look at model files of any framework, and run nothing: is something in them dangerous?",
    ),
    "repair": (
        "repair:repair_command",
        "Remove a semantic backdoor, and write the repaired model.",
    ),
    "twins": (
        "twins:twins_command",
        "Train small reference models on the clean images alone, for `scan --reference`.",
    ),
    "diff": (
        "files:diff_command",
        "Show which stored weights of two models differ, and by how much.",
    ),
    "fetch": (
        "fetch:fetch_command",
        "Fetch a model or clean images, and pin them; no other command opens the network.",
    ),
    "convert": (
        "files:convert_command",
        "Convert a model of PyTorch, Keras, TensorFlow or scikit-learn to ONNX.",
    ),
    "inspect": ("files:inspect_command", "Show what is in a model file; the model is not run."),
    "rules": ("upkeep:rules_command", "List all rules that findings refer to."),
    "explain": (
        "upkeep:explain_command",
        "Say what a finding means, how sure it is, and what to do; or show a page.",
    ),
    "baseline": ("upkeep:baseline_command", "Accept the findings of reports, until a day."),
    "cache": ("upkeep:cache_command", "Show what is remembered: scans, and reference models."),
    "doctor": ("upkeep:doctor_command", "Show what this installation can do."),
}
"""By name: where the command is, and what `onnx-soda --help` says of it."""


class _LazyGroup(TyperGroup):
    """Commands that are imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names, in the order in which the help shows them."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command; None where there is none of that name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name][0].partition(":")
        found = getattr(import_module(f"onnx_soda._cli.{module}"), function)
        if isinstance(found, typer.Typer):  # a command with commands of its own
            return typer.main.get_command(found)
        single = typer.Typer(
            add_completion=False, rich_markup_mode=None, context_settings=_SETTINGS
        )
        single.command(cmd_name)(found)
        return typer.main.get_command(single)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the names and what they are for; imports none of them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


_SETTINGS = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    name="onnx-soda",
    cls=_LazyGroup,
    help="Finds and repairs semantic backdoors in ONNX image classifiers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_SETTINGS,
)


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
        from .output import COULD_NOT_SCAN, abandon_stdout, complain

        abandon_stdout()
        complain(f"nothing can be written to stdout: {error.strerror}", "")
        raise SystemExit(COULD_NOT_SCAN) from error
