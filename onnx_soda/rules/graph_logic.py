"""Rules about decisions written into the graph: SODA2xx."""

from __future__ import annotations

from onnx_soda.rules.rule import Rule

__all__ = ["RULES"]

RULES: tuple[Rule, ...] = ()
