"""Turns errors into one or two lines on stderr and exit code 2."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from onnx_soda.errors import explained
from onnx_soda.report.plain import printable

from .exit_codes import COULD_NOT_SCAN

__all__ = ["complain", "failing_cleanly", "tell_traceback"]

# Characters of one message: it may quote a name of a megabyte from a hostile file.
_MOST_SHOWN = 1000


@contextmanager
def failing_cleanly(debug: bool) -> Iterator[None]:
    """Report errors of the block and exit with 2; Python's own way out, 1, means "found".

    Args:
        debug: Print the traceback too.
    """
    try:
        yield
    except typer.Exit:
        raise
    except Exception as error:
        if debug:
            tell_traceback(error)
        told = explained(error)
        rule = f" ({told.rule_id})" if told.rule_id else ""
        complain(told.message + rule, told.advice)
        raise typer.Exit(COULD_NOT_SCAN) from error


def tell_traceback(error: BaseException) -> None:
    """Print a traceback to stderr; it may quote what a hostile file holds."""
    for line in "".join(traceback.format_exception(error)).splitlines():
        print(_short(line), file=sys.stderr)


def complain(message: str, advice: str) -> None:
    """Print an error to stderr: what is wrong, then what to do."""
    print(f"onnx-soda: error: {_short(message)}", file=sys.stderr)
    if advice:
        print(f"  {_short(advice)}", file=sys.stderr)


def _short(text: str) -> str:
    shown = printable(text[:_MOST_SHOWN])
    return shown if len(text) <= _MOST_SHOWN else f"{shown} ..."
