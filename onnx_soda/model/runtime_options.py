"""What a caller can choose about running models; imports no runtime."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["RuntimeOptions", "usable_cores"]

# Without a limit of the user's, activations may take this much: enough for 64 images of
# 224 x 224 in a ResNet-50, little enough for a laptop.
_DEFAULT_MEMORY = 2 * 2**30


@dataclass(frozen=True)
class RuntimeOptions:
    """How sessions run.

    Attributes:
        provider: "auto" (CUDA where it loads), "cpu" or "cuda".
        threads: Threads for one operator; None for all that this process may use.
        batch_size: Images per run; None chooses one that keeps within `memory_limit`.
        memory_limit: Bytes for the activations of one batch.
    """

    provider: str = "auto"
    threads: int | None = None
    batch_size: int | None = None
    memory_limit: int = _DEFAULT_MEMORY

    @property
    def thread_count(self) -> int:
        """Threads for one operator, as a number."""
        return self.threads or usable_cores()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
