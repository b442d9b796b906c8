"""The refusals that several checks share, so that each is worded once."""

from __future__ import annotations

from onnx_soda.errors import ModelFileError, UnsupportedModelError
from onnx_soda.rules.file_safety import RULE_AMBIGUOUS, RULE_RESOURCES, RULE_SIZES

__all__ = ["ambiguous", "false_size", "over_limit", "unreadable"]


def over_limit(what: str, limit: int | str) -> UnsupportedModelError:
    """Return the error for something too large.

    Args:
        what: Subject, verb and number, as "m.onnx has 30000 nodes".
        limit: What is allowed.
    """
    return UnsupportedModelError(
        f"{what}, over the limit of {limit}",
        "No image classifier needs that; do not trust this file.",
        rule_id=RULE_RESOURCES,
    )


def ambiguous(what: str) -> ModelFileError:
    """Return the error for a graph that two readers may understand differently."""
    return ModelFileError(
        what,
        "Export it again; do not trust this file if its author cannot explain it.",
        rule_id=RULE_AMBIGUOUS,
    )


def false_size(what: str) -> ModelFileError:
    """Return the error for a tensor whose dimensions do not fit its data."""
    return ModelFileError(
        what,
        "The file is damaged or made to mislead; download it again.",
        rule_id=RULE_SIZES,
    )


def unreadable(file: str) -> ModelFileError:
    """Return the error for bytes that are no protobuf message of a model."""
    return ModelFileError(
        f"{file} cannot be read as ONNX: it is cut short or of another format",
        "Compare its size and digest with the source, and download it again.",
    )
