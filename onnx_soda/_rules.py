"""All rules by id: each kind of finding, what it means and how sure it is.

Rules about the file itself: SODA3xx. Up to SODA310 a file is refused, from SODA311 on it is not.

Not refused is what also occurs in honest files, and what a scan can go on with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

Severity = Literal["high", "medium", "low", "info"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the most severe to the least."""
WEIGHTY: tuple[Severity, ...] = ("high", "medium")
"""Those that keep a verdict from being "clean"."""


@dataclass(frozen=True)
class Rule:
    """A kind of finding.

    Attributes:
        id: Stable identifier: SODA1xx behaviour, SODA2xx graph logic, SODA3xx file safety.
        name: Short name in kebab case, stable too.
        severity: The usual severity; the highest where findings differ.
        title: What it is, in one line.
        meaning: What a finding says, in a few sentences.
        certainty: How sure it is: what else could look like this.
        advice: What to do about it.
        techniques: What attackers do that a finding may come from, see `TECHNIQUES`.
    """

    id: str
    name: str
    severity: Severity
    title: str
    meaning: str
    certainty: str
    advice: str
    techniques: tuple[str, ...] = ()


RULE_TARGET = "SODA101"
RULE_CONCEPT = "SODA102"
RULE_UNLIKE = "SODA103"
RULE_PATCH = "SODA104"
RULE_RIVAL = "SODA105"

BEHAVIOUR_RULES = (
    Rule(
        id=RULE_TARGET,
        name="abnormal-target-class",
        severity="high",
        title="A class is reached through neurons that serve no other class",
        meaning=(
            "The paper's statistic (SODA, Algorithms 2 and 3): of all classes this one's causal "
            "attribution agrees least with the others'. It is reported only where the method "
            "soda decides."
        ),
        certainty=(
            "Weak by itself: it flags most clean models and misses most backdoors; "
            "`onnx-soda explain paper-statistic` has the measured rates."
        ),
        advice="Scan with the default method, and judge by its evidence.",
    ),
    Rule(
        id=RULE_CONCEPT,
        name="semantic-backdoor",
        severity="high",
        title="A change of what the image shows turns one class into another",
        meaning=(
            "Clean images of the victim class are taken for the target class once the image is "
            "changed in a way that people can see and that the report describes. A reference "
            "fitted to the clean images does not follow, and the other classes keep their answer."
        ),
        certainty=(
            "The score is surely over a threshold calibrated on models known to be clean or "
            "backdoored; `onnx-soda explain detection` has the measured rates of both kinds of "
            "error. Look at the images: a change that makes a person doubt too is no backdoor."
        ),
        advice=(
            "Do not use the model for decisions that matter. Ask where the training images came "
            "from; train again without the suspicious ones, or try `onnx-soda repair`."
        ),
    ),
    Rule(
        id=RULE_UNLIKE,
        name="unlike-reference-models",
        severity="high",
        title="A change of the image turns one class into another, and in other models it does not",
        meaning=(
            "Clean images of the victim class are taken for the target class once the image is "
            "changed in a way that people can see and that the report describes. Reference models "
            "of the same classes keep the class under the same change of the same images."
        ),
        certainty=(
            "The pair stands out over what honest models differ by, by more than a threshold "
            "calibrated on models known to be clean or backdoored; `onnx-soda explain detection` "
            "has the measured rates of both kinds of error. A reference of another kind of network "
            "or of other training images makes honest differences larger."
        ),
        advice=(
            "Do not use the model for decisions that matter. Ask where the training images came "
            "from; train again without the suspicious ones, or try `onnx-soda repair`."
        ),
    ),
    Rule(
        id=RULE_PATCH,
        name="patch-trigger",
        severity="high",
        title="A few pixels, the same for all images, turn them into one class",
        meaning=(
            "A patch of at most a hundredth of the image was searched for that has images of all "
            "classes taken for one. It turns most images that took no part in the search; patches "
            "as small for other classes turn far fewer. That is what a trigger stamped on training "
            "images leaves behind."
        ),
        certainty=(
            "The difference to the next best patch is surely over a threshold that was calibrated "
            "on clean models and on networks with a known patch; `onnx-soda explain detection` has "
            "what was measured. Weakly trained networks are turned by few pixels, too. The patch "
            "shown works, whether or not it looks like the one that was planted."
        ),
        advice=(
            "Do not use the model for decisions that matter. Put the patch that the report shows "
            "on images of your own, and see. Ask where the training images came from."
        ),
    ),
    Rule(
        id=RULE_RIVAL,
        name="flagged-by-another-method",
        severity="medium",
        title="A detector of other authors takes a class or a pair for a backdoor",
        meaning=(
            "The detector that was asked for by name flags this class, or this pair. The report "
            "says which one it is, with whose parameters it ran, and what its score means."
        ),
        certainty=(
            "That of the method, with the threshold of its paper. Many of these flag every third "
            "clean model, and most look for stamped patches; `onnx-soda explain comparison` has "
            "what was measured here."
        ),
        advice="Scan with the default method too, and judge by the evidence of both.",
    ),
)


RULE_BRANCH = "SODA201"
RULE_SELECTOR = "SODA202"
RULE_BYPASS = "SODA203"
RULE_CONSTANT = "SODA204"
RULE_EXACT = "SODA205"

_ADVICE = (
    "Do not use the model. Open the nodes named in a graph viewer and ask whoever made the file "
    "what they are for; the weights alone, in a graph that you build yourself, may be harmless."
)

GRAPH_LOGIC_RULES = (
    Rule(
        id=RULE_BRANCH,
        name="data-dependent-branch",
        severity="high",
        title="The image decides which branch of the graph runs",
        meaning=(
            "The condition of an If or Loop is computed from the values of the image, and what "
            "runs then reaches the scores."
        ),
        certainty=(
            "Classifiers as exporters write them branch on shapes at most. Networks that stop "
            "early once they are sure branch too: they are reported as medium, unless the branch "
            "gives scores that no layer reaches. Confirmed findings show an image whose class the "
            "branch changes."
        ),
        advice=_ADVICE,
    ),
    Rule(
        id=RULE_SELECTOR,
        name="data-dependent-selector",
        severity="high",
        title="A yes-or-no computed from the image selects or switches what becomes the scores",
        meaning=(
            "A tensor with few values (from a comparison, an index of the largest, a rounding, or "
            "a function as steep as one) selects, multiplies, indexes or is added to what the "
            "network computed by other means."
        ),
        certainty=(
            "Activation functions, attention masks, trained gates and quantization are told apart "
            "by what depends on what. Networks that choose among experts, skip a block, drop "
            'tokens or answer "none of them" really decide: they are reported as medium, unless '
            "forcing the decision gives scores that no layer reaches by itself."
        ),
        advice=_ADVICE,
    ),
    Rule(
        id=RULE_BYPASS,
        name="path-round-the-trunk",
        severity="high",
        title="A gated path from the image goes round the layers and joins near the scores",
        meaning=(
            "Pixels reach the scores without the weighted layers, through something that works "
            "like a switch: it does nothing for ordinary images, and suddenly more than all layers "
            "for an image that the report describes. Or a decision about pixels acts on the scores."
        ),
        certainty=(
            "Skips of honest networks (feature pyramids, U-Nets, dense networks) are tried out and "
            "not reported (`onnx-soda explain graph-logic` has the counts). Medium is a steep bend "
            "that was not seen to switch. A hand-made check of the input, say for images that are "
            "too dark, could look like a switch."
        ),
        advice=_ADVICE,
    ),
    Rule(
        id=RULE_CONSTANT,
        name="selectable-constant-scores",
        severity="high",
        title="The image can replace the scores by constants",
        meaning=(
            "Where the decision named is taken, the scores, or a part of them, come from constants "
            "in the file and no longer from the layers."
        ),
        certainty=(
            "A deliberate answer for unusable input would look the same: such an answer is "
            "documented, and is no class of the task."
        ),
        advice=_ADVICE,
    ),
    Rule(
        id=RULE_EXACT,
        name="exact-input-pattern",
        severity="high",
        title="An exact pattern or checksum of pixels decides",
        meaning=(
            "The image is compared for equality with stored values, or a remainder or bits of its "
            "pixels are computed, and the result steers the scores."
        ),
        certainty=(
            "A trained network has no use for exact pixels. Guards against division by zero "
            "compare with zero and are not reported where each number only decides about itself."
        ),
        advice=_ADVICE,
    ),
)


RULE_EXTERNAL = "SODA301"
RULE_EXTERNAL_CONTENT = "SODA302"
RULE_RESOURCES = "SODA303"
RULE_OPERATORS = "SODA304"
RULE_AMBIGUOUS = "SODA305"
RULE_SIZES = "SODA306"
RULE_CODE = "SODA307"
RULE_ESCAPE = "SODA308"
RULE_BOMB = "SODA309"
RULE_LINKED = "SODA310"
RULE_UNKNOWN_FIELDS = "SODA311"
RULE_DOUBLED = "SODA312"
RULE_NOTES = "SODA313"
RULE_CONTRIB = "SODA314"
RULE_STRINGS = "SODA315"
RULE_EMBEDDED = "SODA316"
RULE_LOW_BITS = "SODA317"
RULE_TRAINING = "SODA318"
RULE_UNUSED = "SODA319"
RULE_MENDED = "SODA320"
RULE_PICKLE = "SODA321"
RULE_UNKNOWN_CODE = "SODA322"
RULE_UNREAD = "SODA323"

_REFUSED = "The check is exact. The file was not scanned."


def _refusal(rule_id: str, name: str, title: str, meaning: str, advice: str) -> Rule:
    return Rule(rule_id, name, "high", title, meaning, _REFUSED, advice)


def _note(
    rule_id: str, name: str, severity: Severity, title: str, meaning: str, certainty: str
) -> Rule:
    advice = "Ask the author what it is for, or compare the file with one from the first source."
    return Rule(rule_id, name, severity, title, meaning, certainty, advice)


FILE_SAFETY_RULES: tuple[Rule, ...] = (
    _refusal(
        RULE_EXTERNAL,
        "weights-outside-folder",
        "The model asks for weights outside its own folder",
        "A model names the files of its weights itself. This one names an absolute path, a path "
        "upwards, or a file that links lead out of the folder: loading it could read a file of "
        "somebody else's into the weights.",
        "Do not load this file elsewhere. If you made the links yourself, put the model and a copy "
        "of its weights into one folder.",
    ),
    _refusal(
        RULE_EXTERNAL_CONTENT,
        "weights-file-differs",
        "The weights file does not hold what the model says",
        "A weights file is shorter than the tensors that are said to be in it, or its checksum "
        "differs from the one in the model. Other programs may load something else from it.",
        "Download the model and its weights again, from the same source.",
    ),
    _refusal(
        RULE_RESOURCES,
        "resource-bomb",
        "A small file that would take much memory or time",
        "The file nests, repeats or declares more than any image classifier needs: functions that "
        "multiply, tensors of absurd size, deeply nested graphs, millions of empty messages. "
        "Other programs may hang or fill the machine on it.",
        "Do not load this file elsewhere.",
    ),
    _refusal(
        RULE_OPERATORS,
        "unknown-operators",
        "Operators that neither ONNX nor ONNX Runtime defines",
        "They would have to come from a library of machine code. onnx-soda loads none.",
        "Export the model with standard operators.",
    ),
    _refusal(
        RULE_AMBIGUOUS,
        "ambiguous-graph",
        "Two readers may understand the graph differently",
        "A name stands for two tensors or functions, or a function takes the place of a standard "
        "operator. What one program scans would not be what another one runs.",
        "Export the model again; do not trust the file if its author cannot explain it.",
    ),
    _refusal(
        RULE_SIZES,
        "false-tensor-size",
        "A tensor's dimensions do not fit its data",
        "Dimensions are negative, overflow, or declare more or less than the file holds.",
        "The file is damaged or made to mislead; download it again.",
    ),
    _refusal(
        RULE_CODE,
        "source-runs-code",
        "Opening the file with its framework could run code",
        "Files of other frameworks can hold Python objects, functions or operators that reach "
        "files and programs. This one names some that no image classifier needs; the framework "
        "might run them when it opens the file, or while it is converted.",
        "Do not load this file elsewhere. Ask its author for ONNX, for weights alone "
        "(.safetensors), or for a program in data form (.pt2, .keras without Lambda layers).",
    ),
    _refusal(
        RULE_ESCAPE,
        "archive-escape",
        "Unpacking the archive could write or read files elsewhere",
        "A member of the archive has an absolute path or a path upwards, is a link that leads out, "
        "or is a device. A program that unpacks it without care overwrites files of yours, or "
        "reads them as if they were part of the archive.",
        "Do not unpack this file. No tool that packs models writes such names.",
    ),
    _refusal(
        RULE_BOMB,
        "archive-bomb",
        "A small archive that unpacks to very much",
        "A member unpacks to over a hundred times its size, or archives are nested deeper than "
        "anyone packs them. A program that unpacks it may fill the disk or the memory.",
        "Do not unpack this file.",
    ),
    Rule(
        RULE_LINKED,
        "linked-weights",
        "low",
        "A weights file with hard links could not be read safely",
        "The weights file has several names (hard links). Tools like uv, conda and DVC make them, "
        "and such files are read. This one belongs to another user than the model does, or is too "
        "large to be read into the model.",
        "The check is exact, and no sign of an attack. The file was not scanned.",
        "If it is the right file, make a copy of your own: `cp FILE FILE.copy && mv FILE.copy "
        "FILE`.",
    ),
    _note(
        RULE_UNKNOWN_FIELDS,
        "unknown-fields",
        "low",
        "Bytes that no reader of ONNX looks at",
        "The file has protobuf fields that ONNX does not define, or data behind the model. Readers "
        "pass over them silently, so anything can be kept there.",
        "Exact. Files written by a newer version of ONNX have such fields too.",
    ),
    _note(
        RULE_DOUBLED,
        "doubled-fields",
        "low",
        "A field stands in the file twice",
        "Readers keep the last value, or merge the two: data behind a model can so change it.",
        "Exact. No known exporter writes such files.",
    ),
    _note(
        RULE_NOTES,
        "large-notes",
        "info",
        "Unusually large metadata or doc strings",
        "Text that no computation reads, larger than authors and class names need.",
        "Weak: long lists of class names, and exporters' stack traces, are large too.",
    ),
    _note(
        RULE_CONTRIB,
        "contrib-operators",
        "info",
        "Operators of ONNX Runtime's own",
        "The model uses operators of the domain com.microsoft or com.microsoft.nchwc, which other "
        "runtimes lack and no standard describes.",
        "Exact, and usual for quantized and optimised models.",
    ),
    _note(
        RULE_STRINGS,
        "string-tensors",
        "info",
        "Tensors of text",
        "The model holds tensors of strings, as label maps are.",
        "Exact, and usual for models that answer with the names of classes.",
    ),
    _note(
        RULE_EMBEDDED,
        "embedded-file",
        "medium",
        "A tensor begins like a program or an archive",
        "The first bytes of a tensor's data are those of a program, an archive or a pickle.",
        "Strong: chance has one in four billion per tensor. Tensors of bytes may hold a file on "
        "purpose. Nothing in a model is run by ONNX Runtime; another program has to take it out.",
    ),
    _note(
        RULE_LOW_BITS,
        "low-bits",
        "info",
        "The low bits of weights are not as training leaves them",
        "Training leaves the last bits of a 32-bit weight evenly spread. In this tensor they are "
        "not, though they are not all zero either: data may be hidden in them.",
        "Weak: weights that were rounded or computed from few values look alike. Data that is "
        "compressed or encrypted cannot be told from ordinary weights this way.",
    ),
    _note(
        RULE_TRAINING,
        "training-info",
        "info",
        "The file holds training information",
        "It has graphs for training, which nothing here runs or scans.",
        "Exact. Files saved in the middle of training have it.",
    ),
    _note(
        RULE_UNUSED,
        "unused-weights",
        "info",
        "Most of the file is weights that no operator reads",
        "Tensors that nothing reads take up over half of the tensors' bytes.",
        "Exact. Careless exports leave such weights behind.",
    ),
    _note(
        RULE_MENDED,
        "mended",
        "info",
        "The file is not quite valid ONNX, and was mended in memory",
        "ONNX Runtime loads it, and stricter readers may refuse it. It was examined as ONNX "
        "Runtime reads it. The file itself was not changed.",
        "Exact. Quantizers, converters to float16 and old exporters write such files.",
    ),
    _note(
        RULE_PICKLE,
        "pickle",
        "low",
        "A Python pickle, which runs code when it is loaded",
        "Loading a pickle imports what it names and calls it. Each name in this one is of a list "
        "that tensors, arrays and plain values are made of.",
        "Exact about the names, which are read without running anything. Weights alone, as "
        "safetensors or ONNX have them, need no pickle.",
    ),
    _note(
        RULE_UNKNOWN_CODE,
        "unknown-code",
        "medium",
        "The file names code that is not known to be harmless",
        "A pickle names classes or functions, or a Keras, TorchScript or TensorFlow file names "
        "classes or operators, that are on no list here, neither of harmless nor of dangerous "
        "ones. What they do depends on the code installed where the file is loaded.",
        "Weak: models with layers of their own look like this, and so do files made to get past "
        "lists.",
    ),
    _note(
        RULE_UNREAD,
        "part-not-read",
        "medium",
        "A part of the file could not be looked at",
        "It is damaged, encrypted or too large, or ends before it should. What is in it is not "
        "known; a program that reads it in another way may still run it.",
        "Exact that it was not looked at; downloads that were cut short look like this too.",
    ),
)


UNSAFE = frozenset(rule.id for rule in FILE_SAFETY_RULES if rule.certainty == _REFUSED)
"""Rules by which a file is refused: something in it is dangerous, and the verdict is "unsafe"."""

ATLAS_VERSION = "2026.07"
"""Release of MITRE ATLAS that the names below are of: https://atlas.mitre.org"""
TECHNIQUES = {
    "AML.T0011.000": "User Execution: Unsafe AI Artifacts",
    "AML.T0018.000": "Manipulate AI Model: Poison AI Model",
    "AML.T0018.001": "Manipulate AI Model: Modify AI Model Architecture",
    "AML.T0018.002": "Manipulate AI Model: Embed Malware",
    "AML.T0020": "Training Data Poisoning",
}
"""Techniques of MITRE ATLAS by id. AML.T0020 was "Poison Training Data" before 2026.07, and
AML.T0018.001 was another technique ("Inject Payload") in older releases."""
# Relabelled images lead to behaviour; nodes are written in. Other rules about files have no
# technique that says just what they say.
_POISONED = ("AML.T0018.000", "AML.T0020")
_WRITTEN_IN = ("AML.T0018.001",)
_OF_RULES = {
    **{rule.id: _POISONED for rule in BEHAVIOUR_RULES},
    **{rule.id: _WRITTEN_IN for rule in GRAPH_LOGIC_RULES},
    RULE_CODE: ("AML.T0011.000",),
    RULE_EMBEDDED: ("AML.T0018.002",),
}

RULES: dict[str, Rule] = {
    rule.id: replace(rule, techniques=_OF_RULES.get(rule.id, ()))
    for rule in (*BEHAVIOUR_RULES, *GRAPH_LOGIC_RULES, *FILE_SAFETY_RULES)
}


def technique_labels(rule: Rule) -> tuple[str, ...]:
    """Return a rule's techniques as people read them."""
    return tuple(f"{one} {TECHNIQUES[one]}" for one in rule.techniques if one in TECHNIQUES)
