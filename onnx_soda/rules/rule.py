"""What a rule is: a kind of finding with a stable id and something to read about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["SEVERITIES", "WEIGHTY", "Rule", "Severity"]

Severity = Literal["high", "medium", "low", "info"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the gravest to the least."""
WEIGHTY: tuple[Severity, ...] = ("high", "medium")
"""Those that keep a verdict from being "clean"."""


@dataclass(frozen=True)
class Rule:
    """A kind of finding.

    Attributes:
        id: Stable identifier: SODA1xx behaviour, SODA2xx graph logic, SODA3xx file safety.
        name: Short name in kebab case, stable too.
        severity: The usual severity; the gravest where findings differ.
        title: What it is, in one line.
        meaning: What a finding says, in a few sentences.
        certainty: How sure it is: what else could look like this.
        advice: What to do about it.
    """

    id: str
    name: str
    severity: Severity
    title: str
    meaning: str
    certainty: str
    advice: str
