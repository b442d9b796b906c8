"""Algorithm 4 on a linear classifier."""

from __future__ import annotations

import numpy as np
import torch

from onnx_soda._repair.images import Ascent, ascend

# One grey pixel x; logits (0, 10 (x - 0.5)): class 1 passes 0.9 where 10 (x - 0.5) > ln 9 = 2.197,
# x > 0.7197.
BOUNDS = (np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32))


def logits(images: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(images), 10 * (images - 0.5)], dim=1)


def test_each_image_stops_when_it_passes_the_threshold() -> None:
    images = np.array([[0.2], [0.6], [0.9]], np.float32)
    found = ascend(logits, images, 1, BOUNDS, Ascent(step=0.02, penalty=0.0))
    assert len(found) == 3
    # 0.9 has passed already and stays; the others climb 0.02 at a time and stop just beyond.
    assert found.max() == np.float32(0.9)
    assert np.all(np.sort(found.ravel())[:2] > 0.7197)
    assert np.all(np.sort(found.ravel())[:2] < 0.7197 + 0.021)


def test_images_that_do_not_get_there_are_left_out() -> None:
    images = np.array([[0.0], [0.7]], np.float32)
    found = ascend(logits, images, 1, BOUNDS, Ascent(step=0.02, steps=3, penalty=0.0))
    np.testing.assert_allclose(found, [[0.72]], atol=1e-6)


def test_no_image_leaves_the_valid_range() -> None:
    low = (np.zeros((1, 1), np.float32), np.full((1, 1), 0.6, np.float32))
    found = ascend(logits, np.array([[0.5]], np.float32), 1, low, Ascent(step=0.5, steps=5))
    assert len(found) == 0  # 0.6 is as far as it may go, and is not enough


def test_the_penalty_pulls_towards_zero() -> None:
    # The slope of 10 (x - 0.5) - lambda x^2 at 0.6 is 10 - 1.2 lambda: negative for lambda = 20.
    images = np.array([[0.6]], np.float32)
    assert len(ascend(logits, images, 1, BOUNDS, Ascent(penalty=20.0))) == 0
