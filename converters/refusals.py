"""The refusals that several converters share, so that each is worded once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from onnx_soda.errors import ConvertError, SodaError, UnsafeSourceError
from onnx_soda.rules.file_safety import RULE_AMBIGUOUS, RULE_CODE, RULE_RESOURCES

__all__ = ["bomb", "damaged", "explaining", "misleading", "runs_code"]

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
