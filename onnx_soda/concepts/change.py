"""What is done to images or to the features half way: a concept, or the style of another image."""

from __future__ import annotations

from typing import TypeVar

from onnx_soda.concepts.concept import Concept
from onnx_soda.concepts.styles import Style

__all__ = ["AnyChange", "Change"]

Change = Concept | Style
AnyChange = TypeVar("AnyChange", bound=Change)
