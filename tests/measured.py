"""Runs a command and tells, as JSON, what it took: `python tests/measured.py FILE COMMAND ...`.

From a process of its own, since the memory of a process that is started counts what its starter
had: the one that runs the tests has much.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    begin = time.monotonic()
    process = subprocess.Popen(sys.argv[2:])
    _, status, usage = os.wait4(process.pid, 0)
    # Kibibytes on Linux, bytes on macOS: of the largest process that was waited for.
    unit = 1 if sys.platform == "darwin" else 1024
    facts = {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - begin,
        "memory": usage.ru_maxrss * unit,
    }
    Path(sys.argv[1]).write_text(json.dumps(facts), encoding="utf-8")


main()
