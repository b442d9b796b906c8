"""Interventions on hidden neurons and the causal attribution they give, paper section 3.1.

Equation 2 sets a neuron x to x' = a x + b; Equations 1, 3 and 4 take the change of the mean class
activation value under that as the attribution of the neuron to the class, for the clean images of
each source class (Algorithm 1). The class activation value is the logit before the softmax.

The absolute value is taken of the mean's change, as Equation 1 writes it. The published toolkit
averages absolute changes instead; for an affine tail the two are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Advance", "Attribution", "ClosedForm", "FloatArray", "Intervention", "Measured"]

FloatArray = NDArray[np.float64]

Advance = Callable[[int, int], None]
"""Called after each intervention that is run, with the number done and the number in all."""


@dataclass(frozen=True)
class Intervention:
    """do(x = a x + b), paper Equation 2.

    Attributes:
        a: Scaling factor, not 0. The paper's experiments use 1.
        b: Offset, not 0: it moves neurons that clean images never activate. The paper uses 1.

    Raises:
        ValueError: a or b is 0 or not finite.
    """

    a: float = 1.0
    b: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("a", self.a), ("b", self.b)):
            if value == 0 or not np.isfinite(value):
                raise ValueError(f"{name} must be a finite number other than 0, not {value}")


class Attribution(Protocol):
    """Causal attribution of every neuron to every class, per source class.

    Attributes:
        method: "closed-form", "batched" or "brute-force".
        sources: Source classes that were examined; empty where no clean set was used.
        same_for_all: The attribution is the same for every source class, and for any image.
    """

    @property
    def method(self) -> str: ...  # noqa: D102

    @property
    def sources(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def same_for_all(self) -> bool: ...  # noqa: D102

    def shift(self, source: int | None) -> FloatArray:
        """Return E[y_c | do(x)] - E[y_c], shape (neurons, classes), signed.

        Args:
            source: Source class; None for the shift that holds for any image, where there is one.
        """
        ...


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """Attribution through an affine tail, without a loop over neurons.

    With logits y = offset + x A, do(x_i = a x_i + b) shifts y_c by ((a - 1) x_i + b) A[i, c], and
    its mean by ((a - 1) E[x_i] + b) A[i, c]. With a = 1 no image is needed.

    Attributes:
        matrix: A, shape (neurons, classes): what 1 more of a neuron adds to each logit.
        means: Mean activation of each neuron per source class, shape (neurons,) each.
        intervention: a and b.
        method: How it was computed.
    """

    matrix: FloatArray
    means: dict[int, FloatArray]
    intervention: Intervention
    method: str = "closed-form"

    @property
    def sources(self) -> tuple[int, ...]:
        """Source classes that were examined."""
        return tuple(self.means)

    @property
    def same_for_all(self) -> bool:
        """Whether the shift is the same for every image: it is where a = 1."""
        return self.intervention.a == 1

    def shift(self, source: int | None) -> FloatArray:
        """Return the signed shift of each logit, shape (neurons, classes).

        Raises:
            ValueError: No source class is given and a is not 1.
        """
        a, b = self.intervention.a, self.intervention.b
        if source is None:
            if a != 1:
                raise ValueError("with a other than 1 the shift depends on the images")
            return b * self.matrix
        return ((a - 1) * self.means[source] + b)[:, np.newaxis] * self.matrix


@dataclass(frozen=True, eq=False)
class Measured:
    """Attribution measured by running the tail with every intervention.

    Attributes:
        shifts: Signed shift per source class, shape (neurons, classes) each.
        method: How it was computed.
    """

    shifts: dict[int, FloatArray]
    method: str

    @property
    def sources(self) -> tuple[int, ...]:
        """Source classes that were examined."""
        return tuple(self.shifts)

    @property
    def same_for_all(self) -> bool:
        """Whether the shift is the same for every image; a measured one is not taken to be."""
        return False

    def shift(self, source: int | None) -> FloatArray:
        """Return the signed shift of each logit, shape (neurons, classes).

        Raises:
            ValueError: No source class is given: a measured shift belongs to images.
        """
        if source is None:
            raise ValueError("a measured shift belongs to a source class")
        return self.shifts[source]
