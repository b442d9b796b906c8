"""Turns errors into one or two lines on stderr and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from onnx_soda.errors import SodaError
from onnx_soda.report.plain import printable

from .exit_codes import COULD_NOT_SCAN

__all__ = ["complain", "failing_cleanly"]


@contextmanager
def failing_cleanly(debug: bool) -> Iterator[None]:
    """Report errors of the block without a traceback.

    Args:
        debug: Let errors through, with their traceback.
    """
    try:
        yield
    except SodaError as error:
        if debug:
            raise
        complain(error.message, error.advice)
    except MemoryError:
        if debug:
            raise
        complain("memory ran out", "Use fewer --samples-per-class or a smaller --batch-size.")
    except Exception as error:
        if debug or isinstance(error, typer.Exit):
            raise
        complain(
            f"unexpected {type(error).__name__}: {error}",
            "This is a fault of onnx-soda; repeat with --debug and report it.",
        )
    else:
        return
    raise typer.Exit(COULD_NOT_SCAN)


def complain(message: str, advice: str) -> None:
    """Print an error to stderr: what is wrong, then what to do."""
    print(f"onnx-soda: error: {printable(message)}", file=sys.stderr)
    if advice:
        print(f"  {printable(advice)}", file=sys.stderr)
