"""`onnx-soda doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from onnx_soda.report.jsonfile import check_writable, to_json
from onnx_soda.report.text import fact_table

if TYPE_CHECKING:
    from onnx_soda.doctor import Diagnosis, PartState, SelfTest

from .arguments import Format, FormatOption, Output
from .exit_codes import CLEAN, COULD_NOT_SCAN
from .failures import failing_cleanly
from .output import deliver, deliver_renderable

__all__ = ["doctor_command"]


def doctor_command(format_: FormatOption = Format.TEXT, output: Output = None) -> None:
    """Show what this installation can do: versions, providers, converters, sandbox, a small scan.

    Exit codes: 0 the small scan passed, 2 it did not.
    """
    # It imports ONNX Runtime, for which other commands need not wait.
    from onnx_soda.doctor import diagnose

    with failing_cleanly(debug=False):
        if output is not None:
            check_writable(output)
        found = diagnose()
        if format_ is Format.JSON:
            deliver(to_json(found), output)
        else:
            deliver_renderable(fact_table(list(_rows(found))), output)
    raise typer.Exit(CLEAN if found.self_test.passed else COULD_NOT_SCAN)


def _rows(found: Diagnosis) -> Iterator[tuple[str, str]]:
    yield "python", f"{found.python} on {found.system}"
    yield "packages", ", ".join(f"{name} {number}" for name, number in found.versions.items())
    yield "providers", f"{', '.join(found.providers)}; CUDA devices: {found.cuda_devices}"
    yield "ceilings", f"opset {found.newest_opset}, IR version {found.newest_ir_version}"
    yield from _parts("extra", found.extras)
    yield from _parts("converter", found.converters)
    yield from _test(found.self_test)


def _parts(kind: str, parts: Sequence[PartState]) -> Iterator[tuple[str, str]]:
    for part in parts:
        if part.missing:
            needs = f'needs {", ".join(part.missing)}: pip install "onnx-soda[{part.extra}]"'
            yield kind, f"{part.name}: {needs}"
        else:
            yield kind, f"{part.name}: usable"


def _test(test: SelfTest) -> Iterator[tuple[str, str]]:
    if test.sandbox is None:
        yield "self-test", f"FAILED: {test.problem}"
        return
    held = test.sandbox
    layers = [
        ("files (Landlock)", held.files),
        ("network and programs (seccomp)", held.network),
    ]
    yield "sandbox", "; ".join(f"{name}: {'held' if on else 'NOT held'}" for name, on in layers)
    for gap in held.gaps:
        yield "gap", gap
    yield "self-test", f"passed in {test.seconds:.1f} s"
