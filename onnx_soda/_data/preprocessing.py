"""From pixels to what the model takes: presets, and recipes from JSON files.

From pixels to what the model takes: ``value = (pixel * scale - mean) / std``, and a layout.

Presets and files of such recipes are in `onnx_soda._data.preprocessing`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.images import RESIZES
from onnx_soda._data.sources import Pixels
from onnx_soda._errors import PreprocessingError

LAYOUTS = ("NCHW", "NHWC", "NHW", "flat", "flat-chw")
"""Axes of a model's input. NHW: one channel, without an axis; flat: (N, H*W*C), rows of NHWC;
flat-chw: (N, C*H*W), rows of NCHW."""

_FLOATS = frozenset(map(np.dtype, (np.float16, np.float32, np.float64)))


@dataclass(frozen=True)
class Preprocessing:
    """How pixels on the 0..255 scale become the model's input.

    Args:
        name: Shown in reports.
        scale: Factor on the pixels, before mean and standard deviation.
        mean: One number, or one per channel in the order the model sees.
        std: As ``mean``; never zero.
        channel_order: "RGB", or "BGR" for models fed with colours in reverse.
        layout: One of ``LAYOUTS`` where the caller knows it, None to take it from the graph.
        resize: One of "stretch" and "center-crop".
        size: Height and width that images are brought to where the model takes any; None where its
            graph says which.

    Raises:
        PreprocessingError: A value is out of place; the message names its key.
    """

    name: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: str = "RGB"
    layout: str | None = None
    resize: str = "stretch"
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for key, numbers in (("scale", (self.scale,)), ("mean", self.mean), ("std", self.std)):
            if not numbers or not all(map(math.isfinite, numbers)):
                raise wrong_value(key, numbers, "one finite number, or one per channel")
        if self.scale == 0 or 0 in self.std:
            raise wrong_value("scale" if self.scale == 0 else "std", 0, "other than zero")
        for key, value, known in (
            ("channel_order", self.channel_order, ("RGB", "BGR")),
            ("layout", self.layout, (*LAYOUTS, None)),
            ("resize", self.resize, RESIZES),
        ):
            if value not in known:
                raise wrong_value(key, value, "one of " + ", ".join(str(entry) for entry in known))
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise wrong_value("size", self.size, "height and width, each 1 or more")

    def apply(
        self, pixels: Pixels, layout: str, dtype: np.dtype[Any] | type[np.generic]
    ) -> NDArray[Any]:
        """Compute the model's input.

        Args:
            pixels: (n, height, width, channels), values on the 0..255 scale.
            layout: One of ``LAYOUTS``; ``self.layout`` is for the caller to heed.
            dtype: Element type of the input: float16, float32 or float64, or uint8, which only
                unchanged pixels fit. Arithmetic is in float32.

        Returns:
            Images in that layout and type, freshly allocated.

        Raises:
            PreprocessingError: The layout, the type or the number of channels does not go with
                this preprocessing.
        """
        dtype = np.dtype(dtype)
        channels = pixels.shape[3]
        factor, offset = self._coefficients(channels)
        unchanged = bool((factor == 1).all() and (offset == 0).all())
        if dtype not in _FLOATS and not (dtype == np.uint8 and unchanged):
            raise PreprocessingError(
                f"preprocessing {self.name!r} cannot make values of type {dtype}",
                "A model with uint8 input takes the preset raw; others take float input.",
            )
        same = unchanged and pixels.dtype == dtype
        out, view = _allocate(pixels.shape, layout, dtype if same else np.dtype(np.float32))
        for channel, source in enumerate(self._order(channels)):
            if same:
                view[..., channel] = pixels[..., source]
            else:
                np.multiply(pixels[..., source], factor[channel], out=view[..., channel])
                view[..., channel] += offset[channel]
        return _cast(out, dtype)

    def as_dict(self) -> dict[str, object]:
        """Return the fields as JSON knows them; `load_preprocessing` reads them back."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    def _coefficients(self, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Fold scale, mean and std into one factor and one offset per channel."""
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in {1, channels}:
                raise PreprocessingError(
                    f'preprocessing {self.name!r}: "{key}" has {len(numbers)} numbers, '
                    f"the images have {channels} channels",
                    "Give one number, or one per channel.",
                )
        std = np.broadcast_to(np.array(self.std, dtype=np.float64), channels)
        mean = np.broadcast_to(np.array(self.mean, dtype=np.float64), channels)
        return (self.scale / std).astype(np.float32), (-mean / std).astype(np.float32)

    def _order(self, channels: int) -> range:
        if self.channel_order == "RGB":
            return range(channels)
        if channels != 3:
            raise PreprocessingError(
                f'preprocessing {self.name!r}: "channel_order" is BGR, '
                f"the images have {channels} channel(s)",
                "BGR is for images of three channels.",
            )
        return range(2, -1, -1)


def _allocate(
    shape: tuple[int, ...], layout: str, dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return an array in the layout wanted, and a view of it as NHWC."""
    count, height, width, channels = shape
    if layout not in LAYOUTS or (layout == "NHW" and channels != 1):
        raise PreprocessingError(
            f'"layout" is {layout!r}, which does not fit images of {channels} channel(s)',
            f"Use one of {', '.join(LAYOUTS)}; NHW is for one channel.",
        )
    if layout in {"NCHW", "flat-chw"}:
        planes = np.empty((count, channels, height, width), dtype=dtype)
        out = planes if layout == "NCHW" else planes.reshape(count, -1)
        return out, planes.transpose(0, 2, 3, 1)
    pixels = np.empty(shape, dtype=dtype)
    shapes = {"NHWC": shape, "NHW": shape[:3], "flat": (count, height * width * channels)}
    return pixels.reshape(shapes[layout]), pixels


def _cast(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype == np.uint8 and values.dtype != np.uint8:  # resized or altered pixels kept as floats
        values = np.clip(np.rint(values), 0, 255)
    return values.astype(dtype, copy=False)


def wrong_value(key: str, value: object, wanted: str) -> PreprocessingError:
    """Return the error for a value that is out of place, to be raised."""
    return PreprocessingError(f'"{key}" is {value!r}', f"It must be {wanted}.")


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
    ``channel_order`` ("RGB"), ``layout`` (null), ``resize`` ("stretch"), ``size`` (null) and
    ``name`` (that of the file); mean and std are a number or a list of one per channel, size is
    null or a list of height and width.

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
    values["size"] = _whole(values.get("size"))
    if len(fields["scale"] if isinstance(fields["scale"], list) else [0]) != 1:
        raise wrong_value("scale", fields["scale"], "one number")
    return Preprocessing(**{**values, "scale": values["scale"][0]})


def _whole(size: tuple[float, ...] | None) -> tuple[int, ...] | None:
    if size is None:
        return None
    if not all(side == int(side) for side in size):
        raise wrong_value("size", size, "height and width in whole pixels")
    return tuple(map(int, size))


def _checked(key: str, value: object) -> tuple[float, ...] | str | None:
    """Check the type of a value in the file; numbers and lists of numbers become tuples."""
    if key == "size" and value is None:
        return None
    if key in _NUMBER_KEYS or key == "size":
        numbers = value if isinstance(value, list) else [value]
        if not all(
            isinstance(number, int | float) and not isinstance(number, bool) for number in numbers
        ):
            raise wrong_value(key, value, "a number, or a list of numbers")
        return tuple(map(float, numbers))
    if key not in _WORD_KEYS:
        raise PreprocessingError(
            f'"{key}" is no key of a preprocessing file',
            f"Keys are {', '.join(sorted({*_NUMBER_KEYS, *_WORD_KEYS, 'size'}))}.",
        )
    if not (isinstance(value, str) or (key == "layout" and value is None)):
        raise wrong_value(key, value, "a word in quotes")
    return value
