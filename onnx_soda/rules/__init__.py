"""All rules by id. One file per hundred; nothing here parses or runs a model."""

from __future__ import annotations

from onnx_soda.rules import behaviour, file_safety, graph_logic
from onnx_soda.rules.rule import SEVERITIES, WEIGHTY, Rule, Severity

__all__ = ["RULES", "SEVERITIES", "WEIGHTY", "Rule", "Severity"]

RULES: dict[str, Rule] = {
    rule.id: rule for rule in (*behaviour.RULES, *graph_logic.RULES, *file_safety.RULES)
}
