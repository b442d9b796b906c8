"""`onnx-soda cache`."""

from __future__ import annotations

from typing import Annotated

import typer

from onnx_soda.batch.cache import Cache, usual_folder
from onnx_soda.report.plain import printable

from .arguments import Debug
from .failures import failing_cleanly
from .output import deliver
from .scan_options import CacheDirOption

__all__ = ["cache_command"]


def cache_command(
    clear: Annotated[bool, typer.Option("--clear", help="Forget all scans.")] = False,
    cache_dir: CacheDirOption = None,
    debug: Debug = False,
) -> None:
    """Show how much is remembered of scans of many models."""
    with failing_cleanly(debug):
        cache = Cache(cache_dir or usual_folder())
        if clear:
            cache.clear()
        held = cache.size()
        deliver(
            f"{printable(held.folder)}: {held.scans} scans, {held.size / 2**10:,.0f} KiB\n", None
        )
