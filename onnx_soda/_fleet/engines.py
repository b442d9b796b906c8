"""Where the models of a fleet are scanned: on this machine, or on the machines of a Ray cluster.

Either way a model is scanned in a limited child process of its own (`onnx_soda._batch`), and the
process that calls an engine alone keeps results. Ray gives a task neither a time limit nor a memory
limit, so its tasks do nothing but start such a child. What crosses between machines is JSON.

Ray's own storage holds nothing that is needed later: with the process that calls it a run ends, and
the next one goes on from the results that were kept.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

from onnx_soda._batch import Ended, scan_one, scan_requests
from onnx_soda._cache import Cache, program_digest
from onnx_soda._errors import FleetError, first_line
from onnx_soda._fetch import fetch, place_of
from onnx_soda._fleet.manifest import FleetRequest
from onnx_soda._options import Progress, ScanRequest, no_progress, usable_cores
from onnx_soda._report.json import to_json
from onnx_soda._results import Outcome, ScanFailure, ScanReport
from onnx_soda._sandbox.process import private_folder
from onnx_soda._system import read_json, require_modules

EngineName = Literal["local", "ray"]
Within = Callable[[str, str, int, int], None]


class Engine(ABC):
    """Scans models, several at once."""

    @abstractmethod
    def scan(
        self, requests: Sequence[FleetRequest], stopping: Callable[[], bool], within: Within
    ) -> Generator[Ended, None, None]:
        """Scan models; yield each as it is over, with its number.

        Args:
            requests: What to scan, and how; paths are absolute.
            stopping: Tells whether no more models are to be begun.
            within: Called with a model's path as its scan goes on, where that is known.

        Raises:
            FleetError: No model can be scanned.
        """


def _scan_anywhere(
    request: ScanRequest, cache: Cache | None, progress: Progress
) -> tuple[ScanReport, bool]:
    """Fetch a model where it has to be, and scan it; what was fetched is removed."""
    source = request.source if isinstance(request, FleetRequest) else None
    if source is None:
        return scan_one(request, cache, progress)
    wanted = source.wanted
    with private_folder() as folder:
        place = place_of(source.url, wanted)
        _, files = fetch(source.url, place, folder, wanted, progress)
        return scan_one(replace(request, model=files[0].path), cache, progress)


@dataclass(frozen=True)
class LocalEngine(Engine):
    """Scans on this machine.

    Attributes:
        jobs: How many models at once; they share the cores.
    """

    jobs: int = 1

    def scan(
        self, requests: Sequence[FleetRequest], stopping: Callable[[], bool], within: Within
    ) -> Generator[Ended, None, None]:
        """See `Engine.scan`."""
        return scan_requests(
            requests, None, self.jobs, no_progress, stopping, within, _scan_anywhere
        )


# How often a scan is begun again whose worker, or machine, was lost.
_LOST = 3
# Tasks that Ray is given beyond those that run, so that no worker waits for the next one.
_AHEAD = 2
# Seconds between looks at whether the run was interrupted.
_TICK = 0.5
# Results are too small for Ray's shared memory, which it would take 30 % of the machine for; it
# needs 75 MiB at least.
_STORE_BYTES = 80 * 2**20
# How often Ray is started here: it gives itself 30 seconds, too few on a machine that is busy.
_STARTS = 3
_KNOCK_SECONDS = 10.0
_QUIET = {"log_to_driver": False, "logging_level": "ERROR"}
# Read by Ray when it is imported: no word about us to its makers; a task that needs too much memory
# is not begun again for ever; a task without a share of a GPU leaves our variables alone; time to
# start on a machine that is busy.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_oom_retries": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_agent_register_timeout_ms": "120000",
}
"""How Ray behaves for fleets; a cluster has to be started with these, too."""
# Any of these says how Ray is to know who may talk to it.
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")
_CLIENT = "ray://"
_OTHER = (
    "a worker has another version of onnx-soda, or of what it needs",
    "Install the same one on all machines of the cluster.",
)


@dataclass(frozen=True)
class RayEngine(Engine):
    """Scans on the machines of a Ray cluster, or with a Ray of its own on this machine.

    Attributes:
        address: Of the cluster, "auto" for the one that this machine belongs to; None starts Ray
            here, and ends it behind the last scan.
        jobs: How many models at once; as many as there are cores for where None.
        gpus: Share of a GPU that a scan has; with 0 it computes on the processor.
    """

    address: str | None = None
    jobs: int | None = None
    gpus: float = 0.0

    def scan(
        self, requests: Sequence[FleetRequest], stopping: Callable[[], bool], within: Within
    ) -> Generator[Ended, None, None]:
        """See `Engine.scan`; how far a model is is not known."""
        del within
        shared = [_with_threads(one) for one in requests]
        cores = max(one.options.runtime.thread_count for one in shared)
        with self._connected(cores) as ray:
            task = ray.remote(
                num_cpus=cores,
                num_gpus=self.gpus,
                max_retries=_LOST,
                scheduling_strategy="SPREAD",
            )(scan_in_task)
            yield from _results(ray, task, shared, self._window(ray, cores), stopping)

    @contextmanager
    def _connected(self, cores: int) -> Iterator[Any]:
        require_modules("the engine ray needs", ("ray",), "ray")
        if (self.address or "").startswith(_CLIENT):
            raise FleetError(
                f"addresses of the kind {_CLIENT} are not for fleets",
                "Run the command on a machine of the cluster, with --address auto.",
            )
        with _explained(self.address):
            _knock(self.address or "")
        with private_folder() as folder:
            ray = _imported(self.address)
            try:
                with _own_signals():
                    self._start(ray, cores, folder)
                _check_room(ray, cores, self.gpus)
                yield ray
            finally:
                ray.shutdown()

    def _start(self, ray: Any, cores: int, folder: Path) -> None:
        """Connect to the cluster, or start Ray here."""
        if self.address is not None:
            with _explained(self.address):
                ray.init(self.address, **_QUIET)
            return
        jobs = self.jobs or max(usable_cores() // cores, 1)
        for left in reversed(range(_STARTS)):
            before = set(psutil.Process().children())
            try:
                with _explained(None):
                    ray.init(
                        "local",
                        num_cpus=cores * jobs,
                        include_dashboard=False,
                        object_store_memory=_STORE_BYTES,
                        _temp_dir=str(folder / str(left)),
                        **_QUIET,
                    )
                return
            except FleetError:
                ray.shutdown()
                _end(set(psutil.Process().children()) - before)
                if not left:
                    raise

    def _window(self, ray: Any, cores: int) -> int:
        """Return how many tasks Ray is given at once."""
        if self.jobs is not None and self.address is not None:
            return self.jobs
        return _AHEAD * max(int(ray.cluster_resources().get("CPU", 0)) // cores, 1)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what SIGTERM does; Ray would print where its own code is, and end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _explained(address: str | None) -> Iterator[None]:
    """Turn what Ray says where it does not start, or answer, into one line; it raises all kinds."""
    where = "on this machine" if address is None else f"at {address}"
    try:
        yield
    except Exception as error:
        raise FleetError(
            f"Ray {where} does not answer: {first_line(error)}",
            "Check `ray status`, the address and RAY_AUTH_TOKEN; Ray and Python must be those of "
            "the cluster.",
        ) from error


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at an address; Ray would ask for minutes."""
    host, _, port = address.rpartition(":")
    if host:
        socket.create_connection((host, int(port)), _KNOCK_SECONDS).close()


def _end(processes: Iterable[psutil.Process]) -> None:
    """End what a Ray has begun that did not start."""
    for process in processes:
        with suppress(psutil.Error):
            for one in (*process.children(recursive=True), process):
                one.kill()


def _with_threads(request: FleetRequest) -> FleetRequest:
    """Return a request with one thread where it does not say; Ray counts cores."""
    runtime = request.options.runtime
    runtime = replace(runtime, threads=runtime.threads or 1)
    return replace(request, options=replace(request.options, runtime=runtime))


def _imported(address: str | None) -> Any:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if address is None and not any(name in os.environ for name in _TOKENS):
        # For this run alone. Without it Ray writes one into the user's home.
        os.environ[_TOKENS[0]] = secrets.token_hex(32)
    if any(name in os.environ for name in _TOKENS):
        # At an address that is named, Ray sends a token only where this asks for it, too.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    return import_module("ray")


def _check_room(ray: Any, cores: int, gpus: float) -> None:
    """Refuse what no machine has: Ray would wait for it without a word."""
    rooms = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(one.get("CPU", 0) >= cores and one.get("GPU", 0) >= gpus for one in rooms):
        raise FleetError(
            f"no machine of the cluster has {cores} cores and {gpus:g} GPUs for a scan",
            "Ask for less with --threads and --gpus.",
        )


def _results(
    ray: Any,
    task: Any,
    requests: Sequence[FleetRequest],
    window: int,
    stopping: Callable[[], bool],
) -> Iterator[Ended]:
    waiting, running = list(reversed(range(len(requests)))), dict[Any, int]()
    program, begun = program_digest(), dict[int, float]()
    while (waiting or running) and not stopping():
        while waiting and len(running) < window:
            number = waiting.pop()
            begun[number] = time.perf_counter()
            request = msgspec.json.encode(requests[number], enc_hook=str)
            running[task.remote(request, program)] = number
        ready, _ = ray.wait(list(running), num_returns=1, timeout=_TICK)
        for one in ready:
            number = running.pop(one)
            seconds = time.perf_counter() - begun[number]
            yield _ended(ray, one, number, requests[number].model, seconds)
    for one in running:
        ray.cancel(one, force=True)


def _ended(ray: Any, task: Any, number: int, model: Path, seconds: float) -> Ended:
    outcome: Outcome
    try:
        answer: Answer = read_json(ray.get(task), Answer)
    except ray.exceptions.RayTaskError as error:  # not of the model: it is not installed there
        raise FleetError(
            f"a worker cannot scan: {first_line(error.cause or error)}", _OTHER[1]
        ) from error
    except ray.exceptions.RayError as error:
        outcome = ScanFailure(model.name, *_lost(error), None)
        return Ended(model, outcome, seconds, False, number=number)
    if answer.refused:
        raise FleetError(*_OTHER)
    kind = ScanFailure if answer.failed else ScanReport
    outcome = read_json(answer.outcome, kind)
    return Ended(model, outcome, answer.seconds, False, number=number)


def _lost(error: Exception) -> tuple[str, str]:
    """Return what is told of a model whose worker was lost with it, and what to do."""
    return (
        f"the worker of Ray that scanned it was lost {_LOST + 1} times or ran out of memory: "
        f"{type(error).__name__}",
        "Scan it alone, or with fewer scans at once.",
    )


@dataclass(frozen=True)
class Answer:
    """What a task sends back.

    Attributes:
        refused: The program there is another one; nothing was scanned.
        failed: The outcome is a `ScanFailure`.
        outcome: As JSON.
        seconds: How long it took.
    """

    refused: bool = False
    failed: bool = False
    outcome: str = ""
    seconds: float = 0.0


def scan_in_task(request: bytes, program: str) -> bytes:
    """Scan one model on whatever machine this runs.

    Args:
        request: A `FleetRequest` as JSON.
        program: Digest of the program that asks: another one would give other results.
    """
    answer = Answer(refused=True)
    if program == program_digest():
        asked: FleetRequest = read_json(request, FleetRequest)
        (ended,) = scan_requests([asked], scan=_scan_anywhere)
        failed = isinstance(ended.outcome, ScanFailure)
        answer = Answer(False, failed, to_json(ended.outcome), ended.seconds)
    return msgspec.json.encode(answer)
