"""Sessions: every batch size gives the same scores, and what fails does so in our words."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from fixtures.graphs import build, hidden, logits
from onnx_soda._errors import InferenceError, OutOfMemoryError, ProviderError
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import Body, SubModel, Tail
from onnx_soda._model.runtime import (
    _FOLDED_BYTES_KEY,
    CPU,
    Session,
    choose_batch_size,
    cuda_device_count,
    run_batches,
)
from onnx_soda._options import RuntimeOptions

FIXTURES = Path(__file__).parents[2] / "fixtures"
ON_CPU = RuntimeOptions(provider="cpu", threads=1)
PIXELS = np.array([[i % 4, i % 3, (2 * i) % 5, 9] for i in range(9)])
WEIGHTS = "float[4,3] W = {1,0,0, 0,1,0, 0,0,1, 0,0,0}, float[3,3] A = {1,-2,3, 2,4,0, -3,6,0}"


def images(count: int) -> NDArray[np.float32]:
    return PIXELS[:count].reshape(count, 1, 2, 2).astype(np.float32)


def body_of(text: str, layer: str = "last") -> Body:
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> '
        f"g (float[N,1,2,2] x) => (float[N,3] y) <{WEIGHTS}> {{ {text} }}"
    )
    return Body(
        dissect(load_model(onnx.parser.parse_model(text).SerializeToString()), layer), ON_CPU
    )


# --- batches


@pytest.mark.parametrize("head", ["gemm", "batch_of_one", "batch_of_four"])
@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_any_number_of_images_through_any_batch(head: str, count: int) -> None:
    anatomy = dissect(load_model(build(head).SerializeToString()))
    scores, layer, _ = Body(anatomy, ON_CPU).observe(images(count))
    np.testing.assert_allclose(scores, logits(PIXELS[:count]), rtol=1e-6)
    np.testing.assert_allclose(layer, hidden(PIXELS[:count]))
    np.testing.assert_allclose(Tail(anatomy, ON_CPU).logits(layer), scores, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 9, 100])
def test_scores_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    anatomy = dissect(load_model(FIXTURES / "digits-clean.onnx"))
    pixels = np.random.default_rng(0).random((9, 3, 32, 32), dtype=np.float32)
    options = RuntimeOptions(provider="cpu", threads=1, batch_size=batch_size)
    body = Body(anatomy, options)
    assert body.batch_size == batch_size
    np.testing.assert_allclose(body.logits(pixels), Body(anatomy, ON_CPU).logits(pixels), atol=1e-4)


@pytest.mark.parametrize(
    ("limit", "size"),
    [
        (2**40, 128),  # larger batches gain nothing
        (40 * 4 * 111, 40),  # 111 values of 4 bytes per image
        (40 * 4 * 111 - 1, 39),
        (1, 1),  # one image must pass, whatever it takes
    ],
)
def test_the_batch_keeps_within_the_memory_limit(limit: int, size: int) -> None:
    shapes = [(1, 10), (1, 100, None), (1, None)]
    assert choose_batch_size(shapes, RuntimeOptions(memory_limit=limit)) == size
    assert choose_batch_size(shapes, RuntimeOptions(memory_limit=limit, batch_size=300)) == 300


def test_sizes_that_overflow_leave_one_image() -> None:
    assert choose_batch_size([(1, 2**40, 2**40)], RuntimeOptions()) == 1


# --- memory

# Tile makes 16 MiB of each image. The address space is limited once the session is warm.
RUN_OUT = """
    import resource, sys
    import numpy as np, onnx.parser
    from onnx_soda._model.anatomy import dissect
    from onnx_soda._model.parts import Body
    from onnx_soda._model.load import load_model
    from onnx_soda._options import RuntimeOptions

    many, batch, images = sys.argv[1:]
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,1,2,2] x) => (float[N,3] y) '
        f"<int64[4] many = {{1, 1, {many}, 1024}}, float[1,1,1,1] K = {{1}}, "
        "float[1,3] A = {1, 2, 3}> "
        "{ t = Tile(x, many) c = Conv(t, K) p = GlobalMaxPool(c) h = Flatten(p) y = MatMul(h, A) }"
    )
    options = RuntimeOptions("cpu", 1, batch_size=int(batch))
    body = Body(dissect(load_model(model.SerializeToString())), options)
    pixels = np.arange(int(images), dtype=np.float32).repeat(4).reshape(-1, 1, 2, 2)
    if many == "1024":
        body.logits(pixels[:1])
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
    print(body.logits(pixels)[:, 2].astype(int).tolist())
"""


def run_out(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(RUN_OUT)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.mark.skipif(sys.platform != "linux", reason="limits its address space as Linux does")
def test_where_memory_runs_out_the_batch_is_halved() -> None:
    """32 images at once take over 512 MiB, of 300 that are left."""
    done = run_out("1024", "32", "32")
    assert done.stdout == f"{[3 * i for i in range(32)]}\n", done.stderr[-500:]


@pytest.mark.skipif(sys.platform != "linux", reason="limits its address space as Linux does")
def test_where_one_image_is_too_large_the_error_says_so() -> None:
    done = run_out("65536", "2", "2")
    assert done.returncode == 1
    assert "OutOfMemoryError: the model does not run: memory ran out" in done.stderr


class SmallDevice:
    """Takes two rows at a time, as a device with little memory does."""

    def __init__(self, fixed_batch: int | None = None, room: int = 2) -> None:
        self.fixed_batch, self.room = fixed_batch, room
        self.sizes: list[int] = []

    def upload(self, arrays: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        return arrays["x"]

    def run(
        self, batch: NDArray[np.float32], outputs: tuple[str, ...]
    ) -> list[NDArray[np.float32]]:
        del outputs
        self.sizes.append(len(batch))
        if len(batch) > self.room:
            raise OutOfMemoryError("memory ran out")
        return [batch * 2]


def test_a_batch_that_was_too_large_is_not_tried_again() -> None:
    device = SmallDevice()
    (doubled,) = run_batches(device, {"x": np.arange(7.0)}, 9)
    assert device.sizes == [7, 4, 2, 2, 2, 1]
    np.testing.assert_array_equal(doubled, 2 * np.arange(7.0))


@pytest.mark.parametrize("device", [SmallDevice(fixed_batch=4), SmallDevice(room=0)])
def test_where_no_smaller_batch_is_possible_the_error_stands(device: SmallDevice) -> None:
    with pytest.raises(OutOfMemoryError):
        run_batches(device, {"x": np.arange(7.0)}, 4)


# --- what does not run


def test_a_model_that_onnx_runtime_refuses() -> None:
    with pytest.raises(InferenceError, match=r"refuses the model: .*NoSuchThing") as caught:
        body_of("f = Flatten(x)  m = MatMul(f, W)  h = com.microsoft.NoSuchThing(m)  "
                "y = MatMul(h, A)")  # fmt: skip
    assert caught.value.advice


def test_images_of_another_size() -> None:
    body = body_of("f = Flatten(x)  m = MatMul(f, W)  h = Relu(m)  y = MatMul(h, A)")
    with pytest.raises(InferenceError, match="the model does not run") as caught:
        body.logits(np.zeros((2, 1, 3, 3), np.float32))
    assert caught.value.advice


def test_a_layer_that_has_no_row_for_each_image() -> None:
    body = body_of(
        "f = Flatten(x)  m = MatMul(f, W)  r = Relu(m)  t = Transpose<perm = [1, 0]>(r)  "
        "b = Relu(t)  h = Transpose<perm = [1, 0]>(b)  y = MatMul(h, A)",
        layer="b",
    )
    with pytest.raises(InferenceError, match=r"'b' has shape \(3, 5\) for 5 images"):
        body.observe(images(5))


def test_logits_that_are_no_numbers() -> None:
    """A wrong preprocessing may overflow the model; observing it is an error, trying is not."""
    body = body_of("f = Flatten(x)  m = MatMul(f, W)  h = Exp(m)  y = MatMul(h, A)")
    pixels = np.array([1.0, 1000.0], np.float32).repeat(4).reshape(2, 1, 2, 2)
    assert np.isfinite(body.logits(pixels)).all(axis=1).tolist() == [True, False]
    with pytest.raises(InferenceError, match="the logits of 1 of 2 images are not numbers"):
        body.observe(pixels)


# --- providers


@pytest.mark.skipif(cuda_device_count() > 0, reason="this machine has a CUDA device")
def test_cuda_is_an_error_where_there_is_none() -> None:
    anatomy = dissect(load_model(build("gemm").SerializeToString()))
    with pytest.raises(ProviderError, match="provider cuda was asked for") as caught:
        Body(anatomy, RuntimeOptions(provider="cuda"))
    assert "`provider=cpu`" in caught.value.advice


@pytest.mark.skipif(cuda_device_count() > 0, reason="this machine has a CUDA device")
def test_auto_falls_back_to_the_processor_and_says_so() -> None:
    anatomy = dissect(load_model(build("gemm").SerializeToString()))
    body = Body(anatomy, RuntimeOptions(provider="auto"))
    assert body.providers == (CPU,)
    np.testing.assert_allclose(body.logits(images(4)), logits(PIXELS[:4]), rtol=1e-6)


def test_quantized_activations_are_rounded_as_defined() -> None:
    anatomy = dissect(load_model(build("qdq").SerializeToString()))
    pixels = np.array([[0.2, 1.7, 2.4, 0], [3.6, 0.4, 0, 0]], np.float32)
    scores, layer, _ = Body(anatomy, ON_CPU).observe(pixels.reshape(2, 1, 2, 2))
    np.testing.assert_array_equal(layer, [[0, 2, 2], [4, 0, 0]])
    np.testing.assert_array_equal(scores, logits(np.array([[0, 2, 2, 0], [4, 0, 0, 0]])))


def test_quantized_weights_do_not_quantize_the_activations() -> None:
    """Left alone, ONNX Runtime computes this in 8 bits: the scores are then off by over 0.1 %."""
    anatomy = dissect(load_model(build("weight_dequantized").SerializeToString()))
    pixels = np.random.default_rng(0).random((8, 4))
    scores = Body(anatomy, ON_CPU).logits(pixels.reshape(8, 1, 2, 2).astype(np.float32))
    np.testing.assert_allclose(scores, logits(pixels), rtol=1e-5)


def test_a_session_names_the_outputs_that_it_gives() -> None:
    session = Session(SubModel(build("gemm").SerializeToString(), None, ("x",), ("y",)), ON_CPU)
    batch = session.upload({"x": images(2)})
    (all_of_them,), (named,) = session.run(batch), session.run(batch, outputs=("y",))
    np.testing.assert_array_equal(all_of_them, named)


def test_onnx_runtime_bounds_what_it_computes_while_it_loads(tmp_path: Path) -> None:
    """The key is known to the installed version: with a small value, the constant is kept."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) '
        "<int64[2] s = {1000,4}> "
        "{ k = ConstantOfShape(s)  m = ReduceMax<axes = [0]>(k)  y = Add(x, m) }"
    )
    kept = {}
    for most in (2**20, 64):
        settings = ort.SessionOptions()
        settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        settings.add_session_config_entry(_FOLDED_BYTES_KEY, str(most))
        ort.InferenceSession(model.SerializeToString(), settings, providers=[CPU])
        optimised = onnx.load(tmp_path / "optimised.onnx")
        kept[most] = [node.op_type for node in optimised.graph.node]
    assert kept == {2**20: ["Add"], 64: ["ConstantOfShape", "ReduceMax", "Add"]}
