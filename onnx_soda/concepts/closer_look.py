"""Looks at the pairs that a search found on more images, and at all there are of the victim."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onnx_soda.concepts.change import AnyChange
from onnx_soda.concepts.confirm import Confirmation, Shown, confirm, simultaneous_errors, weigh
from onnx_soda.concepts.refine import Vary, refine
from onnx_soda.concepts.style_layer import StyleLayer
from onnx_soda.concepts.subject import FoldedImages, Reader, Subject
from onnx_soda.concepts.trials import SearchResult

__all__ = ["CloserLook"]

# What variations may multiply a score by; a pair whose bound would even then be under 0 is spared.
_MOST_GAIN = 2.0


@dataclass(frozen=True, eq=False)
class CloserLook:
    """What pairs are looked at with.

    Attributes:
        subject: The classifier.
        images: Images of all classes.
        reader: Decodes more of a victim.
        rng: Draws variations and examples.
    """

    subject: Subject
    images: FoldedImages
    reader: Reader
    rng: np.random.Generator

    def at(
        self,
        found: SearchResult[AnyChange],
        vary: Vary[AnyChange],
        style_layer: StyleLayer | None = None,
    ) -> list[Confirmation]:
        """Look at the pairs that a search found.

        Args:
            found: What it found.
            vary: Makes variations of what it found for a pair.
            style_layer: Where styles are changed, if it was a search for styles.
        """
        needed = simultaneous_errors(self.subject.classes)
        pairs = []
        for finding in found.findings:
            if finding.victim_class not in self.images.labels:
                continue
            shown = self._show(finding.victim_class, style_layer)
            judge = self.subject.judge(shown.flows(None), shown.labels, shown.fold)
            judge = replace(judge, usual=found.judge.usual, scoring=found.judge.scoring)
            weighed = weigh(shown, judge, finding)
            if _MOST_GAIN * weighed.score > needed * weighed.error:
                finding = refine(shown, judge, finding, vary, self.rng)
                weighed = weigh(shown, judge, finding)
            pairs.append(confirm(shown, finding, weighed, self.rng))
        return pairs

    def _show(self, victim: int, style_layer: StyleLayer | None) -> Shown:
        together = self.images + self.reader.more_of(victim)
        single = self.subject.probe(together.one_by_one(), style_layer)
        grouped = single.regrouped(together.by_class(self.subject.classes).membership)
        return Shown(single, grouped, together.pixels, together.labels, together.fold)
