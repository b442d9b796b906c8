"""Networks by name, from torchvision and timm, without weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from onnx_soda.errors import ConvertError, MissingExtraError

__all__ = ["Architecture", "find_architecture"]

# ImageNet's, which both libraries build where they are not told otherwise.
_IMAGENET = 1000
_USUAL_SIZE = 224
# Networks that do not take 224 pixels, or were not trained on them.
_SIZES = {"inception_v3": 299}
# Networks with classifiers for training alone.
_AUXILIARY = ("inception_v3", "googlenet")


@dataclass(frozen=True)
class Architecture:
    """A network without weights.

    Attributes:
        package: Where it is from.
        size: Usual height and width of its images.
        classes: Number of classes it has where not told otherwise.
        build: Takes the number of classes, and whether to have auxiliary classifiers.
    """

    package: str
    size: int
    classes: int
    build: Callable[[int, bool], Any]


def find_architecture(arch: str) -> Architecture:
    """Return a network by its name, as "torchvision:resnet18" or "timm:resnet18".

    Raises:
        ConvertError: There is none of that name.
        MissingExtraError: timm is asked for and not installed.
    """
    library, _, name = arch.partition(":")
    if library == "torchvision" and name:
        return _torchvision(name)
    if library == "timm" and name:
        return _timm(name)
    raise ConvertError(
        f"{arch!r} names no network", "Name it as torchvision:resnet18 or timm:resnet18."
    )


def _torchvision(name: str) -> Architecture:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise _unknown(name, "torchvision", known)

    def build(classes: int, auxiliary: bool) -> Any:
        extra = {}
        if name in _AUXILIARY:
            extra = {"aux_logits": auxiliary, "init_weights": False}
        return models.get_model(name, weights=None, num_classes=classes, **extra)

    return Architecture("torchvision", _SIZES.get(name, _USUAL_SIZE), _IMAGENET, build)


def _timm(name: str) -> Architecture:
    if importlib.util.find_spec("timm") is None:
        raise MissingExtraError(
            "the network needs timm, which is not installed", "pip install timm"
        )
    import timm

    known = timm.list_models()
    if name not in known:
        raise _unknown(name, "timm", known)

    def build(classes: int, _: bool) -> Any:
        return timm.create_model(name, pretrained=False, num_classes=classes)

    size = timm.models.get_pretrained_cfg(name)
    pixels = size.input_size[-1] if size else _USUAL_SIZE
    return Architecture("timm", pixels, _IMAGENET, build)


def _unknown(name: str, library: str, known: list[str]) -> ConvertError:
    near = get_close_matches(name, known, 3)
    hint = f"Did you mean {', '.join(near)}?" if near else f"Look into the list of {library}."
    return ConvertError(f"{library} has no network {name!r}", hint)
