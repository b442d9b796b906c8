"""What this installation can do: versions, providers, extras, converters, sandbox, a small scan."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path

import onnx.parser
import onnxruntime

from onnx_soda._converters.choose import CONVERTERS, missing_packages
from onnx_soda._errors import SodaError
from onnx_soda._model.runtime import cuda_device_count
from onnx_soda._options import Limits
from onnx_soda._preflight.definitions import newest_ir_version, newest_opset
from onnx_soda._results import SandboxInfo
from onnx_soda._sandbox.jobs import ScanJob
from onnx_soda._sandbox.parent import run_job
from onnx_soda._sandbox.process import private_folder
from onnx_soda._system import installed_versions, missing_modules

_PACKAGES = (
    "onnx-soda", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy", "scipy", "h5py",
    "pillow", "msgspec", "torch", "torchvision", "onnx2torch", "onnxscript", "safetensors",
    "keras", "scikit-learn", "skl2onnx", "skops", "pyarrow", "timm",
)  # fmt: skip
# Extras that are for other things than converters: what they bring, by the modules' names.
_EXTRAS = (
    ("parquet", "clean sets in Parquet", ("pyarrow",)),
    ("hub", "fetch", ("huggingface_hub", "fsspec", "aiohttp")),
    ("ray", "fleets on several machines", ("ray",)),
    ("repair", "repair", ("torch", "torchvision", "onnx2torch")),
)
# Two features, one hidden layer, three classes.
_MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,1,2,2] image) => (float[N,3] scores)
<float[4,3] a = {1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1}, float[3,3] b = {2, 0, 1, 0, 2, 0, 1, 0, 2}>
{
    flat = Flatten (image)
    sums = MatMul (flat, a)
    hidden = Relu (sums)
    scores = MatMul (hidden, b)
}
"""
_LIMITS = Limits(seconds=120)


@dataclass(frozen=True)
class PartState:
    """An extra or a converter.

    Attributes:
        name: What it is for.
        extra: The extra that brings what it needs.
        missing: Modules that it needs and that are not installed; usable where there are none.
    """

    name: str
    extra: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class SelfTest:
    """A scan of a tiny model in a child process.

    Attributes:
        passed: It came to a report.
        problem: Why not; empty where it did.
        seconds: How long it took, start of the child included.
        sandbox: What held the child; None where it came to no report.
    """

    passed: bool
    problem: str
    seconds: float
    sandbox: SandboxInfo | None


@dataclass(frozen=True)
class Diagnosis:
    """What an installation can do.

    Attributes:
        python: Version of Python.
        system: Operating system and architecture.
        versions: Versions of the installed packages that matter.
        providers: Execution providers that ONNX Runtime was built with.
        cuda_devices: Number of CUDA devices that it can use.
        newest_opset: Newest `ai.onnx` operator set that it accepts.
        newest_ir_version: Newest file format that it accepts.
        extras: Extras that are not for converters.
        converters: The converters.
        self_test: A small scan.
    """

    python: str
    system: str
    versions: dict[str, str]
    providers: tuple[str, ...]
    cuda_devices: int
    newest_opset: int
    newest_ir_version: int
    extras: tuple[PartState, ...]
    converters: tuple[PartState, ...]
    self_test: SelfTest


def diagnose() -> Diagnosis:
    """Look at this installation, and scan a tiny model in a child process."""
    return Diagnosis(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions=installed_versions(_PACKAGES),
        providers=tuple(onnxruntime.get_available_providers()),
        cuda_devices=cuda_device_count(),
        newest_opset=newest_opset(),
        newest_ir_version=newest_ir_version(),
        extras=tuple(
            PartState(what, extra, missing_modules(names)) for extra, what, names in _EXTRAS
        ),
        converters=tuple(
            PartState(one.name, one.extra, missing_packages(one)) for one in CONVERTERS
        ),
        self_test=_test(),
    )


def _test() -> SelfTest:
    begin = time.monotonic()
    try:
        with private_folder() as folder:
            model = Path(folder) / "self-test.onnx"
            model.write_bytes(onnx.parser.parse_model(_MODEL).SerializeToString())
            done = run_job(ScanJob(str(model)), _LIMITS)
    except (SodaError, OSError) as error:
        return SelfTest(False, str(error), time.monotonic() - begin, None)
    return SelfTest(True, "", time.monotonic() - begin, done.sandbox)
