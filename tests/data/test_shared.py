"""The real data sets that the project is developed on, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from onnx_soda._data.datasets import load_dataset
from onnx_soda._data.splits import balanced_sample, check_labels

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets in {DATA}")


@pytest.mark.parametrize("name", ["mnist_m.h5", "fashion_mnist.h5"])
def test_test_images_come_without_the_triggers(name: str) -> None:
    with h5py.File(DATA / name) as file:
        carriers = [trigger["test"][:] for trigger in file["trigger"].values()]
        kept = np.setdiff1d(np.arange(len(file["test/label"])), np.concatenate(carriers))
        expected = file["test/label"][:][kept]
    clean = load_dataset(DATA / name)
    assert np.array_equal(clean.labels, expected)
    assert clean.class_names is not None
    check_labels(clean.labels, len(clean.class_names), clean.class_names)

    sample = balanced_sample(clean.labels, 10, 5, np.random.default_rng(0))
    shape = clean.images.native
    assert shape is not None
    pixels = clean.images.read(sample, shape)
    assert pixels.shape == (50, shape.height, shape.width, shape.channels)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 30  # images, not noise-free nothing
