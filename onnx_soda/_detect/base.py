"""What a detector is, and which there are.

A new detector is one file with a subclass of `Detector`, and one line in `DETECTORS`; in another
package, the subclass and an entry point of the group "onnx_soda.detectors". `--method` takes its
name, and every report form shows its evidence. `onnx_soda._verdict` says which detectors decide.

What the clean images leave unexamined is the same for all detectors: `shortfalls` tells it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from onnx_soda._options import Progress
from onnx_soda._registry import Registry
from onnx_soda._results import Evidence, Finding, Verdict
from onnx_soda._rules import RULES, Rule

if TYPE_CHECKING:  # it imports ONNX; the command line asks for names alone
    from onnx_soda._suspect import Examined, Suspect


@dataclass(frozen=True)
class Decision:
    """Verdict, reasons and findings.

    Attributes:
        verdict: What is decided.
        reasons: Why.
        findings: What speaks for a backdoor.
        unclear: Something lies between what is clean and what is reported.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]
    unclear: bool = False


Need = Literal["clean images", "torch"]
"""What a detector cannot do without. One that needs torch raises `MissingExtraError` without it."""


class Detector(ABC):
    """Looks at a suspect in one way.

    Attributes:
        name: By which `--method` and reports call it.
        needs: What it cannot do without; it is not run without clean images that it needs.
        rules: Rules of its findings, beyond those in `onnx_soda._rules`.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()
    rules: ClassVar[tuple[Rule, ...]] = ()

    @abstractmethod
    def run(self, suspect: Suspect, progress: Progress) -> Evidence:
        """Examine a suspect.

        Args:
            suspect: The classifier, with its clean images and the options of the scan.
            progress: Called as it goes on.

        Raises:
            SodaError: The suspect cannot be examined.
            Halted: As `progress` raises it; with the evidence by then, if there is any.
        """


DETECTORS: Registry[type[Detector]] = Registry(
    "detector",
    "onnx_soda.detectors",
    {
        "concepts": "onnx_soda._detect.concepts:ConceptDetector",
        "soda": "onnx_soda._detect.soda.detector:SodaDetector",
        "second-opinion": "onnx_soda._detect.references.detector:SecondOpinionDetector",
        "patches": "onnx_soda._detect.patches.detector:PatchDetector",
        "graph-logic": "onnx_soda._detect.graph_logic.detector:GraphLogicDetector",
        "leave-one-out": "onnx_soda._detect.baselines.influence:LeaveOneOut",
        "subsample": "onnx_soda._detect.baselines.influence:SubSample",
        "head-qp": "onnx_soda._detect.baselines.minimal_shift:MinimalShift",
        "freeeagle": "onnx_soda._detect.baselines.freeeagle:FreeEagle",
        "neural-cleanse": "onnx_soda._detect.baselines.neural_cleanse:NeuralCleanse",
        "k-arm": "onnx_soda._detect.baselines.k_arm:KArm",
        "ex-ray": "onnx_soda._detect.baselines.ex_ray:ExRay",
    },
)


def all_rules() -> dict[str, Rule]:
    """Return all rules by id, those of other packages' detectors included.

    Raises:
        OptionError: Another package's detector cannot be imported.
    """
    own = {rule.id: rule for detector in DETECTORS.others() for rule in detector.rules}
    return {**own, **RULES}


# Mean logits over fewer images tell little about a class.
_FEWEST_IMAGES = 10


def shortfalls(examined: Examined) -> tuple[str, ...]:
    """Say what the clean images leave unexamined, whatever the method."""
    return (
        *shortfall_of_all(examined),
        *thin_spots(examined),
        *_misread(examined),
        *_other_outputs(examined),
    )


def _other_outputs(examined: Examined) -> list[str]:
    if not examined.unexamined_outputs:
        return []
    return [
        f"Not examined: {', '.join(examined.unexamined_outputs)}, which the model gives beside the "
        "scores and computes in another way. Set `logits` to one of these to examine it, or to the "
        "scores if nothing else is used."
    ]


def _misread(examined: Examined) -> list[str]:
    """Tell which classes the model takes for others as they are: no change can turn them then."""
    if examined.too_inaccurate:
        return []
    if examined.relabelling is not None:
        return [examined.relabelling.sentence()]
    return [
        f"{share:.0%} of the clean images of class {label} are taken for class {answer} as they "
        "are: the labels or the order of the classes are not the model's, or it turns this class "
        "whatever the images show."
        for label, answer, share in examined.misread
    ]


def shortfall_of_all(examined: Examined) -> list[str]:
    """Say what leaves the whole set unusable: too low an accuracy, or no images at all."""
    gaps = []
    if examined.too_inaccurate:
        gaps.append(
            f"The model gives only {examined.accuracy:.1%} of the clean images their label "
            f"(needed: {examined.min_accuracy:.0%}{_chance(examined)}). The preprocessing, the "
            "size of the images, the order of the classes or the labels do not fit it; see "
            "`preprocess` and `size`."
        )
        if examined.relabelling is not None:
            gaps.append(examined.relabelling.sentence())
    if examined.accuracy is None:
        gaps.append(
            "No clean images were given, so only the data-free part of the analysis ran. With "
            "`data` (a few dozen labelled images per class: HDF5, npz, image folder, "
            "IDX or Parquet) the victim class, the clean accuracy and non-affine layers are "
            "examined too."
        )
    return gaps


def _chance(examined: Examined) -> str:
    """Say what the accuracy needed was told by, where it was not given."""
    if examined.guessing is None:
        return ""
    return f", surely above chance; guessing alone gives {examined.guessing:.0%}"


def thin_spots(examined: Examined) -> list[str]:
    """Say which classes have no images, or too few."""
    if examined.accuracy is None:
        return []
    spots = []
    missing = (examined.classes or 0) - examined.source_classes
    if missing > 0:
        spots.append(f"{missing} classes have no clean images and were not examined as victims.")
    if examined.fewest_images < _FEWEST_IMAGES:
        spots.append(
            f"A class has only {examined.fewest_images} clean images; at least {_FEWEST_IMAGES} "
            "per class are needed."
        )
    return spots
