"""What several converters share: the words of refusals, and strict readers of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onnx_soda._errors import ConvertError, SodaError, UnsafeSourceError
from onnx_soda._rules import (
    RULE_AMBIGUOUS,
    RULE_BOMB,
    RULE_CODE,
    RULE_ESCAPE,
    RULE_RESOURCES,
    RULE_SIZES,
)

# Characters of a framework's complaint: some quote a whole graph.
_MOST_QUOTED = 300


def runs_code(what: str, advice: str) -> UnsafeSourceError:
    """Return the error for a file that could run code when it is opened."""
    return UnsafeSourceError(what, advice, rule_id=RULE_CODE)


def misleading(what: str) -> UnsafeSourceError:
    """Return the error for a file that two readers may understand differently."""
    return UnsafeSourceError(
        what, "No framework writes such a file; do not trust it.", rule_id=RULE_AMBIGUOUS
    )


def bomb(what: str) -> UnsafeSourceError:
    """Return the error for a file that would take far more memory or time than its size shows."""
    return UnsafeSourceError(
        what, "No image classifier needs that; do not trust this file.", rule_id=RULE_RESOURCES
    )


def escapes(what: str) -> UnsafeSourceError:
    """Return the error for an archive that could write or read files elsewhere."""
    return UnsafeSourceError(
        what, "Do not unpack this file; no framework writes such names.", rule_id=RULE_ESCAPE
    )


def unpacks_to_much(what: str) -> UnsafeSourceError:
    """Return the error for an archive that would take far more room than its size shows."""
    return UnsafeSourceError(what, "Do not unpack this file.", rule_id=RULE_BOMB)


def false_sizes(what: str) -> UnsafeSourceError:
    """Return the error for a file that declares more or less than it holds."""
    return UnsafeSourceError(
        what, "The file is damaged or made to mislead; download it again.", rule_id=RULE_SIZES
    )


def damaged(what: str) -> ConvertError:
    """Return the error for a file that cannot be read."""
    return ConvertError(what, "Compare its size and digest with the source, and fetch it again.")


@contextmanager
def explaining(doing: str, advice: str) -> Iterator[None]:
    """Turn whatever a framework raises in the block into an error of ours.

    Args:
        doing: What fails, as "PyTorch cannot load m.pt2".
        advice: What to do about it.

    Raises:
        ConvertError: The block raised something that is no error of ours.
    """
    try:
        yield
    except (SodaError, MemoryError):
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = lines[0][:_MOST_QUOTED] if lines else type(error).__name__
        raise ConvertError(f"{doing}: {said}", advice) from error


# Functional Keras models and PyTorch's graphs nest under twenty levels.
_MOST_DEPTH = 100


def parse_json(content: bytes | str, what: str) -> Any:
    """Return what a JSON document holds.

    Args:
        content: The document.
        what: Its name to show.

    Raises:
        UnsafeSourceError: A key occurs twice in one object, or it is nested too deep.
        ConvertError: It is no JSON document.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise misleading(f"{what} has a key twice in one object")
        return found

    try:
        return json.loads(content, object_pairs_hook=unique)
    except RecursionError as error:
        raise bomb(f"{what} is nested too deep") from error
    except ValueError as error:
        raise damaged(f"{what} cannot be read as JSON: {error}") from error


def walk(value: Any, what: str) -> Iterator[dict[str, Any]]:
    """Yield every object in what a JSON document holds, outer ones first.

    Raises:
        UnsafeSourceError: It is nested too deep.
    """
    waiting = [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        if depth > _MOST_DEPTH:
            raise bomb(f"{what} is nested over {_MOST_DEPTH} levels")
        if isinstance(one, dict):
            yield one
            waiting.extend((member, depth + 1) for member in one.values())
        elif isinstance(one, list):
            waiting.extend((member, depth + 1) for member in one)
