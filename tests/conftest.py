"""What all tests share: tests marked `gpu` run only where CUDA really works.

Where several processes run the tests, each has a core of its own: the threads of ONNX Runtime wait
for each other in loops, and twice as many as there are cores take many times as long.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from fixtures.graphs import build
from onnx_soda._errors import SodaError
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import Body
from onnx_soda._model.runtime import cuda_device_count
from onnx_soda._options import RuntimeOptions

# Files that take longest come first, so that no process waits for another one at the end.
_LONGEST = (
    "cli/test_scan.py", "repair/test_repair.py", "test_hostile_models.py",
    "converters/test_commands.py", "cli/test_repair.py", "converters/test_round_trips.py",
    "cli/test_terminal.py", "plugins/test_plugins.py",
)  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


# Times are measured by benchmarks; a test machine does other work, too.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_configure() -> None:
    # Commands that the tests start inherit an ignored signal, as where all runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker.isdigit() and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)
    need_gpu = [item for item in items if item.get_closest_marker("gpu")]
    reason = _why_no_cuda() if need_gpu else None
    if reason is not None:
        for item in need_gpu:
            item.add_marker(pytest.mark.skip(reason=f"needs CUDA: {reason}"))


def _place(item: pytest.Item) -> int:
    """Return where a test's file comes; those that are equal stay in order."""
    file = item.path.relative_to(Path(__file__).parent).as_posix()
    return _LONGEST.index(file) if file in _LONGEST else len(_LONGEST)


def _why_no_cuda() -> str | None:
    """Say why ONNX Runtime cannot compute with CUDA here; None where it can."""
    if not cuda_device_count():
        return "the driver knows no CUDA device"
    anatomy = dissect(load_model(build("gemm").SerializeToString()))
    try:
        Body(anatomy, RuntimeOptions(provider="cuda"))
    except SodaError as error:
        return error.message
    return None


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for the tests of pages; they are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()
