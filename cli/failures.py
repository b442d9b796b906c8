"""Turns errors into one or two lines on stderr and exit code 2."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from onnx_soda.errors import SodaError
from onnx_soda.report.plain import printable

from .exit_codes import COULD_NOT_SCAN

__all__ = ["complain", "failing_cleanly"]

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
            traceback.print_exc()
        complain(*_told(error))
        raise typer.Exit(COULD_NOT_SCAN) from error


def _told(error: Exception) -> tuple[str, str]:
    """Return what is wrong and what to do about it."""
    if isinstance(error, SodaError):
        rule = f" ({error.rule_id})" if error.rule_id else ""
        return error.message + rule, error.advice
    if isinstance(error, MemoryError):
        return "memory ran out", "Use fewer --samples-per-class or a smaller --batch-size."
    return (
        f"unexpected {type(error).__name__}: {error}",
        "This is a fault of onnx-soda; repeat with --debug and report it.",
    )


def complain(message: str, advice: str) -> None:
    """Print an error to stderr: what is wrong, then what to do."""
    print(f"onnx-soda: error: {_short(message)}", file=sys.stderr)
    if advice:
        print(f"  {_short(advice)}", file=sys.stderr)


def _short(text: str) -> str:
    shown = printable(text[:_MOST_SHOWN])
    return shown if len(text) <= _MOST_SHOWN else f"{shown} ..."
