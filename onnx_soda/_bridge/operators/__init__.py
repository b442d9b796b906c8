"""Converters of ONNX operators to torch, registered with onnx2torch when they are imported.

onnx2torch 1.5.15 is the last release and knows operator revisions up to opset 16. What is added:

- `revisions`: newer revisions that mean the same as one that it converts;
- `own_converter`: operators that it converts to modules holding copies of the weights, or wrongly;
- `converter`: operators that it does not know.
"""

from __future__ import annotations

from onnx_soda._bridge.operators import (
    arithmetic,
    indexing,
    layers,
    registry,
    shapes,
    spatial,
)

__all__ = ["arithmetic", "indexing", "layers", "registry", "shapes", "spatial"]
