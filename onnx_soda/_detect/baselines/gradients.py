"""What detectors need that climb in the pixels: the suspect in torch, and why it cannot be there.

A trigger is found by the slopes of the logits in the pixels. So preprocessing is part of what is
differentiated, as it is part of what an attacker's image goes through: all lives on the scale of
pixels, from 0 to 1. A trigger that is found on inputs that were already normalised may lie outside
of what an image can show (bolunwang/backdoor, issue 1).

torch is imported only where a detector runs.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from onnx_soda._bridge.bridge import require_torch, tail_to_torch, torch_threads
from onnx_soda._data.sources import IntArray
from onnx_soda._detect.base import Need
from onnx_soda._detect.baselines.base import BACKWARD, Baseline, Opinion, abstention
from onnx_soda._errors import ConversionError, ParityError
from onnx_soda._model.parts import extract_body
from onnx_soda._model.runtime import pad_rows
from onnx_soda._options import Progress
from onnx_soda._suspect import Suspect

if TYPE_CHECKING:
    from torch import Tensor

# Images that torch is compared with ONNX Runtime on.
_COMPARED = 8


class SlopedSuspect:
    """The logits of a suspect as a function of pixels, with slopes.

    Calling it counts its passes in `suspect.meter`, a backward pass for each image included.

    Args:
        suspect: The classifier, with clean images.
        what: Who needs it, for the error.

    Raises:
        MissingExtraError: torch is not installed.
        ConversionError: There are no slopes in the pixels, or an operator cannot be converted.
        ParityError: torch computes something else than ONNX Runtime.
    """

    def __init__(self, suspect: Suspect, what: str) -> None:
        require_torch(what)
        import torch

        _check_slopes(suspect)
        image = suspect.anatomy.view.image
        pixels = suspect.pixels(suspect.sample[:_COMPARED])
        self._suspect, self._fixed = suspect, image.batch
        self._layout = suspect.preprocessing.layout or image.layout
        self._reversed = suspect.preprocessing.channel_order == "BGR"
        shown = pad_rows(suspect.inputs(pixels)[: self._fixed], self._fixed)
        logits = suspect.anatomy.logits.value.name or ""
        graph = extract_body(suspect.view, [logits])
        self._module = tail_to_torch(graph, [shown], what).requires_grad_(False)
        # What black and white become says what preprocessing does to each value of the input.
        black, white = (suspect.inputs(np.full_like(pixels[:1], level)) for level in (0, 1))
        self._black = torch.from_numpy(black).float()
        self._span = torch.from_numpy(white).float() - self._black
        self._type = torch.from_numpy(black).dtype

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the logits, shape (images, classes).

        Args:
            pixels: Shape (images, channels, height, width), from 0 to 1.
        """
        import torch

        self._suspect.meter.done += (1 + BACKWARD) * len(pixels)
        inputs = (self._black + self._span * self._laid_out(pixels)).to(self._type)
        parts = torch.split(inputs, self._fixed or len(inputs))
        return torch.cat([self._run(part) for part in parts])

    def _laid_out(self, pixels: Tensor) -> Tensor:
        """Return pixels with the axes of the input, and its order of channels."""
        shown = pixels.flip(1) if self._reversed else pixels
        if self._layout in ("NHWC", "flat"):
            shown = shown.permute(0, 2, 3, 1)
        if self._layout == "NHW":
            return shown[:, 0]
        return shown.flatten(1) if self._layout in ("flat", "flat-chw") else shown

    def _run(self, inputs: Tensor) -> Tensor:
        """Run the module on a batch, filled up where the model insists on its size."""
        import torch

        missing = (self._fixed or 0) - len(inputs)
        fed = torch.cat([inputs, *[inputs[-1:]] * missing]) if missing > 0 else inputs
        logits: Tensor = self._module(fed)
        return logits.reshape(len(fed), -1)[: len(inputs)].float()


def _check_slopes(suspect: Suspect) -> None:
    dtype = suspect.anatomy.view.image.numpy_dtype()
    if not np.issubdtype(dtype, np.floating):
        raise ConversionError(
            f"the model takes whole numbers ({dtype}), which have no slopes",
            "Scan the model without the cast at its input.",
        )
    if suspect.clean is not None and suspect.clean.preprocessed:
        raise ConversionError(
            "triggers are made of pixels, and the clean images are numbers on no scale of pixels",
            "Give the images before preprocessing.",
        )


class GradientBaseline(Baseline):
    """A detector of other authors that needs gradients."""

    needs: ClassVar[frozenset[Need]] = frozenset({"clean images", "torch"})

    def ask(self, suspect: Suspect, progress: Progress) -> Opinion:
        """See `Baseline.ask`; it abstains where the model has no slopes that torch can compute.

        Raises:
            MissingExtraError: torch is not installed.
        """
        what = f"{self.title} needs"
        try:
            sloped = SlopedSuspect(suspect, what)
        except (ConversionError, ParityError) as error:
            return abstention(f"It needs gradients of the pixels: {error.message}.")
        with torch_threads(suspect.options.runtime.thread_count):
            return self.climb(suspect, sloped, progress)

    @abstractmethod
    def climb(self, suspect: Suspect, sloped: SlopedSuspect, progress: Progress) -> Opinion:
        """Return what it says of a suspect; see `Baseline.ask`.

        Args:
            suspect: The classifier, with its clean images.
            sloped: The same in torch.
            progress: Called as it goes on.
        """


def some_images(suspect: Suspect, most: int, label: int | None = None) -> IntArray:
    """Draw clean images of the scan, and return their positions.

    Args:
        suspect: The classifier.
        most: How many, where there are as many.
        label: Of one class only; of all where not given.
    """
    rows = suspect.sample
    if label is not None and suspect.clean is not None:
        rows = rows[suspect.clean.labels[rows] == label]
    rng = np.random.default_rng(suspect.options.seed)
    drawn: IntArray = rng.permutation(rows)[:most]
    return np.sort(drawn)
