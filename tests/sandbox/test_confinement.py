"""What a confined process cannot do any more: every attempt is made for real, in a process."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from onnx_soda._options import Limits, usual_memory

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="Landlock and seccomp are Linux's"
)

CONFINE_FILES = """
import sys
from pathlib import Path
from onnx_soda._sandbox.child import confine_files
given, own = map(Path, sys.argv[1:3])
if not confine_files([given], own, []):
    sys.exit("no landlock")
"""
CONFINE_NETWORK = """
import sys
from onnx_soda._sandbox.child import confine_network
if not confine_network():
    sys.exit("no seccomp")
"""


def attempt(code: str, *arguments: Path | str | int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    for missing in ("no landlock", "no seccomp"):
        if missing in done.stderr:
            pytest.skip(f"this system has {missing}")
    return done


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A folder that is given, one to write to, and one with a canary that is neither."""
    given, own, outside = (tmp_path / name for name in ("given", "own", "outside"))
    for folder in (given, own, outside):
        folder.mkdir()
    (given / "model.onnx").write_text("given")
    (outside / "canary").write_text("secret")
    return given, own, outside


def test_inputs_can_be_read_and_its_own_folder_written(places: tuple[Path, Path, Path]) -> None:
    given, own, _ = places
    code = CONFINE_FILES + "print((given / 'model.onnx').read_text())\n(own / 'x').write_text('1')"
    done = attempt(code, given, own)
    assert done.stdout == "given\n", done.stderr
    assert (own / "x").read_text() == "1"


@pytest.mark.parametrize(
    "deed",
    [
        "(outside / 'canary').read_text()",
        "list(outside.iterdir())",
        "(outside / 'new').write_text('1')",
        "(outside / 'canary').unlink()",
        "(given / 'new').write_text('1')",
        "(given / 'model.onnx').write_text('1')",
        "(given / 'model.onnx').rename(own / 'x')",
        "(own / 'link').symlink_to(outside / 'canary'); (own / 'link').read_text()",
        "Path('/etc/passwd').read_text()",
        "Path('/proc/1/environ').read_text()",
        "Path.home().joinpath('.').iterdir().__next__()",
        "import subprocess; subprocess.run(['/bin/true'])",
    ],
)
def test_everything_else_is_out_of_reach(deed: str, places: tuple[Path, Path, Path]) -> None:
    given, own, outside = places
    done = attempt(f"{CONFINE_FILES}\noutside = Path(sys.argv[3])\n{deed}", given, own, outside)
    assert done.returncode == 1
    assert "PermissionError" in done.stderr or "Errno 18" in done.stderr, done.stderr
    assert (outside / "canary").read_text() == "secret"
    assert (given / "model.onnx").read_text() == "given"
    assert len(list(outside.iterdir())) == 1


# tgkill, rt_sigqueueinfo and rt_tgsigqueueinfo by number: signal 0 to the parent.
NUMBERS = {
    "x86_64": {"TGKILL": 234, "QUEUE": 129, "TGQUEUE": 297},
    "aarch64": {"TGKILL": 131, "QUEUE": 138, "TGQUEUE": 240},
}.get(platform.machine(), {})


def called(name: str) -> str:
    """Return code that makes a system call and raises what it fails with."""
    return f"""
import ctypes
c = ctypes.CDLL(None, use_errno=True)
details = ctypes.create_string_buffer(128)
parent = os.getppid()
arguments = dict(
    TGKILL=(parent, parent, 0), QUEUE=(parent, 0, details), TGQUEUE=(parent, parent, 0, details)
)
if c.syscall({NUMBERS.get(name, -1)}, *arguments[{name!r}]):
    raise OSError(ctypes.get_errno(), "refused")
"""


@pytest.mark.parametrize(
    "deed",
    [
        "import socket; socket.socket()",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import os; os.execv('/bin/true', ['/bin/true'])",
        "import os; os.kill(os.getppid(), 0)",
        "import os; os.setsid()",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['/bin/true'])",
        "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 10)",
        "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))",
        "import os; os.sched_setscheduler(os.getppid(), os.SCHED_BATCH, os.sched_param(0))",
        "import os; os.pidfd_open(os.getppid())",
        *(f"import os\n{called(number)}" for number in ("TGKILL", "QUEUE", "TGQUEUE")),
        "import ctypes, os; c = ctypes.CDLL(None, use_errno=True); "
        "c.ptrace(16, os.getppid(), 0, 0) and (_ for _ in ()).throw("
        "PermissionError(ctypes.get_errno()) if ctypes.get_errno() == 1 else OSError)",
    ],
)
def test_network_programs_and_other_processes_are_given_up(deed: str) -> None:
    done = attempt(f"{CONFINE_NETWORK}\n{deed}")
    assert done.returncode == 1
    assert "PermissionError" in done.stderr, done.stderr


def test_what_it_does_to_itself_is_left_to_it() -> None:
    """It limits itself, starts threads, and ends itself by abort(3)."""
    done = attempt(
        CONFINE_NETWORK
        + """
import os, resource, threading
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
thread = threading.Thread(target=print, args=("a thread",)); thread.start(); thread.join()
sys.stdout.flush()
os.abort()
"""
    )
    assert (done.returncode, done.stdout) == (-6, "a thread\n"), done.stderr


def test_threads_started_later_are_confined_too(places: tuple[Path, Path, Path]) -> None:
    given, own, outside = places
    code = (
        CONFINE_FILES
        + """
import threading
def steal():
    try:
        print((Path(sys.argv[3]) / 'canary').read_text())
    except PermissionError:
        print("refused")
thread = threading.Thread(target=steal); thread.start(); thread.join()
"""
    )
    assert attempt(code, given, own, outside).stdout == "refused\n"


def test_memory_is_limited_beyond_what_is_taken() -> None:
    code = """
from onnx_soda._options import Limits
from onnx_soda._sandbox.child import limit_memory
taken = bytearray(300 * 2**20)
assert limit_memory(Limits(memory=200 * 2**20))
bytearray(100 * 2**20)
print("some")
try:
    bytearray(250 * 2**20)
except MemoryError:
    print("no more")
"""
    assert attempt(code).stdout == "some\nno more\n"


def test_processor_time_is_limited() -> None:
    code = """
from onnx_soda._options import Limits
from onnx_soda._sandbox import child
child._SPARE_SECONDS = 0
assert child.limit_time_and_files(Limits(seconds=1), 2**20)
while True: pass
"""
    done = attempt(code)
    assert done.returncode < 0


def test_files_are_limited(tmp_path: Path) -> None:
    code = """
import sys
from onnx_soda._options import Limits
from onnx_soda._sandbox.child import limit_time_and_files
assert limit_time_and_files(Limits(), 1000)
with open(sys.argv[1], "wb") as stream:
    stream.write(bytes(5000))
"""
    done = attempt(code, tmp_path / "large")
    assert done.returncode != 0
    assert (tmp_path / "large").stat().st_size <= 1000


def test_usual_limits_fit_the_machine() -> None:
    assert 2**28 < usual_memory() <= 8 * 2**30
    assert Limits().memory == usual_memory()
