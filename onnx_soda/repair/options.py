"""What a caller can choose about a repair."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from onnx_soda.options import ScanOptions

__all__ = ["Export", "Reconstruction", "RepairOptions", "Scope"]

Scope = Literal["auto", "head", "path", "deep"]
Export = Literal["weights", "torch"]
Reconstruction = Literal["concepts", "ascent", "both"]


@dataclass(frozen=True)
class RepairOptions:
    """Options of a repair.

    Attributes:
        scope: "head" trains the weights that read the outstanding neurons; "path" also those that
            feed them and no others; "deep" those on all paths from the image through them; "auto"
            tries deep and head and takes what removes more, or head alone where the model cannot
            be trained whole, or not in reasonable time.
        reconstruction: How infected images are made: by the concepts that turn the pair, by the
            paper's gradient ascent, or both.
        top: Share of the layer's neurons whose weights are trained, those of the largest causal
            attribution to the target; None takes the outliers by median absolute deviation.
        max_accuracy_drop: The most clean accuracy that may be lost, as a share, on held-out images;
            those of the target class count a tenth, at least.
        export: "weights" puts the weights into the file's own graph; "torch" exports the whole
            model anew by torch.onnx.
        rescan: Scan the repaired model.
        scan: Options of the scans; preprocessing, seed and runtime hold for the repair too. It
            repairs the model's own logits at their last layer, so these two stay as they are.
    """

    scope: Scope = "auto"
    reconstruction: Reconstruction = "both"
    top: float | None = 0.3
    max_accuracy_drop: float = 0.01
    export: Export = "weights"
    rescan: bool = True
    scan: ScanOptions = field(default_factory=ScanOptions)
