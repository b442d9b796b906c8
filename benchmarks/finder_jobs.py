"""The networks to export: which there are, and what is known of each."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

__all__ = [
    "BATCH",
    "CLASSES",
    "LEGACY_DEFAULT",
    "PARAMETER_LIMIT",
    "Job",
    "Made",
    "TooLargeError",
    "framework",
    "installed",
    "list_bridge_jobs",
    "list_honest_jobs",
    "list_jobs",
    "require",
]

CLASSES = 20
# Larger networks take minutes and many gigabytes, and from 537 million on their weights no longer
# fit into the 2 GiB of one ONNX file.
PARAMETER_LIMIT = 400_000_000
# Images that each network is run on.
BATCH = 2
_EXPORTERS = ("dynamo", "legacy")
# One of each head and body style that torchvision does not have, small ones.
_TIMM = (
    "convnext_atto", "deit_tiny_distilled_patch16_224", "dla34", "efficientvit_b0", "ghostnet_100",
    "levit_128s", "mixer_s32_224", "mobilenetv3_small_050", "mobilenetv4_conv_small",
    "mobilevit_xxs", "poolformer_s12", "regnety_002", "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
)  # fmt: skip
_KERAS = (
    "MobileNet", "MobileNetV2", "ResNet50", "EfficientNetB0", "DenseNet121", "ConvNeXtTiny",
)  # fmt: skip


# Of keras.applications: the legacy exporter does not know their layer scale.
_NEW_EXPORTER = "ConvNeXt"
# The legacy exporter with the opset that it takes where none is asked for.
LEGACY_DEFAULT = "legacy, default opset"


class TooLargeError(Exception):
    """The network has more parameters than `PARAMETER_LIMIT`."""


@dataclass(frozen=True)
class Job:
    """One file to make: where the network comes from, its name, and how it is exported."""

    source: str
    family: str
    name: str
    exporter: str

    @property
    def key(self) -> str:
        """Identify the job in the cache."""
        return f"{self.source}/{self.name}/{self.exporter}"


@dataclass(frozen=True)
class Made:
    """What the framework knows about an exported network.

    Attributes:
        parameters: Number of parameters.
        images: Input of two images.
        width: Inputs of the last layer with weights.
        head_input: What that layer reads for these images; None where it cannot be had.
        scores: The network's output for these images.
        softmax: The output is a softmax of the logits.
    """

    parameters: int
    images: NDArray[Any]
    width: int
    head_input: NDArray[Any] | None
    scores: NDArray[Any]
    softmax: bool = False


def framework(name: str) -> Any:
    """Import a framework; as Any, since they are not installed where types are checked."""
    return importlib.import_module(name)


def list_jobs() -> list[Job]:
    """Return all jobs of the frameworks that are installed; torch and torchvision must be."""
    models = framework("torchvision.models")
    jobs = []
    for name in models.list_models(module=models):
        family = models.get_model_builder(name).__module__.rpartition(".")[2]
        jobs += [Job("torchvision", family, name, exporter) for exporter in _EXPORTERS]
    if installed("timm"):
        for name in _TIMM:
            jobs += [Job("timm", name.partition("_")[0], name, how) for how in _EXPORTERS]
    if installed("keras"):
        jobs += [Job("keras (torch backend)", name, name, "dynamo") for name in _KERAS]
    if installed("skl2onnx"):
        names = ("MLPClassifier", "MLPClassifier, zipmap")
        jobs += [Job("scikit-learn", "MLPClassifier", name, "skl2onnx") for name in names]
    return _families_in_turn(jobs)


def list_bridge_jobs() -> list[Job]:
    """Return all classifiers of torchvision and keras.applications, at the default opset."""
    jobs = [
        replace(job, exporter=LEGACY_DEFAULT) if job.exporter == "legacy" else job
        for job in list_jobs()
        if job.source == "torchvision"
    ]
    if installed("keras"):
        os.environ["KERAS_BACKEND"] = "torch"  # read when keras is imported
        applications = framework("keras.applications")
        names = [name for name in dir(applications) if name[0].isupper()]
        jobs += [Job("keras (torch backend)", name, name, "dynamo") for name in names]
    return jobs


def list_honest_jobs() -> list[Job]:
    """Return the classifiers of timm, keras.applications and torchvision.

    By the legacy exporter first, which takes a tenth of the time, and one of each family first.
    Only torchvision's come from both exporters.
    """
    others = [replace(job, exporter=LEGACY_DEFAULT) for job in list_jobs() if job.source == "timm"]
    for job in list_bridge_jobs():
        if job.source != "torchvision":
            how = job.exporter if job.name.startswith(_NEW_EXPORTER) else LEGACY_DEFAULT
            # DenseNet121 and EfficientNetB0 are a DenseNet and an EfficientNet.
            family = re.split(r"(?<=Net)|\d", job.name)[0]
            job = replace(job, family=family, exporter=how)
        others.append(job)
    jobs = _families_in_turn(list(dict.fromkeys(others)))
    return sorted(jobs, key=lambda job: job.exporter != LEGACY_DEFAULT)


def require(*names: str) -> None:
    """End the program where a package is not installed."""
    missing = [name for name in names if not installed(name)]
    if missing:
        sys.exit(f"this benchmark needs {', '.join(missing)}: pip install {' '.join(missing)}")


def _families_in_turn(jobs: list[Job]) -> list[Job]:
    """Order the jobs so that each family comes early, should time run out."""
    earlier: Counter[tuple[str, str, str]] = Counter()
    ranked = []
    for job in jobs:
        family = (job.source, job.family, job.exporter)
        ranked.append((earlier[family], job))
        earlier[family] += 1
    return [job for _, job in sorted(ranked, key=lambda entry: entry[0])]


def installed(name: str) -> bool:
    """Tell whether a framework can be imported."""
    return importlib.util.find_spec(name) is not None
