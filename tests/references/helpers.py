"""Flows of three classes, made by hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_soda._detect.references.flows import Flows

Shares = NDArray[np.float64]


def flows(shares: Shares) -> Flows:
    """Flows of three classes, the same on both folds, from shares (1 + concepts, 3, 3)."""
    both = np.stack([shares, shares], axis=1).astype(np.float32)
    return Flows(both, np.full((2, shares.shape[-1]), 20))


def keeps_all(concepts: int = 1) -> Shares:
    return np.stack([np.eye(3)] * (1 + concepts))


def turned(share: float, concepts: int = 1) -> Shares:
    """A model that sends a share of class 0 to class 2 under every concept, and else keeps all."""
    shares = keeps_all(concepts)
    shares[1:, 0] = [1 - share, 0.0, share]
    return shares
