"""Chooses where ONNX Runtime computes: on the processor or on a CUDA device."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import Any

import onnxruntime as ort

from onnx_soda.errors import ProviderError
from onnx_soda.model.runtime_options import RuntimeOptions

__all__ = ["CPU", "CUDA", "cuda_device_count", "provider_list"]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# The same file must give the same report: exhaustive search and TF32 make convolutions differ
# from run to run. https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
_CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",
    "use_tf32": "0",
}


def cuda_device_count() -> int:
    """Return the number of CUDA devices, asking the driver; 0 where there is no driver.

    ONNX Runtime lists CUDA as available wherever its GPU wheel is installed and complains aloud
    when it then does not load, so the driver is asked first.
    """
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def provider_list(options: RuntimeOptions) -> list[Any]:
    """Return what to hand to ONNX Runtime as providers.

    Raises:
        ProviderError: CUDA was asked for and is not there.
    """
    if options.provider == "cpu":
        return [CPU]
    wheel_has_cuda = CUDA in ort.get_available_providers()
    if wheel_has_cuda and cuda_device_count():
        # Finds CUDA and cuDNN where pip installed them. It prints what it misses; stdout is for
        # the report alone.
        with contextlib.redirect_stdout(sys.stderr):
            ort.preload_dlls()
        return [(CUDA, _CUDA_OPTIONS), CPU]
    if options.provider == "cuda":
        missing = "no CUDA device" if wheel_has_cuda else "an ONNX Runtime without CUDA"
        raise ProviderError(
            f"provider cuda was asked for, and this machine has {missing}",
            "Use --provider cpu, or install onnxruntime-gpu and the CUDA driver.",
        )
    return [CPU]
