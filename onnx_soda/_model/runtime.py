"""Runs models in ONNX Runtime, on the processor or on a CUDA device."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_soda._errors import InferenceError, OutOfMemoryError, ProviderError, first_line
from onnx_soda._options import RuntimeOptions
from onnx_soda._preflight.limits import DEFAULT_LIMITS

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# The same file must give the same report: exhaustive search and TF32 make convolutions differ
# from run to run. https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
_CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",
    "use_tf32": "0",
}


@dataclass(frozen=True)
class SubModel:
    """A model cut out of a graph, ready for a session.

    Attributes:
        content: Serialised model; its external data stays in `folder`.
        folder: Where external data lies; None without any.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        outside: Bytes of its external data.
    """

    content: bytes
    folder: Path | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    outside: int = 0


def cuda_device_count() -> int:
    """Return the number of CUDA devices, asking the driver; 0 where there is no driver.

    ONNX Runtime lists CUDA as available wherever its GPU wheel is installed and complains aloud
    when it then does not load, so the driver is asked first.
    """
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def provider_list(options: RuntimeOptions) -> list[Any]:
    """Return what to hand to ONNX Runtime as providers.

    Raises:
        ProviderError: CUDA was asked for and is not there.
    """
    if options.provider == "cpu":
        return [CPU]
    wheel_has_cuda = CUDA in ort.get_available_providers()
    if wheel_has_cuda and cuda_device_count():
        # Finds CUDA and cuDNN where pip installed them. It prints what it misses; stdout is for
        # the report alone.
        with contextlib.redirect_stdout(sys.stderr):
            ort.preload_dlls()
        return [(CUDA, _CUDA_OPTIONS), CPU]
    if options.provider == "cuda":
        missing = "no CUDA device" if wheel_has_cuda else "an ONNX Runtime without CUDA"
        raise ProviderError(
            f"provider cuda was asked for, and this machine has {missing}",
            "Use `provider=cpu`, or install onnxruntime-gpu and the CUDA driver.",
        )
    return [CPU]


def runs_on_cpu(options: RuntimeOptions) -> bool:
    """Tell whether sessions run on the processor.

    Raises:
        ProviderError: CUDA was asked for and is not there.
    """
    return bool(provider_list(options)[0] == CPU)


Arrays = dict[str, NDArray[Any]]

# Severity "fatal": errors reach the caller as exceptions, ONNX Runtime need not print them too.
_QUIET = 4
# Where ONNX Runtime looks for external data of a model given as bytes. Key read from
# onnxruntime_session_options_config_keys.h.
_EXTERNAL_FOLDER_KEY = "session.model_external_initializers_file_folder_path"
# Compute quantized models as the ONNX operators are defined. Otherwise ONNX Runtime replaces
# QuantizeLinear and DequantizeLinear around an operator by integer arithmetic, and a dequantized
# weight by 8-bit arithmetic, which round differently: one more reason for a logit to move.
_AS_DEFINED_KEY = "session.disable_quant_qdq"
# ONNX Runtime computes what depends on constants alone when it loads a model, and would store
# results of any size. Larger than this are only weights that would rather be computed at each run;
# transposing the largest layer of VGG makes 392 MiB. Both keys: as above.
_FOLDED_BYTES_KEY = "optimization.constant_folding_max_output_size_in_bytes"
_MOST_FOLDED_BYTES = 512 * 2**20
# ONNX Runtime copies the weights of matrices in an order that its loops like, and weights outside
# the file are mapped, so they would be there twice: 4,095 MiB for a matrix of 2,018 MiB, and 2,079
# without the copy (measured). Where they are larger than this, memory counts for more than time.
_PACKING_KEY = "session.disable_prepacking"
_MOST_PACKED_BYTES = 2**30
# It puts in functions too. The model's own are gone by then; this bounds those of the standard.
_EXPANDED_NODES_KEY = "session.function_expansion_node_limit"
# Threads that have nothing to do sleep. Otherwise those of one session keep a core busy while
# another session runs, or another program: measured in docs/performance.md. Key: as above.
_SPINNING_KEY = "session.intra_op.allow_spinning"
# Otherwise each session keeps what its largest run took. Key: as above.
_SHARED_KEY = "session.use_env_allocators"
# Words by which ONNX Runtime and CUDA say that memory ran out.
_OUT_OF_MEMORY = ("failed to allocate", "bad_alloc", "bad allocation", "out of memory", "bfcarena")
# Larger batches gain nothing on a processor (measured: docs/performance.md).
_MAX_BATCH = 128


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs that lie on a session's device.

    Attributes:
        values: OrtValue of each input.
        rows: Number of rows that count; more may be there as padding.
    """

    values: Mapping[str, Any]
    rows: int

    @property
    def size(self) -> int:
        """Bytes that they take on the device."""
        return sum(value.tensor_size_in_bytes() for value in self.values.values())


@dataclass
class Meter:
    """Counts what takes the time of a scan: passes of images through the model.

    Attributes:
        done: Passes so far. A part of the model counts as the share that it has of the whole.
    """

    done: float = 0.0

    @property
    def passes(self) -> int:
        """Passes so far, in whole ones."""
        return round(self.done)


class Session:
    """A model loaded into ONNX Runtime.

    Args:
        model: The model.
        options: Provider and threads.
        fixed_batch: Number of rows that the model insists on; None where it takes any.
        meter: Counts the rows that are run; None where they are not images of the model.
        share: Share of the model that this is.
        small: One of many small ones, that run one after the other on the processor: they share the
            memory that they work in.

    Raises:
        InferenceError: ONNX Runtime refuses the model.
        ProviderError: The provider asked for does not load.
    """

    def __init__(
        self,
        model: SubModel,
        options: RuntimeOptions,
        fixed_batch: int | None = None,
        meter: Meter | None = None,
        share: float = 1.0,
        small: bool = False,
    ) -> None:
        self.model = model
        self.fixed_batch = fixed_batch
        self._meter, self._share = meter or Meter(), share
        self._session = _open(model, options, small)
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        if options.provider == "cuda" and CUDA not in self.providers:
            raise ProviderError(
                "provider cuda was asked for and ONNX Runtime could not load it",
                "Check the CUDA and cuDNN versions that this onnxruntime-gpu needs.",
            )
        self._device = "cuda" if CUDA in self.providers else "cpu"

    def upload(self, arrays: Arrays) -> Batch:
        """Put inputs on the device, padded to the batch that the model insists on.

        Raises:
            OutOfMemoryError: They do not fit there.
        """
        rows = len(next(iter(arrays.values())))
        with _running():
            padded = {name: pad_rows(array, self.fixed_batch) for name, array in arrays.items()}
            values = {
                name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self._device, 0)
                for name, array in padded.items()
            }
        return Batch(values, rows)

    def run(
        self,
        batch: Batch,
        extra: Arrays | None = None,
        outputs: Sequence[str] = (),
        whole: bool = False,
    ) -> list[NDArray[Any]]:
        """Compute outputs for one batch.

        Args:
            batch: Inputs on the device.
            extra: Small further inputs without a batch axis, sent with this call.
            outputs: Names of the outputs wanted; all where none is named.
            whole: Return outputs whole: their rows are not those of the batch.

        Returns:
            One array per output, with the rows that count; on the host.

        Raises:
            InferenceError: The model does not run on these inputs, or memory runs out.
        """
        names = outputs or self.model.outputs
        with _running():
            binding = self._bind(batch, extra)
            for name in names:
                binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(binding)
            computed = binding.copy_outputs_to_cpu()
        self._meter.done += self._share * batch.rows
        if whole:
            return list(computed)
        fed = max(batch.rows, self.fixed_batch or 0)
        for name, output in zip(names, computed, strict=True):
            _check_rows(name, output.shape, fed)
        return [output[: batch.rows] for output in computed]

    def leave(self, batch: Batch, extra: Arrays | None = None, into: Arrays | None = None) -> Batch:
        """Compute all outputs for one batch, and leave them on the device.

        Args:
            batch: Inputs on the device.
            extra: As for `run`.
            into: Arrays of the right shape and type that take the outputs, on the processor alone.

        Raises:
            InferenceError: The model does not run on these inputs, or memory runs out.
        """
        with _running():
            binding = self._bind(batch, extra)
            for name in self.model.outputs:
                if into:
                    value = ort.OrtValue.ortvalue_from_numpy(into[name], self._device, 0)
                    binding.bind_ortvalue_output(name, value)
                else:
                    binding.bind_output(name, self._device, 0)
            self._session.run_with_iobinding(binding)
            values = dict(zip(self.model.outputs, binding.get_outputs(), strict=True))
        self._meter.done += self._share * batch.rows
        return Batch(values, batch.rows)

    def _bind(self, batch: Batch, extra: Arrays | None) -> ort.IOBinding:
        binding = self._session.io_binding()
        for name, value in batch.values.items():
            binding.bind_ortvalue_input(name, value)
        for name, array in (extra or {}).items():
            binding.bind_cpu_input(name, array)
        return binding


def pad_rows(array: NDArray[Any], rows: int | None) -> NDArray[Any]:
    """Return an array with as many rows as a model insists on; the last one is repeated.

    Args:
        array: Values, images first.
        rows: How many; None where any will do.
    """
    missing = (rows or 0) - len(array)
    if missing <= 0:
        return array
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])


@contextmanager
def _running() -> Iterator[None]:
    """Turn ONNX Runtime's exceptions into our own; they share no public base class."""
    try:
        yield
    except Exception as error:
        if _is_out_of_memory(error):
            raise OutOfMemoryError(
                "the model does not run: memory ran out",
                "Use a smaller `batch_size` or `memory_limit`.",
            ) from error
        raise InferenceError(
            f"the model does not run: {first_line(error)}",
            "Check that it runs in ONNX Runtime on an image of its input size.",
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY)


def _check_rows(name: str, shape: tuple[int, ...], rows: int) -> None:
    if shape[:1] != (rows,):
        raise InferenceError(
            f"the tensor {name!r} has shape {shape} for {rows} images, not one row for each",
            "Name another layer, or export the model with the images along the first axis.",
        )


def loads(model: SubModel) -> bool:
    """Tell whether ONNX Runtime takes a model; nothing of it is computed, constants neither.

    Args:
        model: The model.
    """
    return _opened_only(model) is not None


def _opened_only(model: SubModel) -> ort.InferenceSession | None:
    """Open a model without computing anything; None where ONNX Runtime refuses it."""
    settings = _settings(model, 1)
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model.content, settings, providers=[CPU])
    except Exception:  # noqa: BLE001 - ONNX Runtime's exceptions share no public base class
        return None


def _settings(model: SubModel, threads: int) -> ort.SessionOptions:
    settings = ort.SessionOptions()
    settings.log_severity_level = _QUIET
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry(_AS_DEFINED_KEY, "1")
    settings.add_session_config_entry(_SPINNING_KEY, "0")
    settings.add_session_config_entry(_FOLDED_BYTES_KEY, str(_MOST_FOLDED_BYTES))
    settings.add_session_config_entry(_EXPANDED_NODES_KEY, str(DEFAULT_LIMITS.nodes))
    if model.outside > _MOST_PACKED_BYTES:
        settings.add_session_config_entry(_PACKING_KEY, "1")
    if model.folder is not None:
        settings.add_session_config_entry(_EXTERNAL_FOLDER_KEY, str(model.folder))
    return settings


@cache
def _share_memory() -> None:
    """Make the memory that sessions may share, once in a process; as large as the largest needs."""
    where = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    as_asked_for = ort.OrtArenaCfg({"arena_extend_strategy": 1})
    ort.create_and_register_allocator(where, as_asked_for)


def _open(model: SubModel, options: RuntimeOptions, small: bool) -> Any:
    settings = _settings(model, options.thread_count)
    if small:
        _share_memory()
        settings.add_session_config_entry(_SHARED_KEY, "1")
    providers = provider_list(options)
    if providers[0] != CPU:
        settings.use_deterministic_compute = True
    try:
        return ort.InferenceSession(model.content, settings, providers=providers)
    except Exception as error:
        raise InferenceError(
            f"ONNX Runtime {ort.__version__} refuses the model: {first_line(error)}",
            "Check that the model runs elsewhere; it may be damaged or need other operators.",
        ) from error


def infer_types(
    content: bytes, folder: Path | None, names: Sequence[str]
) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """Ask ONNX Runtime for types and shapes: it knows its own operators, which onnx does not.

    Nothing is run: constants are not folded either.

    Args:
        content: Serialised model.
        folder: Where external data lies; None without any.
        names: Tensors of its main graph.

    Returns:
        Element type, as "tensor(float)", and shape of each; nothing where it refuses the model.
    """
    proto = onnx.ModelProto.FromString(content)
    known = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = _opened_only(SubModel(proto.SerializeToString(), folder, (), ()))
    if session is None:  # it says why when the model is run
        return {}
    wanted = set(names)
    return {
        output.name: (
            output.type,
            tuple(size if isinstance(size, int) else None for size in output.shape),
        )
        for output in session.get_outputs()
        if output.name in wanted
    }


def run_batches(
    session: Session, arrays: Arrays, batch_size: int, outputs: Sequence[str] = ()
) -> list[NDArray[Any]]:
    """Run a session over many rows and put the outputs together.

    Where the device runs out of memory the batch is halved and the run goes on.

    Args:
        session: The session.
        arrays: Inputs with the same number of rows.
        batch_size: Rows per run, where the model takes any number.
        outputs: Names of the outputs wanted; all where none is named.

    Returns:
        One array per output.
    """
    rows = len(next(iter(arrays.values())))
    parts: list[list[NDArray[Any]]] = []
    start = 0
    while start < rows:
        size = session.fixed_batch or batch_size
        piece = {name: array[start : start + size] for name, array in arrays.items()}
        try:
            parts.append(session.run(session.upload(piece), outputs=outputs))
        except OutOfMemoryError:
            if session.fixed_batch or size == 1:
                raise
            batch_size = size // 2
            continue
        start += size
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def choose_batch_size(
    shapes: Sequence[tuple[int | None, ...]], options: RuntimeOptions, itemsize: int = 4
) -> int:
    """Choose a batch size that keeps the activations within the memory limit.

    The sum over all activations is an upper bound: ONNX Runtime reuses buffers.

    Args:
        shapes: Shapes of the activations for one image; unknown sizes count as 1.
        options: Holds the limit, or a batch size given by the caller.
        itemsize: Bytes per element.
    """
    if options.batch_size:
        return options.batch_size
    per_image = itemsize * sum(prod(size or 1 for size in shape) for shape in shapes)
    return max(1, min(options.memory_limit // max(per_image, 1), _MAX_BATCH))


# What float32 loses in a deep network; what half precision does.
_TOLERANCE = 1e-4
_HALF_TOLERANCE = 1e-2


def relative_difference(found: Sequence[NDArray[Any]], wanted: Sequence[NDArray[Any]]) -> float:
    """Return the largest difference, as a share of the largest value wanted.

    A share of the largest value of the same tensor, not of each value by itself: scores near zero
    are differences of large numbers, and untrained networks have huge or tiny ones throughout. Of
    tensors of integers (labels) it is the share of unequal elements. Of several tensors, the worst
    counts.

    Args:
        found: Tensors to judge.
        wanted: What they should be; all may be of any floating point or integer type.

    Returns:
        0 if equal, infinity where a shape differs or one is no number where the other is.
    """
    pairs = list(zip(found, wanted, strict=True))
    return max((_difference(one, other) for one, other in pairs), default=0.0)


def _difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    if not np.issubdtype(wanted.dtype, np.floating):
        return float((found != wanted).mean()) if wanted.size else 0.0
    one, other = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(other)
    if not np.array_equal(np.where(finite, 0, one), np.where(finite, 0, other), equal_nan=True):
        return float("inf")
    if not np.isfinite(one[finite]).all():
        return float("inf")
    difference = float(np.abs(one[finite] - other[finite]).max(initial=0))
    largest = float(np.abs(other[finite]).max(initial=0))
    return difference / largest if largest else difference


def tolerance_of(outputs: Sequence[NDArray[Any]]) -> float:
    """Return the largest relative difference that rounding explains, by the outputs' type."""
    half = any(array.dtype == np.float16 for array in outputs)
    return _HALF_TOLERANCE if half else _TOLERANCE
