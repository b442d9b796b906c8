"""Looks for an image for which the graph itself takes a decision."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_soda._detect.graph_logic.decisions import Slope
from onnx_soda._detect.graph_logic.flow import Flow, FlowStep, constant_of
from onnx_soda._detect.graph_logic.suspicions import Reading
from onnx_soda._errors import SodaError
from onnx_soda._model.graph import GraphView
from onnx_soda._model.inputs import ImageInput
from onnx_soda._model.parts import extract_body, serialise
from onnx_soda._model.runtime import Session
from onnx_soda._options import RuntimeOptions

Pixels = NDArray[Any]


class ImageRunner:
    """Shows single images to a graph, within limits of time and number.

    Images are shown one by one: a condition of If is one for the whole batch.

    Args:
        view: The graph.
        runtime: Where it runs.
        seconds: Time limit.
        images: Limit of images.
        folder: Where the model's external weights lie; None where it has none.
    """

    def __init__(
        self,
        view: GraphView,
        runtime: RuntimeOptions,
        seconds: float,
        images: int,
        folder: Path | None = None,
    ) -> None:
        self.view = view
        self.shown = 0
        self._runtime = runtime
        self._deadline = time.monotonic() + seconds
        self._left = images
        self._folder = folder

    @property
    def exhausted(self) -> bool:
        """Tell whether a limit is reached."""
        return self._left <= 0 or time.monotonic() > self._deadline

    def reader(self, names: list[str]) -> Session:
        """Return a session from the image to some tensors."""
        model = extract_body(self.view, names)
        return Session(serialise(model, self._folder), self._runtime)

    def forced(self, decision: ir.Value, scores: ir.Value) -> Session:
        """Return a session from the image and a decision to the scores."""
        graph = self.view.model.graph
        inputs = [self.view.image_value, decision]
        part = ir.convenience.extract(graph, inputs, [scores])
        part.name = part.name or "part"
        part.opset_imports.update(graph.opset_imports)
        model = ir.Model(part, ir_version=self.view.model.ir_version)
        return Session(serialise(model, self._folder), self._runtime)

    def show(
        self, session: Session, image: Pixels, extra: dict[str, Pixels] | None = None
    ) -> list[Pixels] | None:
        """Run a session on one image; None where the graph refuses it."""
        self.shown += 1
        self._left -= 1
        batch = np.repeat(image[None], self.view.image.batch or 1, axis=0)
        try:
            loaded = session.upload({self.view.image.name: batch})
            return session.run(loaded, extra, whole=True)
        except SodaError:
            return None


Bounds = tuple[float, float]
_BYTES: Bounds = (0.0, 255.0)
# Ranges in which images come: pixels divided by 255, pixels, and pixels normalised.
_RANGES: tuple[Bounds, ...] = ((0.0, 1.0), _BYTES, (-2.5, 2.5))


@dataclass(frozen=True, eq=False)
class Clean:
    """Clean images as a model takes them, and a little changed.

    Attributes:
        images: The images; none where there is no clean set.
        bounds: Lowest and highest value that a pixel can have, not only in these images.
    """

    images: tuple[Pixels, ...] = ()
    bounds: Bounds = (0.0, 1.0)


_GRID = 5
_NOISES = 6
_BASES = 8
_PATCHED = 4
_PATCH = 3


def ranges_of(image: ImageInput) -> tuple[Bounds, ...]:
    """Return the ranges in which a model's images may come, where no clean images tell."""
    return (_BYTES,) if image.dtype == "uint8" else _RANGES


def fill(image: ImageInput, colour: tuple[float, ...]) -> Pixels:
    """Return an image of one colour."""
    shape = image.concrete_shape(1)[1:]
    tint = np.asarray(colour)
    if image.layout == "NCHW":
        tint = tint[: shape[0], None, None]
    elif image.layout == "NHWC":
        tint = tint[: shape[2]]
    else:
        tint = tint[:1]
    return np.broadcast_to(tint, shape).astype(np.float64)


def base_images(image: ImageInput, bounds: Bounds, rng: np.random.Generator) -> list[Pixels]:
    """Return plain images: noise around different greys, and patches of colour in light and dark.

    They stand for ordinary ones where there are no clean images.

    Args:
        image: The model's input.
        bounds: Lowest and highest value of a pixel.
        rng: Randomness.
    """
    low, high = bounds
    shape = image.concrete_shape(1)[1:]
    means = rng.uniform(0.35, 0.65, _BASES)
    noise = [np.clip(rng.normal(mean, 0.2, shape), 0, 1) for mean in means]
    # Some are darker: what depends on the largest pixel shall not always see the same.
    noise = [part * (1, 0.8, 0.6)[number % 3] for number, part in enumerate(noise)]
    patches = [_patches(shape, rng) for _ in range(_PATCHED)] if len(shape) > 1 else []
    made = [*noise, *patches]
    return [(low + (high - low) * pixels).astype(image.numpy_dtype()) for pixels in made]


def _patches(shape: tuple[int, ...], rng: np.random.Generator) -> Pixels:
    """Return an image of large smooth patches, as a strong blur leaves them."""
    coarse = rng.uniform(0.1, 0.9, [min(size, 3) for size in shape])
    places = [np.linspace(0, min(size, 3) - 1, size).round().astype(int) for size in shape]
    return np.asarray(0.5 + (coarse[np.ix_(*places)] - 0.5) * rng.uniform(0.2, 0.8))


def candidates(
    image: ImageInput, bounds: Bounds, rng: np.random.Generator
) -> Iterator[tuple[str, Pixels]]:
    """Yield images with words for them: plain colours, noise, and noise with a bright corner."""
    low, high = bounds
    channels = image.channels or 1
    for colour in product(np.linspace(low, high, _GRID), repeat=channels):
        values = ", ".join(f"{value:.3g}" for value in colour)
        yield f"a plain image of colour ({values})", fill(image, colour).astype(image.numpy_dtype())
    for number, noise in enumerate(base_images(image, bounds, rng)[:_NOISES]):
        yield f"noise in [{low:g}, {high:g}]", noise
        patched = noise.copy()
        part = patched.reshape(-1)[:_PATCH] if patched.ndim == 1 else _corner(patched, image)
        part[...] = high if number % 2 else low
        yield f"noise with a corner of {part.flat[0]:.3g}", patched


def _corner(pixels: Pixels, image: ImageInput) -> Pixels:
    if image.layout == "NCHW":
        return pixels[:, -_PATCH:, -_PATCH:]
    return pixels[-_PATCH:, -_PATCH:]


# Filters whose own patterns are shown.
_FILTERS = 8


def matched_images(
    image: ImageInput, flow: Flow, value: ir.Value, bounds: Bounds
) -> Iterator[tuple[str, Pixels]]:
    """Yield images tiled with what the filters that read the pixels of a path look for.

    Args:
        image: The model's input.
        flow: The graph.
        value: What the path brings along.
        bounds: Lowest and highest value of a pixel.
    """
    if image.layout not in ("NCHW", "NHWC"):
        return
    channels, *size = _planes(image, image.concrete_shape(1)[1:])
    for step in flow.ancestors(value):
        kernel = constant_of(step.inputs[1]) if step.op == "Conv" else None
        if kernel is None or kernel.ndim != 4 or kernel.shape[1] != channels:
            continue
        loudest = np.argsort(-np.abs(kernel).sum(axis=(1, 2, 3)), kind="stable")[:_FILTERS]
        for number in loudest:
            times = [-(-size[at] // kernel.shape[at + 2]) for at in range(2)]
            tiled = np.tile(kernel[number] > 0, (1, *times))[:, : size[0], : size[1]]
            pixels = np.where(tiled, bounds[1], bounds[0])
            oriented = pixels if image.layout == "NCHW" else pixels.transpose(1, 2, 0)
            yield "an image tiled with the pattern of a filter", oriented.astype(image.dtype)


def _planes(image: ImageInput, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if image.layout == "NCHW" else (shape[2], shape[0], shape[1])


_BELOW = frozenset({"Less", "LessOrEqual"})
_ABOVE = frozenset({"Greater", "GreaterOrEqual"})
# Hold a tensor against stored values.
_AGAINST = _BELOW | _ABOVE | {"Equal", "Sub"}
_MIRRORED = {
    "Greater": "Less", "GreaterOrEqual": "LessOrEqual",
    "Less": "Greater", "LessOrEqual": "GreaterOrEqual",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Operand:
    """The continuous side of one step that decides.

    Attributes:
        name: Tensor that is compared, before any saturation.
        other: What it is compared with: another tensor, a constant, or nothing known.
        op: The operator that decides.
    """

    name: str
    other: str | Pixels | None
    op: str

    def score(self, values: dict[str, Pixels], sign: float) -> float:
        """Return how far the decision is taken (sign 1) or not taken (sign -1): 0 is fully."""
        left = values[self.name].astype(np.float64)
        right = values[self.other] if isinstance(self.other, str) else self.other
        if right is None:
            return float(sign * left.mean())
        gap = left - np.asarray(right, np.float64)
        if self.op == "Equal":
            return float(-sign * np.abs(gap).mean())
        gap = -gap if self.op in _BELOW else gap
        return float(np.minimum(sign * gap, 0).mean())


def find_operands(view: GraphView, reading: Reading, origin: ir.Value) -> list[Operand]:
    """Return what a decision of the main graph is made from."""
    found = []
    for step in reading.decisions.births(reading.flow, origin):
        operand = _operand(reading.flow, step, reading.slopes)
        names = [operand.name, operand.other] if operand else []
        if operand and all(name in view.values for name in names if isinstance(name, str)):
            found.append(operand)
    return found


def find_stored(view: GraphView, flow: Flow, origin: ir.Value) -> list[tuple[str, Pixels]]:
    """Return the tensors that a decision holds against several stored values, with the values."""
    found = []
    for step in flow.ancestors(origin):
        active = flow.active_inputs(step)
        stored = [constant_of(value) for value in step.data if value not in flow.active]
        if step.op in _AGAINST and len(active) == 1 and len(stored) == 1:
            name = active[0].name or ""
            if stored[0] is not None and stored[0].size > 1 and name in view.values:
                found.append((name, stored[0]))
    return found


def _operand(flow: Flow, step: FlowStep, slopes: dict[ir.Value, Slope]) -> Operand | None:
    active = flow.active_inputs(step)
    if not active:
        return None
    if step.op not in _ABOVE | _BELOW | {"Equal"}:
        slope = slopes.get(step.outputs[0])
        source = slope.source if slope and slope.source not in step.outputs else active[0]
        return Operand(source.name or "", None, step.op)
    first, second = step.inputs[0], step.inputs[1]
    if first not in flow.active:
        return Operand(second.name or "", constant_of(first), _MIRRORED.get(step.op, step.op))
    other = (second.name or "") if second in flow.active else constant_of(second)
    return Operand(first.name or "", other, step.op)


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

    probe: ImageRunner
    session: Session
    name: str
    value: float
    operands: list[Operand]
    stored: list[tuple[str, Pixels]]
    ranges: tuple[Bounds, ...]

    def ask(self, image: Pixels, sign: float) -> tuple[bool, float] | None:
        outputs = self.probe.show(self.session, image)
        if outputs is None:
            return None
        values = dict(zip(self.session.model.outputs, outputs, strict=True))
        taken = bool(np.all(np.abs(values[self.name].astype(np.float64) - self.value) < _NEAR))
        return taken, sum(operand.score(values, sign) for operand in self.operands)


def satisfy(
    probe: ImageRunner,
    name: str,
    value: float,
    operands: list[Operand],
    stored: list[tuple[str, Pixels]],
    ranges: tuple[Bounds, ...],
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
        ranges: Lowest and highest value of a pixel, one pair for each range to try.
        rng: Randomness.
    """
    wanted = [name, *(o.name for o in operands)]
    wanted += [o.other for o in operands if isinstance(o.other, str)]
    wanted += [tensor for tensor, _ in stored]
    question = _Question(probe, probe.reader(wanted), name, value, operands, stored, ranges)
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
    yield from with_stored(question.probe, question.session, question.stored, rng)
    for bounds in question.ranges:
        yield from candidates(image, bounds, rng)


def with_stored(
    probe: ImageRunner,
    session: Session,
    stored: list[tuple[str, Pixels]],
    rng: np.random.Generator,
) -> Iterator[tuple[str, Pixels]]:
    """Yield images with the values put in that pixels are held against.

    Args:
        probe: Shows images.
        session: From the image to the tensors that are held against something.
        stored: These tensors, by name, with the values.
        rng: Randomness.
    """
    for tensor, values in stored:
        pattern = _copied_pixels(probe, session, tensor, values, rng)
        if pattern is not None:
            yield "noise with the stored pixels put in", pattern


def _copied_pixels(
    probe: ImageRunner, session: Session, name: str, stored: Pixels, rng: np.random.Generator
) -> Pixels | None:
    """Return an image with the stored values at the pixels that a tensor is a copy of.

    Images whose pixels are numbered, a digit of the number in each, tell which pixels the tensor
    copies, and an image of zeros and one of ones with which factor and offset.
    """
    image = probe.view.image
    shape = image.concrete_shape(1)[1:]
    flat = [np.zeros(shape), np.ones(shape), *_numbered(shape)]
    at = session.model.outputs.index(name)
    shown = [probe.show(session, one.astype(image.dtype)) for one in flat]
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
    lows, highs = zip(*question.ranges, strict=True)
    return np.clip(changed, min(lows), max(highs)).astype(image.dtype)


def _window(length: int, rng: np.random.Generator) -> slice:
    size = int(rng.integers(1, max(2, int(_LARGEST_PATCH * length) + 1)))
    start = int(rng.integers(0, max(1, length - size + 1)))
    return slice(start, start + size)
