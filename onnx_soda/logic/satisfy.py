"""Looks for an image for which the graph itself takes a decision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda.logic.images import SCALES, candidates, fill
from onnx_soda.logic.margins import Operand
from onnx_soda.logic.probe import Pixels, Probe
from onnx_soda.model.runtime import Session

__all__ = ["Found", "satisfy"]

_STEPS = 400
_NEAR = 1e-3
# Largest share of an image that one mutation covers with a patch.
_LARGEST_PATCH = 0.5
# Of the numbers that pixels are given: every type of image holds the digits exactly.
_BASE = 256


@dataclass(frozen=True, eq=False)
class Found:
    """An image that takes the decision, in words and pixels."""

    words: str
    image: Pixels


@dataclass(frozen=True, eq=False)
class _Question:
    """What is asked of images: does `name` become `value` everywhere?"""

    probe: Probe
    session: Session
    name: str
    value: float
    operands: list[Operand]
    stored: list[tuple[str, Pixels]]

    def ask(self, image: Pixels, sign: float) -> tuple[bool, float] | None:
        outputs = self.probe.show(self.session, image)
        if outputs is None:
            return None
        values = dict(zip(self.session.model.outputs, outputs, strict=True))
        taken = bool(np.all(np.abs(values[self.name].astype(np.float64) - self.value) < _NEAR))
        return taken, sum(operand.score(values, sign) for operand in self.operands)


def satisfy(
    probe: Probe,
    name: str,
    value: float,
    operands: list[Operand],
    stored: list[tuple[str, Pixels]],
    rng: np.random.Generator,
) -> Found | None:
    """Look for an image that makes a decision take a value.

    First plain colours, noise and the constants that pixels are compared with, then a search that
    climbs the margin of the comparisons, upwards and downwards.

    Args:
        probe: Shows images; its limits end the search.
        name: The decision.
        value: The value asked for.
        operands: What it is made from.
        stored: Tensors that are held against stored values, with the values.
        rng: Randomness.
    """
    wanted = [name, *(o.name for o in operands)]
    wanted += [o.other for o in operands if isinstance(o.other, str)]
    wanted += [tensor for tensor, _ in stored]
    question = _Question(probe, probe.reader(wanted), name, value, operands, stored)
    best: dict[float, tuple[float, Pixels]] = {}
    for words, image in _first(question, rng):
        for sign in (1.0, -1.0):
            answer = question.ask(image, sign)
            if answer is None:
                break
            if answer[0]:
                return Found(words, image)
            if sign not in best or answer[1] > best[sign][0]:
                best[sign] = (answer[1], image)
    for sign, (score, image) in best.items():
        found = _climb(question, sign, score, image, rng)
        if found is not None:
            return found
    return None


def _first(question: _Question, rng: np.random.Generator) -> Iterator[tuple[str, Pixels]]:
    image = question.probe.view.image
    for tensor, values in question.stored:
        pattern = _copied_pixels(question, tensor, values, rng)
        if pattern is not None:
            yield "noise with the stored pixels put in", pattern
    for scale in SCALES if image.dtype != "uint8" else ("byte",):
        yield from candidates(image, scale, rng)


def _copied_pixels(
    question: _Question, name: str, stored: Pixels, rng: np.random.Generator
) -> Pixels | None:
    """Return an image with the stored values at the pixels that a tensor is a copy of.

    Images whose pixels are numbered, a digit of the number in each, tell which pixels the tensor
    copies, and an image of zeros and one of ones with which factor and offset.
    """
    image = question.probe.view.image
    shape = image.concrete_shape(1)[1:]
    flat = [np.zeros(shape), np.ones(shape), *_numbered(shape)]
    at = question.session.model.outputs.index(name)
    shown = [question.probe.show(question.session, one.astype(image.dtype)) for one in flat]
    if any(one is None for one in shown):
        return None
    zero, one, *digits = (np.float64(outputs[at][:1]) for outputs in shown if outputs)
    factor = one - zero
    if np.any(factor == 0) or zero.size > np.prod(shape):
        return None
    read = [np.rint((digit - zero) / factor).astype(np.int64) for digit in digits]
    places = sum(_BASE**power * digit for power, digit in enumerate(read)).reshape(-1)
    if places.min() < 0 or places.max() >= np.prod(shape):
        return None
    values = (np.broadcast_to(stored, zero.shape) - zero) / factor
    pixels = rng.uniform(0, 1, shape).reshape(-1)
    pixels[places] = values.reshape(-1)
    return pixels.reshape(shape).astype(image.dtype)


def _numbered(shape: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """Return images whose pixels hold the digits of their own numbers, the lowest digit first."""
    left = np.arange(np.prod(shape)).reshape(shape)
    digits: list[NDArray[np.int64]] = []
    while left.any() or not digits:
        digits.append(left % _BASE)
        left = left // _BASE
    return digits


def _climb(
    question: _Question, sign: float, score: float, image: Pixels, rng: np.random.Generator
) -> Found | None:
    spread = max(float(np.abs(image).max()), 1.0)
    for step in range(_STEPS):
        if question.probe.exhausted:
            return None
        changed = _mutated(question, image, spread * rng.choice([0.3, 0.1, 0.03, 0.01]), rng)
        answer = question.ask(changed, sign)
        if answer is None:
            return None
        if answer[0]:
            return Found(f"an image found by {step + 1} steps of search", changed)
        if answer[1] >= score:
            score, image = answer[1], changed
    return None


def _mutated(question: _Question, image: Pixels, size: float, rng: np.random.Generator) -> Pixels:
    """Return an image with its colour shifted, a part of it filled, or noise on top."""
    kind = rng.integers(3)
    changed = image.astype(np.float64)
    info = question.probe.view.image
    if kind == 0:
        changed += fill(info, tuple(rng.normal(0, size, 3)))
    elif kind == 1:
        window = tuple(_window(length, rng) for length in changed.shape)
        changed[window] += rng.normal(0, 3 * size)
    else:
        changed += rng.normal(0, size, changed.shape)
    limits = (0, 255) if info.dtype == "uint8" else (-np.inf, np.inf)
    return np.clip(changed, *limits).astype(image.dtype)


def _window(length: int, rng: np.random.Generator) -> slice:
    size = int(rng.integers(1, max(2, int(_LARGEST_PATCH * length) + 1)))
    start = int(rng.integers(0, max(1, length - size + 1)))
    return slice(start, start + size)
