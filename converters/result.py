"""The end of every conversion: tidy the model, compare it with its source, write it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_soda._answers import Conversion
from onnx_soda._errors import ConvertError, NotAClassifierError
from onnx_soda._model.inputs import find_image_input
from onnx_soda._model.load import load_model
from onnx_soda._model.runtime import relative_difference
from onnx_soda._options import ConvertOptions
from onnx_soda._system import installed_versions

from .refusals import explaining

PROVENANCE_KEY = "onnx_soda.converted"
"""Key of the metadata that tells what a model was converted from, as JSON."""

Arrays = list[NDArray[Any]]
Reference = Callable[[NDArray[Any]], Arrays]
"""Runs the source on a batch; returns its outputs in order."""

# A batch is more than one image, and no size that a graph is likely to insist on.
_ROWS = 3
# Larger differences are no rounding: the largest measured is in docs/converters.md.
_MOST_DIFFERENCE = 1e-3
# Images come as 0..1 or as bytes.
_SCALES = (1.0, 255.0)
# Share of the range that images are changed by to see whether scores hang on rounding, and how many
# times. Less would vanish where a network scales bytes down and is given small numbers.
_NUDGE, _NUDGES = 1e-5, 3
_SILENT = (
    "It was compared on other images than those from 0 to {:g}: there its scores hang on rounding."
)
# Free heights and widths are tried at this size, and where it is free at half of it more.
_FREE_SIZE = 64
_MOST_BYTES = 2**31 - 1
_QUIET = 4
_REPORTED = ("onnx", "onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Source:
    """What was converted, able to run.

    Attributes:
        converter: Name of the converter.
        path: The file.
        run: Runs it on a batch.
        shape: Shape of a batch as it takes it; None where a dimension is free.
        packages: Packages that took part, as named on PyPI.
        dtype: Element type of the input.
        facts: What is known about the images: "value_range", "class_names".
        notes: Sentences about choices made.
        content: Folder to take the digest of, where the source is one.
    """

    converter: str
    path: Path
    run: Reference
    shape: tuple[int | None, ...]
    packages: tuple[str, ...]
    dtype: str = "float32"
    facts: tuple[tuple[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    content: Path | None = None


def finish(
    proto: onnx.ModelProto, source: Source, out: Path, options: ConvertOptions
) -> Conversion:
    """Tidy a converted model, write it, and make sure that it can be read and agrees.

    Args:
        proto: The model, with its weights; changed.
        source: What it was converted from.
        out: File to write.
        options: Holds the seed of the images.

    Raises:
        ConvertError: It is too large for one file, ONNX Runtime refuses it, or it computes
            something else than the source.
        ModelError: It is over a limit of what can be scanned.
    """
    _strip(proto)
    if proto.ByteSize() > _MOST_BYTES:
        raise ConvertError(
            f"{source.path.name} makes an ONNX file of over 2 GiB", "Nothing can be done about it."
        )
    digest = _digest(source.content or source.path)
    facts = _facts(source, digest)
    del proto.metadata_props[:]
    proto.metadata_props.add(key=PROVENANCE_KEY, value=json.dumps(facts))
    out.write_bytes(proto.SerializeToString())
    model = load_model(out)
    rows = _batches(source.shape)
    agreement = compare(proto, source, options.seed)
    try:
        layout = find_image_input(model.ir.graph).layout
    except NotAClassifierError:
        layout = "other"
    return Conversion(
        converter=source.converter,
        file=source.path.name,
        sha256=digest,
        versions=facts["versions"],
        opset=model.opset,
        input_shape=source.shape,
        layout=layout,
        batches=rows,
        free_batch=source.shape[0] is None,
        difference=agreement.difference,
        notes=(*source.notes, *agreement.notes),
    )


@dataclass(frozen=True)
class Agreement:
    """How well a model agrees with its source on random images.

    Attributes:
        difference: The largest difference, as a share of the largest score.
        notes: Sentences about images that tell nothing.
    """

    difference: float
    notes: tuple[str, ...]


def compare(proto: onnx.ModelProto, source: Source, seed: int) -> Agreement:
    """Return how well a model and its source agree on random images.

    Deep networks amplify rounding on images that are nothing like those they were made for. So each
    image is also changed by a hundred thousandth of its range. Where the source then disagrees with
    itself, the image tells nothing and is left out.

    Raises:
        ConvertError: ONNX Runtime refuses the model, it does not run, the difference is larger
            than rounding explains, or no images tell anything.
    """
    session = _session(proto, source.path.name)
    name = session.get_inputs()[0].name
    random = np.random.default_rng(seed)
    worst, telling = 0.0, set()
    for shape, scale in product(_shapes(source.shape), _SCALES):
        images = (random.random(shape) * scale).astype(source.dtype)
        with explaining(f"{source.path.name} does not run on {shape}", _RUNS_NOT):
            wanted = source.run(images)
        with explaining(f"the converted {source.path.name} does not run on {shape}", _FAULT):
            found = session.run(None, {name: images})
        difference = _difference(found, wanted)
        if difference > _MOST_DIFFERENCE and _contradicts_itself(source, images, scale, random):
            continue
        telling.add(scale)
        worst = max(worst, difference)
    _check(worst, telling, source.path.name)
    silent = [scale for scale in _SCALES if scale not in telling]
    return Agreement(worst, tuple(_SILENT.format(scale) for scale in silent))


def _contradicts_itself(
    source: Source, images: NDArray[Any], scale: float, random: np.random.Generator
) -> bool:
    """Tell whether the source gives other scores for images that hardly differ."""
    if not np.issubdtype(images.dtype, np.floating):
        return False
    wanted = source.run(images)
    nudges = (_NUDGE * scale * random.uniform(-1, 1, images.shape) for _ in range(_NUDGES))
    nudged = ((images + nudge).astype(images.dtype) for nudge in nudges)
    return any(_difference(source.run(near), wanted) > _MOST_DIFFERENCE for near in nudged)


def _check(worst: float, telling: set[float], file: str) -> None:
    if worst > _MOST_DIFFERENCE:
        raise ConvertError(
            f"the converted {file} computes something else than the source: they differ by "
            f"{worst:.2g} of the largest score",
            _FAULT,
        )
    if not telling:
        raise ConvertError(
            f"{file} gives other scores for images that hardly differ, so nothing shows whether "
            "the converted model computes the same",
            _FAULT,
        )


_RUNS_NOT = "Name the size of its images as `size`."
_FAULT = "Ask its author for an ONNX file; report it if the model is an ordinary one."


def _session(proto: onnx.ModelProto, file: str) -> Any:
    settings = ort.SessionOptions()
    settings.log_severity_level = _QUIET
    with explaining(f"ONNX Runtime refuses the converted {file}", _FAULT):
        return ort.InferenceSession(
            proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )


def _difference(found: Sequence[Any], wanted: Arrays) -> float:
    if len(found) != len(wanted):
        return float("inf")
    return relative_difference([np.asarray(one) for one in found], wanted)


def _batches(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    return (1, _ROWS) if shape[0] is None else (shape[0],)


def _shapes(shape: tuple[int | None, ...]) -> list[tuple[int, ...]]:
    """Return shapes to try: one image and several, and two sizes where these are free."""
    free = None in shape[1:]
    sizes = (_FREE_SIZE, _FREE_SIZE + _FREE_SIZE // 2) if free else (_FREE_SIZE,)
    return [
        (rows, *(length or size for length in shape[1:]))
        for rows in _batches(shape)
        for size in sizes
    ]


def _facts(source: Source, digest: str) -> dict[str, Any]:
    return {
        "tool": f"onnx-soda {version('onnx-soda')}",
        "converter": source.converter,
        "source_sha256": digest,
        "versions": installed_versions((*source.packages, *_REPORTED)),
        **dict(source.facts),
    }


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file; of a folder, that of its files' names and digests."""
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.is_file())
        lines = [f"{_digest(one)}  {one.relative_to(path).as_posix()}\n" for one in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _strip(proto: onnx.ModelProto) -> None:
    """Remove notes: exporters write stack traces with paths of this machine into them."""
    waiting: list[Any] = [proto]
    while waiting:
        message = waiting.pop()
        for field, value in message.ListFields():
            if field.name in ("doc_string", "metadata_props"):
                message.ClearField(field.name)
            elif field.type == field.TYPE_MESSAGE and field.name != "opset_import":
                waiting.extend([value] if hasattr(value, "ListFields") else value)
