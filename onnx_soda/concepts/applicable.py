"""What interventions on the image cannot be tried on."""

from __future__ import annotations

from onnx_soda.concepts.folds import in_both_folds
from onnx_soda.data.datasets import CleanSet

__all__ = ["MOST_CLASSES", "why_not_tried"]

# With more classes the images of all of them cost more than the search is worth, and the table of
# all pairs under all concepts does not fit into memory.
MOST_CLASSES = 128
# With one class nothing shows whether a change turns that class alone.
_FEWEST_CLASSES = 2


def why_not_tried(clean: CleanSet | None, classes: int) -> str | None:
    """Return a sentence on why interventions on the image are not tried; None where they can be.

    Args:
        clean: The clean images; where there are none, that is said elsewhere.
        classes: Number of classes of the model.
    """
    if classes > MOST_CLASSES:
        return (
            f"Interventions on the image are made for at most {MOST_CLASSES} classes; the model "
            f"has {classes}."
        )
    if clean is None:
        return None
    if clean.preprocessed:
        return (
            "Interventions on the image need images as pixels; these are numbers on no scale of "
            "pixels, as the model takes them. Give the images before preprocessing."
        )
    if len(in_both_folds(clean.labels)) < _FEWEST_CLASSES:
        return (
            f"Interventions on the image need clean images of {_FEWEST_CLASSES} classes, two of "
            "each at least."
        )
    return None
