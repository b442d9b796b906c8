"""`onnx-soda`, and `python -m onnx_soda`: what the program does before it can do anything.

An interrupt while the program is still being imported ends it without a word. Nothing is begun by
then, so nothing has to be put in order.
"""

import sys
from types import TracebackType

# 128 and the number of SIGINT, as shells have it.
_INTERRUPTED = 130


def _leave(*_: object) -> None:
    import os

    os._exit(_INTERRUPTED)


def _unless_interrupted(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _leave()
    sys.__excepthook__(kind, error, traceback)


def main() -> None:
    """Run the command line; an interrupt ends it with 130, and without a traceback."""
    # Even the import of signal takes a moment.
    sys.excepthook = _unless_interrupted
    import signal

    signal.signal(signal.SIGINT, _leave)
    from onnx_soda._cli.app import main as run

    try:
        run()
    finally:
        # All is said; Python's way out takes a moment, too.
        signal.signal(signal.SIGINT, _leave)


if __name__ == "__main__":
    main()
