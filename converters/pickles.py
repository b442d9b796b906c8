"""What a pickle would import, read off its instructions without running them.

`torch.load(weights_only=True)` runs pickles on a machine of its own that imports nothing but a
list of harmless names. The same is looked at here first: which names, and which instructions.
"""

from __future__ import annotations

import io
import pickletools
import re

from .refusals import bomb, damaged, runs_code

__all__ = ["FRAMEWORK_NAMES", "check_pickle"]

FRAMEWORK_NAMES = re.compile(
    r"collections OrderedDict|collections Counter"
    r"|torch\._utils _rebuild_(?:tensor|tensor_v2|parameter|parameter_with_state)"
    r"|torch\.nn\.parameter Parameter|torch\.serialization _get_layout"
    r"|torch (?:Size|device|Tensor)"
    r"|torch (?:Float|Double|Half|BFloat16|Byte|Char|Short|Int|Long|Bool)Storage"
    r"|torch (?:b?float16|float(?:32|64)|u?int8|int(?:16|32|64)|bool|half|float|double|long|int)"
    r"|torch\.storage (?:UntypedStorage|TypedStorage)"
)
"""What tensors in a state_dict are made of, as "module name"."""

# What torch's unpickler for weights knows (torch/_weights_only_unpickler.py). Others load names
# from the stack, call classes, or read objects by number.
_INSTRUCTIONS = (
    "PROTO FRAME STOP MARK POP POP_MARK GLOBAL NEWOBJ REDUCE BUILD APPEND APPENDS SETITEM SETITEMS "
    "TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET NONE NEWTRUE NEWFALSE "
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING BINPERSID BINGET LONG_BINGET "
    "BINPUT LONG_BINPUT"
)
_KNOWN = frozenset(_INSTRUCTIONS.split())
_MOST_INSTRUCTIONS = 5_000_000
_ADVICE = (
    "Ask for the weights alone, torch.save(model.state_dict(), ...) or .safetensors, and name the "
    "network by --arch; or for a .pt2 file (torch.export.save)."
)


def check_pickle(content: bytes, what: str, names: re.Pattern[str], pickles: int = 1) -> None:
    """Look at what pickles would import, running nothing.

    Args:
        content: The pickles, one behind the other.
        what: The file's name to show.
        names: Names that may be imported, as "module name".
        pickles: How many there are.

    Raises:
        UnsafeSourceError: They import something else, or have unusual instructions.
        ConvertError: They are no pickles.
    """
    stream = io.BytesIO(content)
    seen = 0
    try:
        for _ in range(pickles):
            for code, argument, _ in pickletools.genops(stream):
                seen += 1
                if seen > _MOST_INSTRUCTIONS:
                    raise bomb(f"the pickle in {what} has over {_MOST_INSTRUCTIONS} instructions")
                _check(code.name, argument, what, names)
    except (ValueError, EOFError, UnicodeDecodeError) as error:
        raise damaged(f"the pickle in {what} cannot be read: {error}") from error


def _check(code: str, argument: object, what: str, names: re.Pattern[str]) -> None:
    if code not in _KNOWN:
        raise runs_code(f"the pickle in {what} has the instruction {code}", _ADVICE)
    if code == "GLOBAL" and not names.fullmatch(str(argument)):
        wanted = str(argument).replace(" ", ".")
        raise runs_code(f"{what} is a pickle that would import {wanted!r}", _ADVICE)
