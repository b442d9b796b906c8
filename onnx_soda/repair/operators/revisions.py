"""Revisions of operators that mean the same as one that onnx2torch converts.

Nothing in the ONNX changelog (https://onnx.ai/onnx/operators/) but the element types differs
between them: inputs, outputs, attributes and their defaults are equal, which a test compares with
the schemas of the installed onnx.
"""

from __future__ import annotations

from onnx2torch.node_converters import get_converter
from onnx2torch.node_converters.registry import add_converter

__all__ = ["SAME_MEANING"]

# Each operator with a revision that onnx2torch converts and the others that mean the same.
SAME_MEANING: dict[str, tuple[int, tuple[int, ...]]] = {
    # 16 adds bfloat16.
    "GreaterOrEqual": (12, (16,)),
    "LessOrEqual": (12, (16,)),
    # 19 adds strings.
    "Equal": (13, (19,)),
    # 19 adds 8-bit floats, 21 4-bit integers, 23 4-bit floats, 24 8-bit exponents, 25 2-bit
    # integers.
    "ConstantOfShape": (9, (20, 21, 23, 24, 25)),
    "Constant": (13, (19, 21, 23, 24, 25)),
    "Identity": (16, (19, 21, 23, 24, 25)),
    "Shape": (15, (19, 21, 23, 24, 25)),
    "Transpose": (13, (21, 23, 24, 25)),
    # 20 adds 8-bit floats, 13 and 22 bfloat16.
    "IsInf": (10, (20,)),
    "IsNaN": (13, (9, 20)),
    "Acos": (7, (22,)),
    "Asin": (7, (22,)),
    "Atan": (7, (22,)),
    "Cos": (7, (22,)),
    "Elu": (6, (22,)),
    "EyeLike": (9, (22,)),
    "HardSigmoid": (6, (22,)),
    "HardSwish": (14, (22,)),
    "RoiAlign": (16, (22,)),
    "Round": (11, (22,)),
    "Sin": (7, (22,)),
    "Softplus": (1, (22,)),
    "Softsign": (1, (22,)),
    "Tan": (7, (22,)),
    # 24 and 28 add bfloat16 and the like.
    "TopK": (11, (24,)),
    "Celu": (12, (28,)),
    "Einsum": (12, (28,)),
}

for _operator, (_known, _others) in SAME_MEANING.items():
    for _revision in _others:
        add_converter(_operator, _revision)(get_converter(_operator, _known))
