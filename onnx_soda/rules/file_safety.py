"""Rules about the file itself: SODA3xx."""

from __future__ import annotations

from onnx_soda.rules.rule import Rule

__all__ = ["RULES"]

RULES: tuple[Rule, ...] = ()
