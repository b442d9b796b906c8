"""Stored tensors: what their dimensions declare against what the file holds."""

from __future__ import annotations

from math import prod

import onnx
import onnx_ir as ir
from onnx import TensorProto

from onnx_soda.errors import UnsupportedModelError
from onnx_soda.preflight.inventory import Inventory
from onnx_soda.preflight.limits import Limits
from onnx_soda.preflight.refusal import false_size, over_limit

__all__ = ["check_tensors", "declared_bytes"]

# Larger than any file; numbers of thousands of digits cannot even be printed.
_TOO_LARGE = 2**64
# Field of a tensor's data, where it is not raw bytes, and bits of an element that one entry of
# the field holds: as in the comments of onnx.proto. Elements of 4 bits or fewer are packed.
_TYPED: dict[int, tuple[str, int]] = {
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.COMPLEX64), ("float_data", 32)),
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.COMPLEX128), ("double_data", 64)),
    TensorProto.INT64: ("int64_data", 64),
    **dict.fromkeys((TensorProto.UINT32, TensorProto.UINT64), ("uint64_data", 0)),
    TensorProto.STRING: ("string_data", 0),
}
_DATA_FIELDS = ("float_data", "double_data", "int64_data", "uint64_data", "int32_data")


def declared_bytes(tensor: onnx.TensorProto) -> int:
    """Return the size that a tensor's dimensions and type declare; 0 for text and unknown types."""
    elements: int = prod(tensor.dims)
    return min((_bits(tensor) * elements + 7) // 8, _TOO_LARGE)


def check_tensors(inventory: Inventory, file: str, limits: Limits) -> None:
    """Check the dimensions of all stored tensors, and the data of those inside the file.

    Raises:
        ModelFileError: Dimensions and data do not fit.
        UnsupportedModelError: Too many axes, bytes or strings, or sparse tensors.
    """
    if inventory.sparse:
        raise UnsupportedModelError(
            f"{file} holds sparse tensors, which cannot be read here",
            "Export the model with dense weights.",
        )
    for tensor in inventory.tensors:
        _check_dims(tensor, limits)
        if tensor.data_location != TensorProto.EXTERNAL:
            _check_data(tensor)
    total = sum(declared_bytes(tensor) for tensor in inventory.tensors)
    if total > limits.tensor_bytes:
        raise over_limit(f"the tensors of {file} have {total} bytes", limits.tensor_bytes)
    _check_strings(inventory, file, limits)


def _check_dims(tensor: onnx.TensorProto, limits: Limits) -> None:
    if len(tensor.dims) > limits.rank:
        raise over_limit(f"tensor {_name(tensor)} has {len(tensor.dims)} axes", limits.rank)
    if any(size < 0 for size in tensor.dims):
        raise false_size(f"tensor {_name(tensor)} has a negative dimension: {list(tensor.dims)}")


def _check_data(tensor: onnx.TensorProto) -> None:
    elements = prod(tensor.dims)
    if tensor.HasField("raw_data"):
        held, needed, unit = len(tensor.raw_data), declared_bytes(tensor), "bytes"
    else:
        field, bits_held = _TYPED.get(tensor.data_type, ("int32_data", 0))
        held, unit = len(getattr(tensor, field)), "numbers"
        bits = _bits(tensor)
        # Complex numbers take two entries, packed ones share an entry of 8 bits.
        per_entry = bits_held or (8 if 0 < bits < 8 else bits)
        needed = -(-elements * bits // per_entry) if per_entry else elements
    known = tensor.data_type == TensorProto.STRING or _bits(tensor)
    if known and held != needed:
        raise false_size(
            f"tensor {_name(tensor)} of dimensions {list(tensor.dims)} needs "
            f"{min(needed, _TOO_LARGE)} {unit} and has {held}"
        )
    others = [name for name in _DATA_FIELDS if len(getattr(tensor, name))]
    if len(others) + tensor.HasField("raw_data") > 1:
        raise false_size(f"tensor {_name(tensor)} has two kinds of data")


def _check_strings(inventory: Inventory, file: str, limits: Limits) -> None:
    texts = [text for tensor in inventory.tensors for text in tensor.string_data]
    if len(texts) > limits.string_count:
        raise over_limit(f"{file} has {len(texts)} strings in tensors", limits.string_count)
    size = sum(map(len, texts))
    if size > limits.string_bytes:
        raise over_limit(f"the strings in tensors of {file} have {size} bytes", limits.string_bytes)


def _bits(tensor: onnx.TensorProto) -> int:
    """Return the size of an element; 0 for text and unknown types."""
    try:
        # Elements of fewer than 8 bits are packed; their size is a fraction.
        return int(8 * ir.DataType(tensor.data_type).itemsize)
    except (TypeError, ValueError):
        return 0


def _name(tensor: onnx.TensorProto) -> str:
    return repr(tensor.name[:80])
