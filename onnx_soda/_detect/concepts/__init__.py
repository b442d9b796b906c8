"""Interventions on what clean images show, and on the style of a hidden layer.

The detector stands here, so that a scan without images does not wait for what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from onnx_soda._detect.base import Detector, Need
from onnx_soda._options import Progress
from onnx_soda._results import Evidence

if TYPE_CHECKING:
    from onnx_soda._suspect import Suspect


class ConceptDetector(Detector):
    """Decides by changing what clean images show, and what style a hidden layer has."""

    name: ClassVar[str] = "concepts"
    needs: ClassVar[frozenset[Need]] = frozenset({"clean images"})

    def run(self, suspect: Suspect, progress: Progress) -> Evidence:
        """Search for a change that turns one class into another; see `Detector.run`."""
        from onnx_soda._detect.concepts.evidence import examine  # imports SciPy

        return examine(self.name, suspect, progress)
