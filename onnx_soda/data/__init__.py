"""Clean sets: opening them, bringing images to the model's shape, and preparing its input."""

from __future__ import annotations

from onnx_soda.data.datasets import CleanSet, load_dataset
from onnx_soda.data.inference import PreprocessingChoice, infer_preprocessing
from onnx_soda.data.preprocessing import (
    LAYOUTS,
    PRESETS,
    Preprocessing,
    candidates,
    load_preprocessing,
)
from onnx_soda.data.sampling import balanced_sample, check_labels
from onnx_soda.data.sources import ImageShape, ImageSource, IntArray, Pixels

__all__ = [
    "LAYOUTS",
    "PRESETS",
    "CleanSet",
    "ImageShape",
    "ImageSource",
    "IntArray",
    "Pixels",
    "Preprocessing",
    "PreprocessingChoice",
    "balanced_sample",
    "candidates",
    "check_labels",
    "infer_preprocessing",
    "load_dataset",
    "load_preprocessing",
]
