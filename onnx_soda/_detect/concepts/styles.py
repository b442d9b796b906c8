"""Styles of clean images in a hidden tensor: donors, and variations of them.

The clean images themselves supply colours, light and textures, as the model sees them early on. No
family of concepts has to be designed for them. `Change` is a concept or a style.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.families import Shape, colour_words
from onnx_soda._detect.concepts.layers import StyleLayer

# Shares of the way to the donor. Never beyond it: no image has such a style, and clean models of
# Fashion-MNIST then took trousers for dresses.
STRENGTHS = (0.6, 1.0)
_WEAKEST, _STRONGEST = 0.4, 1.0
# One standard deviation of a change of strength, as a factor.
_STEP = 0.3
# A variation takes one of this many donors that are most like the one before.
_NEIGHBOURS = 10


@dataclass(frozen=True, eq=False)
class Style:
    """The style of a clean image in a hidden tensor.

    Attributes:
        layer: The tensor.
        donor: Number of the image in its library.
        style: Its mean and deviation per channel, shape (2, channels).
        strength: Share of the way to it.
        pixels: The image, shape (channels, height, width), from 0 to 1.
    """

    layer: StyleLayer
    donor: int
    style: NDArray[np.float32]
    strength: float
    pixels: NDArray[np.float32]

    @property
    def of(self) -> str:
        """What is changed, in words."""
        return "the features half way"

    def feeds(self, shape: Shape) -> dict[str, NDArray[np.float32]]:
        """Return the probe's inputs; the image stays as it is, whatever its shape."""
        del shape
        return self.layer.feeds(self.style, self.strength)

    def describe(self) -> str:
        """Return it in words."""
        colour = colour_words(tuple(float(c) for c in self.pixels.mean(axis=(1, 2))))
        return (
            f"the style of another clean image ({colour} on average), half way through the "
            f"network, {100 * self.strength:.0f} %"
        )


@dataclass(frozen=True, eq=False)
class StyleLibrary:
    """Clean images whose style may be given to others.

    Attributes:
        layer: The tensor.
        styles: Mean and deviation per channel, shape (images, 2, channels).
        pixels: The images, shape (images, channels, height, width), from 0 to 1.
    """

    layer: StyleLayer
    styles: NDArray[np.float32]
    pixels: NDArray[np.float32]

    def donors(self, count: int, rng: np.random.Generator) -> list[int]:
        """Draw images."""
        return [int(donor) for donor in rng.permutation(len(self.styles))[:count]]

    def take(self, donor: int, strength: float) -> Style:
        """Return the style of an image."""
        return Style(self.layer, donor, self.styles[donor], strength, self.pixels[donor])

    def vary(
        self,
        style: Style,
        partners: Sequence[Style],
        join: bool,
        width: float,
        rng: np.random.Generator,
    ) -> Style:
        """Return a variation: a donor that is much alike, or another strength.

        Args:
            style: Where to start.
            partners: Not used; styles are not joined.
            join: Change the strength, not the donor.
            width: Of the change of strength; 1 is usual.
            rng: Draws.
        """
        del partners
        if not join:
            return self.take(self._near(style.donor, rng), style.strength)
        strength = style.strength * float(np.exp(rng.normal(0, width * _STEP)))
        return self.take(style.donor, min(max(strength, _WEAKEST), _STRONGEST))

    def _near(self, donor: int, rng: np.random.Generator) -> int:
        places = self._places
        order = np.square(places - places[donor]).sum(axis=1).argsort(kind="stable")
        near = order[order != donor][:_NEIGHBOURS]
        return int(rng.choice(near)) if len(near) else donor

    @cached_property
    def _places(self) -> NDArray[np.float64]:
        """Return styles as points; means and deviations are of the same weight."""
        wide = self.styles.astype(np.float64)
        scale = wide.std(axis=(0, 2), keepdims=True) + 1e-9
        places: NDArray[np.float64] = (wide / scale).reshape(len(wide), -1)
        return places


Change = Concept | Style
AnyChange = TypeVar("AnyChange", bound=Change)
