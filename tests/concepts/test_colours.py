"""Colours in words that anyone would use."""

from __future__ import annotations

import pytest

from onnx_soda._detect.concepts.families import colour_words


@pytest.mark.parametrize(
    ("colour", "words"),
    [
        ((0.1, 0.13, 0.97), "blue (rgb 26,33,247)"),
        ((0.0, 0.5, 0.0), "green (rgb 0,128,0)"),
        ((0.9, 0.1, 0.1), "red (rgb 230,26,26)"),
        ((0.05, 0.05, 0.05), "black (rgb 13,13,13)"),
        ((1.0, 1.0, 1.0), "white (rgb 255,255,255)"),
        ((0.5, 0.5, 0.5), "grey (rgb 128,128,128)"),
        ((0.1, 0.05, 0.3), "dark blue (rgb 26,13,76)"),
        ((1.0, 0.9, 0.8), "pale orange (rgb 255,230,204)"),
        ((0.5,), "grey 128"),
    ],
)
def test_a_colour_has_its_everyday_name(colour: tuple[float, ...], words: str) -> None:
    assert colour_words(colour) == words
