"""What is worth telling about a file that is not refused."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_soda.rules.rule import Severity

__all__ = ["FileFinding"]


@dataclass(frozen=True)
class FileFinding:
    """Something unusual in a file.

    Attributes:
        rule_id: Id of the rule, "SODA31x".
        severity: How grave it is.
        message: What it is, in one sentence.
        location: Where in the file: a tensor, a field, a list of operators; may be empty.
    """

    rule_id: str
    severity: Severity
    message: str
    location: str = ""
