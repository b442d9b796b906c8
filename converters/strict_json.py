"""JSON from a stranger: no key twice, limited depth, so that all readers see the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .refusals import bomb, damaged, misleading

__all__ = ["parse_json", "walk"]

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
