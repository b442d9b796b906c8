"""What all tests share: tests marked `gpu` run only where CUDA really works.

Where several processes run the tests, each has a core of its own: the threads of ONNX Runtime wait
for each other in loops, and twice as many as there are cores take many times as long.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from fixtures.graphs import build
from onnx_soda._errors import SodaError
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import Body
from onnx_soda._model.runtime import cuda_device_count
from onnx_soda._options import RuntimeOptions

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def pytest_configure() -> None:
    # Commands that the tests start inherit an ignored signal, as where all runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker.isdigit() and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    need_gpu = [item for item in items if item.get_closest_marker("gpu")]
    reason = _why_no_cuda() if need_gpu else None
    if reason is not None:
        for item in need_gpu:
            item.add_marker(pytest.mark.skip(reason=f"needs CUDA: {reason}"))


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
