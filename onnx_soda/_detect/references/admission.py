"""Which references are heard: those that are comparable, and know the clean images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from onnx_soda._detect.references.flows import Flows, hear, own_flows
from onnx_soda._errors import SodaError
from onnx_soda._model.load import OnnxModel
from onnx_soda._numbers import ReferenceUsed
from onnx_soda._options import Progress, ReferenceFlows
from onnx_soda._suspect import Suspect
from onnx_soda._words import printable

# A reference may be worse than the suspect by so much clean accuracy. One that knows the images
# badly sends them anywhere.
_WORSE = 0.2


@dataclass(frozen=True, eq=False)
class Voice:
    """A reference that was heard."""

    used: ReferenceUsed
    flows: Flows


@dataclass(frozen=True, eq=False)
class Admitted:
    """References that are heard.

    Attributes:
        voices: Those, shown the same images under the same concepts as the suspect.
        left_out: A sentence on each of the others.
        own: What the suspect makes of the bank; None where no reference is heard.
    """

    voices: tuple[Voice, ...]
    left_out: tuple[str, ...]
    own: Flows | None = None

    def comparable_with(self, own: Flows) -> Admitted:
        """Leave out those that were shown something else than the suspect."""
        same = tuple(voice for voice in self.voices if own.comparable(voice.flows))
        others = [voice.used.file for voice in self.voices if voice not in same]
        reason = "it was shown other images, or another bank of concepts"
        left_out = (*self.left_out, *(_sentence(file, reason) for file in others))
        return Admitted(same, left_out, own if same else None)


def admit(suspect: Suspect, progress: Progress) -> Admitted:
    """Ask the references of a suspect that were not asked yet, and choose those to be heard.

    Args:
        suspect: The classifier, with clean images; its classes are few enough for the bank.
        progress: Called as each has answered, and as the suspect is shown the bank.

    Raises:
        InferenceError: The suspect does not run.
        ImageError: An image is unreadable or does not fit it.
    """
    voices: list[Voice] = []
    left_out: list[str] = []
    for done, heard in enumerate(_answers(suspect), 1):
        answer = _voice_of(suspect, heard)
        if isinstance(answer, str):
            left_out.append(_sentence(heard.file, answer))
        else:
            voices.append(answer)
        progress("references", done, len(suspect.references))
    admitted = Admitted(tuple(voices), tuple(left_out))
    if not voices:
        return admitted
    own = own_flows(suspect, lambda done, of: progress("concepts of the bank", done, of))
    return admitted.comparable_with(own)


def _answers(suspect: Suspect) -> Iterable[ReferenceFlows]:
    for reference in suspect.references:
        yield reference if isinstance(reference, ReferenceFlows) else _ask(suspect, reference)


def _ask(suspect: Suspect, model: OnnxModel) -> ReferenceFlows:
    """Ask a model in this process."""
    assert suspect.clean is not None  # noqa: S101 - the detector needs clean images
    try:
        return hear(model, suspect.clean, suspect.options)
    except SodaError as error:
        return ReferenceFlows(model.file, problem=error.message)


def _sentence(file: str, reason: str) -> str:
    return f"The reference {printable(file)} is left out: {reason}."


def _voice_of(suspect: Suspect, heard: ReferenceFlows) -> Voice | str:
    """Return a reference that can be compared with, or why it cannot."""
    if heard.problem:
        return heard.problem
    if heard.sha256 == suspect.model.sha256:
        return "it is the suspect itself"
    if heard.shape[3] != suspect.classes:
        return f"it has {heard.shape[3]} classes and the suspect {suspect.classes}"
    mine = suspect.examined.accuracy or 0.0
    # Written so that an accuracy that is no number is left out, too.
    if not heard.accuracy >= max(mine - _WORSE, suspect.examined.min_accuracy):
        return (
            f"it gives {heard.accuracy:.1%} of the clean images their label, the suspect "
            f"{mine:.1%}; its classes may be in another order"
        )
    used = ReferenceUsed(heard.file, heard.sha256, heard.accuracy, heard.preprocessing)
    try:
        return Voice(used, Flows.of(heard))
    except ValueError as error:
        return str(error)
