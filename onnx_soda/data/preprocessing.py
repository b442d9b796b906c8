"""Known preprocessing by name, and preprocessing from a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from onnx_soda.data.recipe import LAYOUTS, Preprocessing, wrong_value
from onnx_soda.errors import PreprocessingError

__all__ = ["LAYOUTS", "PRESETS", "Preprocessing", "candidates", "load_preprocessing"]


def _preset(
    name: str, mean: tuple[float, ...], std: tuple[float, ...], scale: float = 1 / 255
) -> Preprocessing:
    return Preprocessing(name, scale, mean, std)


_ANY = (
    _preset("unit", (0.0,), (1.0,)),  # torchvision's ToTensor, Keras' Rescaling(1 / 255)
    _preset("signed", (0.5,), (0.5,)),  # Keras' preprocess_input(mode="tf"): pixel / 127.5 - 1
    _preset("raw", (0.0,), (1.0,), scale=1.0),  # models that begin with their own rescaling
)

_COLOUR = (
    # torchvision's ImageNet weights (docs: "Models and pre-trained weights").
    _preset("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # Mean and standard deviation over all pixels of CIFAR-10's 50,000 training images.
    _preset("cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    # OpenAI's CLIP, clip/clip.py, _transform.
    _preset(
        "clip",
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
)

# Keras' preprocess_input(mode="caffe"), from the VGG networks of Simonyan and Zisserman.
_CAFFE = Preprocessing("caffe", 1.0, (103.939, 116.779, 123.68), (1.0,), "BGR")

_GREY = (
    _preset("mnist", (0.1307,), (0.3081,)),  # pytorch/examples, mnist/main.py
    # Mean and standard deviation over all pixels of Fashion-MNIST's 60,000 training images.
    _preset("fashion", (0.2860,), (0.3530,)),
)


def _reversed(preset: Preprocessing) -> Preprocessing:
    """Return the preset for a model that sees BGR; each colour keeps its own mean and std."""
    return Preprocessing(
        f"{preset.name}-bgr", preset.scale, preset.mean[::-1], preset.std[::-1], "BGR"
    )


_COLOUR_CANDIDATES = (*_ANY, *_COLOUR, _CAFFE, *map(_reversed, (*_ANY, *_COLOUR)))

PRESETS: Mapping[str, Preprocessing] = MappingProxyType(
    {preset.name: preset for preset in (*_COLOUR_CANDIDATES, *_GREY)}
)
"""Preprocessing by name: unit, signed, raw, imagenet, cifar10, clip, caffe, mnist, fashion, and
those of colour images with ``-bgr`` behind the name for reversed channels."""


def candidates(channels: int) -> tuple[Preprocessing, ...]:
    """Return the presets that images of so many channels may have been trained with."""
    return {1: (*_ANY, *_GREY), 3: _COLOUR_CANDIDATES}.get(channels, _ANY)


_NUMBER_KEYS = frozenset({"scale", "mean", "std"})
_WORD_KEYS = frozenset({"name", "channel_order", "layout", "resize"})


def load_preprocessing(spec: str) -> Preprocessing:
    """Return the preset of that name, or read a JSON file.

    The file holds an object with ``scale`` (required), ``mean`` (0), ``std`` (1),
    ``channel_order`` ("RGB"), ``layout`` (null), ``resize`` ("stretch") and ``name`` (that of the
    file); mean and std are a number or a list of one per channel.

    Args:
        spec: Name of a preset, or path of the file.

    Raises:
        PreprocessingError: No such preset or file, not JSON, or a key that is unknown or has a
            wrong value; the message names the key.
    """
    if spec in PRESETS:
        return PRESETS[spec]
    path = Path(spec)
    if not path.is_file():
        raise PreprocessingError(
            f"{spec!r} is neither a preset nor a file",
            f"Presets are {', '.join(PRESETS)}; or give the path of a JSON file.",
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PreprocessingError(
            f"{path.name} cannot be read as JSON: {error}", 'Write {"scale": 0.00392156862745098}.'
        ) from error
    return _from_fields(fields, path)


def _from_fields(fields: object, path: Path) -> Preprocessing:
    if not isinstance(fields, dict) or "scale" not in fields:
        raise PreprocessingError(
            f'{path.name} has no "scale"',
            'Write an object: "scale" is 0.00392156862745098 for 0..1 and 1 for 0..255.',
        )
    values: dict[str, Any] = {"name": path.stem, "mean": (0.0,), "std": (1.0,)}
    for key, value in fields.items():
        values[key] = _checked(key, value)
    if len(fields["scale"] if isinstance(fields["scale"], list) else [0]) != 1:
        raise wrong_value("scale", fields["scale"], "one number")
    return Preprocessing(**{**values, "scale": values["scale"][0]})


def _checked(key: str, value: object) -> tuple[float, ...] | str | None:
    """Check the type of a value in the file; numbers and lists of numbers become tuples."""
    if key in _NUMBER_KEYS:
        numbers = value if isinstance(value, list) else [value]
        if not all(
            isinstance(number, int | float) and not isinstance(number, bool) for number in numbers
        ):
            raise wrong_value(key, value, "a number, or a list of numbers")
        return tuple(map(float, numbers))
    if key not in _WORD_KEYS:
        raise PreprocessingError(
            f'"{key}" is no key of a preprocessing file',
            f"Keys are {', '.join(sorted(_NUMBER_KEYS | _WORD_KEYS))}.",
        )
    if not (isinstance(value, str) or (key == "layout" and value is None)):
        raise wrong_value(key, value, "a word in quotes")
    return value
