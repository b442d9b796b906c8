"""Checks the bridge to torch on one ONNX file: does it convert, agree, and train?"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.finder_jobs import Made, framework
from onnx_soda import load_model
from onnx_soda._bridge.bridge import TorchModel, to_torch
from onnx_soda._errors import ConversionError, SodaError
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.parts import extract_tail

__all__ = ["TOLERANCE", "check_bridge", "check_file"]

# Largest difference to ONNX Runtime, relative to the largest value, that passes.
TOLERANCE = 1e-4


def check_file(path: Path, made: Made) -> dict[str, Any]:
    """Check an exported network; see `check_bridge`.

    Weights that an untrained network starts at zero throughout get random values: behind a last
    layer of zeros all scores are zero, and nothing that comes before would be compared.
    """
    _one_thread()
    model = onnx.load(path)
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            array = numpy_helper.to_array(tensor)
            if array.size and not array.any():
                noise = rng.normal(0, 0.02, array.shape).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(noise, tensor.name))
    return check_bridge(model, made.images)


def check_bridge(model: onnx.ModelProto, images: NDArray[Any]) -> dict[str, Any]:
    """Convert a model; return what came of it, with a sentence for each failure.

    Args:
        model: The model.
        images: Inputs for the comparison and for the gradient.
    """
    found: dict[str, Any] = {
        "opset": next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx")),
        "nodes": len(model.graph.node),
        "scope": "none",
        "failures": [],
    }
    start = time.perf_counter()
    try:
        bridge = _convert(model, images)
    except SodaError as error:
        found["failures"].append(f"{type(error).__name__}: {error.message}"[:300])
        return found
    seconds = time.perf_counter() - start
    found.update(scope=bridge.scope, parity=bridge.parity, seconds_to_convert=round(seconds, 1))
    if bridge.scope == "head":
        found["failures"].append(bridge.notes[0][:300])
        return found
    found.update(_gradients(bridge, model, images))
    if not bridge.parity <= TOLERANCE:
        found["failures"].append(f"differs from ONNX Runtime by {bridge.parity:.1e}")
    if bridge.write_back() != model:
        found["failures"].append("an unchanged model does not come back as it was")
    for where in ("image", "head"):
        if not found[f"gradient_{where}"]:
            found["failures"].append(f"no gradient reaches the {where}")
    return found


def _convert(model: onnx.ModelProto, images: NDArray[Any]) -> TorchModel:
    """Convert with the logits as last output: a softmax hides differences of the scores."""
    logits = dissect(load_model(model.SerializeToString())).logits.value.name or ""
    names = [output.name for output in model.graph.output]
    try:
        return to_torch(model, images=images, outputs=[*names, logits])
    except ConversionError:  # with other outputs than the file's the head is not tried
        return to_torch(model, images=images)


def _gradients(bridge: TorchModel, model: onnx.ModelProto, images: NDArray[Any]) -> dict[str, Any]:
    """Say where the gradient of a random combination of the scores arrives."""
    torch = framework("torch")
    anatomy = dissect(load_model(model.SerializeToString()))
    head = extract_tail(anatomy.view, anatomy.layer.value, anatomy.logits.value)
    inputs = torch.from_numpy(images).requires_grad_(True)
    outputs = bridge.module(inputs)
    scores = outputs if len(bridge.outputs) == 1 else outputs[-1]
    mixing = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0))
    (scores * mixing).sum().backward()
    reached = {name for name, weight in bridge.parameters.items() if _arrived(weight.grad)}
    own = bridge.parameters.keys() & head.model.graph.initializers.keys()
    return {
        "parameters": len(bridge.parameters),
        "without_gradient": len(bridge.parameters) - len(reached),
        "gradient_image": _arrived(inputs.grad),
        "gradient_head": bool(own) and own <= reached,
    }


def _arrived(gradient: Any) -> bool:
    return gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any())


def _one_thread() -> None:
    """Keep the whole process on one core: others may be measuring something on this machine."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    framework("torch").set_num_threads(1)
