"""Everyday words for colours."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

__all__ = ["colour_words"]

# Upper ends of hue, as shares of the colour circle.
_HUES = (
    (0.04, "red"),
    (0.11, "orange"),
    (0.19, "yellow"),
    (0.44, "green"),
    (0.54, "cyan"),
    (0.71, "blue"),
    (0.82, "purple"),
    (0.94, "pink"),
    (1.0, "red"),
)
_DARK, _PALE, _BLACK, _WHITE = 0.35, 0.35, 0.12, 0.88


def colour_words(colour: Sequence[float]) -> str:
    """Return a colour in words with its levels: "dark blue (rgb 20,30,80)" or "grey 120".

    Args:
        colour: One level, or three for red, green and blue; from 0 to 1.
    """
    levels = [round(255 * level) for level in colour]
    if len(levels) != 3:
        return f"grey {levels[0]}"
    return f"{_name(*colour)} (rgb {','.join(map(str, levels))})"


def _name(red: float, green: float, blue: float) -> str:
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    if value < _BLACK:
        return "black"
    if saturation < 0.12:
        return "white" if value > _WHITE else "grey"
    name = next(word for end, word in _HUES if hue <= end)
    if value < _DARK:
        return f"dark {name}"
    return f"pale {name}" if saturation < _PALE else name
