"""ONNX to torch and back: a module to train, and its weights in the file that it came from.

    bridge = to_torch(onnx.load("model.onnx"))
    train(bridge.module)
    onnx.save(bridge.write_back(), "repaired.onnx")

Only tensors whose value changed are touched when weights are written back; everything else in the
file stays as it is, byte for byte. `export_anew` is for what cannot be written back.

Importing this module does not import torch; calling `to_torch` does.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_soda._errors import ConversionError, WriteBackError, first_line
from onnx_soda._system import require_modules

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

# Where a TensorProto may keep its elements; raw_data is what is written.
_ELEMENT_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def stored_tensors(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the tensors that a model's main graph stores, by name.

    Initializers, and the values of Constant nodes by the name of their output.
    """
    found = {
        node.output[0]: attribute.t
        for node in model.graph.node
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx")
        for attribute in node.attribute
        if attribute.name == "value"
    }
    return found | {tensor.name: tensor for tensor in model.graph.initializer}


def with_values(
    model: onnx.ModelProto, values: Mapping[str, NDArray[np.generic]]
) -> onnx.ModelProto:
    """Return a copy of a model with other values of stored tensors.

    Args:
        model: The model; stays as it is.
        values: New values by name, with the shape of the stored tensor; a value equal to the
            stored one leaves it untouched.

    Raises:
        WriteBackError: A value has another shape.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = stored_tensors(copy)
    for name, value in values.items():
        _store(tensors[name], name, value)
    return copy


def _store(tensor: onnx.TensorProto, name: str, value: NDArray[np.generic]) -> None:
    stored = numpy_helper.to_array(tensor)
    if stored.shape != value.shape:
        raise WriteBackError(
            f"the weight {name!r} has shape {value.shape}, in the file {stored.shape}",
            "A repair changes the values of weights, not their shapes.",
        )
    new = np.ascontiguousarray(value.astype(stored.dtype))
    if new.tobytes() == stored.tobytes():
        return
    for field in _ELEMENT_FIELDS:
        tensor.ClearField(field)
    tensor.raw_data = new.astype(new.dtype.newbyteorder("<")).tobytes()


_PACKAGES = ("torch", "torchvision", "onnx2torch")


@dataclass(frozen=True, eq=False)
class TorchModel:
    """A classifier, or its head, as a torch module, tied to the ONNX file that it came from.

    Attributes:
        module: In evaluation mode, on the processor. Takes `inputs` in order (of a full model that
            is the image, as the file takes it) and returns `outputs`: one tensor, or a list of
            several. `.train()` changes nothing: BatchNorm and Dropout stay in inference mode.
        scope: "full": from the graph's input; "head": from the penultimate layer to the logits.
        parity: Largest difference to ONNX Runtime, relative to the largest value
            (`parity.relative_difference`), on the inputs that it was checked with.
        inputs: Names of the tensors that the module takes.
        outputs: Names of the tensors that it returns.
        parameters: Every parameter of the module, by the name of its initializer (or of the
            output of the Constant node that holds it). A quantized weight is named by the output
            of its DequantizeLinear node.
        notes: Sentences about what is not as in the file.
        source: The model that was given; not to be changed.
        dequantized: Initial values of the parameters that the file holds quantized.
    """

    module: nn.Module
    scope: str
    parity: float
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: Mapping[str, nn.Parameter]
    notes: tuple[str, ...]
    source: onnx.ModelProto
    dequantized: Mapping[str, NDArray[Any]]

    def write_back(self) -> onnx.ModelProto:
        """Return the file's model with the present values of the parameters.

        Names, opset, metadata, inputs, outputs and nodes are the file's; so are, byte for byte,
        all weights that did not change.

        Raises:
            WriteBackError: A weight that the file holds quantized was changed, or a shape was.
        """
        values = {name: _as_array(weight) for name, weight in self.parameters.items()}
        for name, initial in self.dequantized.items():
            if not np.array_equal(values.pop(name).astype(initial.dtype), initial):
                raise WriteBackError(
                    f"the weight {name!r} changed, and the file holds it quantized",
                    "Repair the model before quantization, and quantize the repaired one.",
                )
        return with_values(self.source, values)


def _as_array(weight: nn.Parameter) -> NDArray[Any]:
    array: NDArray[Any] = weight.detach().cpu().numpy()
    return array


def require_torch(what: str = "repair needs") -> None:
    """Make sure that torch and what goes with it is installed, before the work for it begins.

    Args:
        what: Who needs it, for the error.

    Raises:
        MissingExtraError: torch, torchvision or onnx2torch is not.
    """
    require_modules(what, _PACKAGES, "repair")


def tail_to_torch(
    graph: ir.Model,
    inputs: Sequence[NDArray[Any]],
    what: str = "estimating causal attribution by slopes needs",
) -> nn.Module:
    """Convert a part of a classifier that ends in the logits, for its slopes.

    Args:
        graph: The part; stays as it is.
        inputs: Its inputs, in order, to check it with.
        what: Who needs torch, for the error.

    Raises:
        MissingExtraError: torch or onnx2torch is not installed.
        ConversionError: An operator cannot be converted.
        ParityError: The converted module computes something else than ONNX Runtime.
    """
    require_torch(what)
    from onnx_soda._bridge.attempts import convert_tail  # imports torch

    return convert_tail(graph, inputs)


def to_torch(
    model: onnx.ModelProto,
    *,
    images: NDArray[Any] | None = None,
    outputs: Sequence[str] | None = None,
    seed: int = 0,
    head_only: bool = False,
) -> TorchModel:
    """Convert a classifier to torch, and check it against ONNX Runtime.

    Where the whole graph cannot be converted, its part from the image to the logits is; where that
    cannot either, the head, from the penultimate layer to the logits. `scope` and `notes` tell.

    Args:
        model: The model, with its external data loaded. Not changed, and kept for `write_back`.
        images: Inputs for the check, as the model takes them, images first: real ones, where there
            are some; a few dozen do. Random ones of the declared shape where not given.
        outputs: Names of tensors that the module shall return, each once, in place of the graph's
            outputs. The head is then no substitute, unless they are the logits alone.
        seed: For the random images.
        head_only: Convert the head and nothing else.

    Raises:
        MissingExtraError: torch or onnx2torch is not installed.
        ModelError: The model is no image classifier that onnx-soda can read.
        ConversionError: An operator cannot be converted; names it, its opset and the node.
        ParityError: The converted module computes something else than ONNX Runtime.
        InferenceError: ONNX Runtime cannot run the model.
        TensorNotFoundError: A name in `outputs` is not in the graph.
    """
    require_torch()
    from onnx_soda._bridge.attempts import convert_best  # imports torch

    found = convert_best(model, frozenset(stored_tensors(model)), images, outputs, seed, head_only)
    return TorchModel(
        module=found.converted.module,
        scope=found.part.scope,
        parity=found.parity,
        inputs=found.inputs,
        outputs=found.part.outputs,
        parameters=found.converted.parameters,
        notes=found.notes,
        source=model,
        dequantized={
            weight.name: _as_array(found.converted.parameters[weight.name]).copy()
            for weight in found.prepared.weights
            if not weight.stored
        },
    )


@contextmanager
def torch_threads(most: int) -> Iterator[None]:
    """Let torch use so many threads at most, and put their number back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(min(before, most))
    try:
        yield
    finally:
        torch.set_num_threads(before)


# The newest opset of torch's TorchScript-based exporter (torch.onnx.export, opset_version).
_NEWEST_OPSET = 20


def export_anew(proto: onnx.ModelProto, images: NDArray[Any]) -> onnx.ModelProto:
    """Return what torch exports of a model: the same inputs and outputs, other nodes and weights.

    The TorchScript-based exporter is used, which needs no further package.

    Args:
        proto: The model, with its external data loaded.
        images: Some inputs, as the model takes them.

    Raises:
        ConversionError: The whole graph cannot be converted, or torch cannot export it.
    """
    bridge = to_torch(proto, images=images)
    outputs = tuple(output.name for output in proto.graph.output)
    if bridge.scope != "full" or bridge.outputs != outputs:
        raise ConversionError(
            f"the model cannot be exported anew: {bridge.notes[0]}", "Take `export=weights`."
        )
    opset = next(one.version for one in proto.opset_import if one.domain in ("", "ai.onnx"))
    (name,) = bridge.inputs
    axes = {tensor: {0: "batch"} for tensor in (name, *outputs)} if _free_batch(proto, name) else {}
    named = {"input_names": [name], "output_names": list(outputs), "dynamic_axes": axes}
    exported = _exported(bridge.module, images, min(opset, _NEWEST_OPSET), named)
    exported.metadata_props.extend(proto.metadata_props)
    return exported


def _exported(
    module: nn.Module, images: NDArray[Any], opset: int, named: Mapping[str, Any]
) -> onnx.ModelProto:
    """Return what torch's exporter makes of a module, with these names of inputs and outputs."""
    import torch

    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            path = Path(folder) / "model.onnx"
            warnings.simplefilter("ignore")  # it warns that it is the older exporter
            torch.onnx.export(
                module,
                (torch.from_numpy(images),),
                path,
                dynamo=False,
                opset_version=opset,
                **named,
            )
            return onnx.load(path)
    except Exception as error:  # exporters raise anything
        raise ConversionError(
            f"torch cannot export the model: {first_line(error)}", "Take `export=weights`."
        ) from error


def _free_batch(proto: onnx.ModelProto, name: str) -> bool:
    image = next(one for one in proto.graph.input if one.name == name)
    return not image.type.tensor_type.shape.dim[0].HasField("dim_value")
