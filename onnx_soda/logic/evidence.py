"""What the examination of a graph's logic found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnx_soda.rules.rule import Severity

__all__ = ["LogicEvidence", "LogicFinding", "Proof"]


@dataclass(frozen=True)
class Proof:
    """What happened when a decision was forced, and when an image was looked for that takes it.

    Attributes:
        forced_class: Class that the images are taken for while the decision is forced; None where
            forcing it sends them to no single class.
        flipped: Share of the images whose class changes when the decision is forced.
        satisfied: An image was found for which the graph itself takes the decision.
        trigger: That image in words; None without one.
        image_class: Class of that very image, where it changes when the decision is forced back.
    """

    forced_class: int | None
    flipped: float
    satisfied: bool
    trigger: str | None
    image_class: int | None


@dataclass(frozen=True)
class LogicFinding:
    """A decision in the graph that steers the scores.

    Attributes:
        rule_id: Rule, see onnx_soda.rules.graph_logic.
        severity: How grave.
        status: "confirmed" where forcing the decision flips the class and an image that takes it
            was found.
        nodes: Names of the nodes that decide, then of those through which the decision acts.
        reason: Why it is reported.
        trigger: An image that takes the decision, in words; None where nothing is confirmed.
        flipped: Class that the decision leads to; None where it is not known.
    """

    rule_id: str
    severity: Severity
    status: Literal["suspected", "confirmed"]
    nodes: tuple[str, ...]
    reason: str
    trigger: str | None = None
    flipped: int | None = None


@dataclass(frozen=True)
class LogicEvidence:
    """All findings about a graph, and what was looked at.

    Attributes:
        findings: The findings, the gravest first.
        nodes_examined: Number of nodes, those in bodies of If, Loop and Scan included.
        images_run: Number of images shown to find triggers; 0 where nothing was suspected.
        notes: Sentences about what was not examined.
    """

    findings: tuple[LogicFinding, ...]
    nodes_examined: int
    images_run: int
    notes: tuple[str, ...]
