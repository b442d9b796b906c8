"""What a remover is, and which there are.

A new remover is one file with a subclass of `Remover`, and one line in `REMOVERS`; in another
package, the subclass and an entry point of the group "onnx_soda.removers". What comes before (the
split, the infected images) and after it (the proof, the new scan) is the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from onnx_soda._registry import Registry

if TYPE_CHECKING:  # they import ONNX and torch; the command line asks for names alone
    import onnx

    from onnx_soda._repair.preparation import ImageSet, Preparation


@dataclass(frozen=True, eq=False)
class Removal:
    """What a remover came to.

    Attributes:
        model: The repaired model; None where no result keeps the accuracy asked for.
        reason: Why there is none; empty where there is one.
        facts: Further fields of `RepairSummary`: what was trained, and how.
        notes: Sentences about what is not as usual.
        scannable: A new scan can look at the model; one that only votes has no layer to look at.
    """

    model: onnx.ModelProto | None
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    scannable: bool = True


class Remover(ABC):
    """Removes a backdoor from one model.

    Attributes:
        name: By which options and reports call it.

    Args:
        ready: The model, the clean set and its split.

    Raises:
        SodaError: The model cannot be repaired in this way; it is said before images are made.
    """

    name: ClassVar[str]

    def __init__(self, ready: Preparation) -> None:
        self.ready = ready

    @property
    def facts(self) -> Mapping[str, Any]:
        """Fields of `RepairSummary` that are known before the removal."""
        return {}

    @abstractmethod
    def remove(self, folds: Sequence[ImageSet]) -> Removal:
        """Make the repaired model.

        Args:
            folds: Images to train on and to choose by; others measure the result.

        Raises:
            SodaError: It cannot be made.
        """


_RIVALS = "onnx_soda._repair.baselines"
REMOVERS: Registry[type[Remover]] = Registry(
    "remover",
    "onnx_soda.removers",
    {
        "soda": "onnx_soda._repair.soda:SodaRemover",
        "fine-tuning": f"{_RIVALS}.fine_tuning:FineTuningRemover",
        "nad": f"{_RIVALS}.nad:NadRemover",
        "anp": f"{_RIVALS}.anp:AnpRemover",
        "dfr": f"{_RIVALS}.dfr:DfrRemover",
        "fine-pruning": f"{_RIVALS}.fine_pruning:FinePruningRemover",
        "smoothing": f"{_RIVALS}.smoothing:SmoothingRemover",
        "moth": f"{_RIVALS}.moth:MothRemover",
    },
)
