"""What is no classifier is refused, with what it seems to be; classifiers of odd shapes are not."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest

from onnx_soda._errors import NotAClassifierError
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import OnnxModel, load_model

IMAGE = "float[N,1,4,6] x"
# 4 x 6 pixels to two channels at as many places; to 3 scores.
K2 = "float[2,1,1,1] K = {1,2}"
K3 = "float[3,2,1,1] L = {1,2,3,4,5,6}"
B = "float[2,3] B = {1,2,3,4,5,6}"
POOLED = "c = Conv(x, K)  r = Relu(c)  g = GlobalAveragePool(r)"


def model_of(
    body: str, outputs: str = "float y", weights: str = "", image: str = IMAGE
) -> OnnxModel:
    stored = ", ".join([K2, K3, B, *([weights] if weights else [])])
    text = (
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        f"g ({image}) => ({outputs}) <{stored}> {{ {body} }}"
    )
    return load_model(onnx.parser.parse_model(text).SerializeToString())


def refused(body: str, kind: str, *more: str) -> None:
    with pytest.raises(NotAClassifierError, match="is not one score per class") as caught:
        dissect(model_of(body, *more))
    assert kind in caught.value.message
    assert "logits" in caught.value.advice


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        # A class for each pixel, as scores and as their largest.
        ("c = Conv(x, K)  r = Relu(c)  y = Conv(r, L)", "segmenter"),
        ("c = Conv(x, K)  r = Relu(c)  s = Conv(r, L)  y = ArgMax<axis = 1>(s)", "segmenter"),
        # One number for each of 6 columns: the mean over rows and channels is no class.
        (
            "c = Conv(x, K)  r = Relu(c)  y = ReduceMean<axes = [1, 2], keepdims = 0>(r)",
            "step by step",
        ),
        ("c = Conv(x, K)  r = Relu(c)  y = ReduceMean<axes = [1, 2], keepdims = 1>(r)", "place"),
        # 48 features: as many as there are places and channels.
        ("c = Conv(x, K)  r = Relu(c)  y = Flatten(r)", "features"),
    ],
)
def test_places_and_steps_are_no_classes(body: str, kind: str) -> None:
    refused(body, kind)


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 1, 2]])
def test_scores_for_each_step_in_time_are_no_classes(order: list[int]) -> None:
    """A reader of text lines: 6 columns, 3 letters, as (T, N, C) and as (N, T, C)."""
    refused(
        "c = Conv(x, K)  m = ReduceMean<axes = [2], keepdims = 0>(c)  "
        "t = Transpose<perm = [0, 2, 1]>(m)  s = MatMul(t, B)  r = Softmax(s)  "
        f"y = Transpose<perm = {order}>(r)",
        "sequence model",
    )


def test_a_recurrent_network_is_a_sequence_model() -> None:
    refused(
        "c = Conv(x, K)  m = ReduceMean<axes = [2], keepdims = 0>(c)  "
        "t = Transpose<perm = [2, 0, 1]>(m)  h, l = GRU<hidden_size = 2>(t, I, R)  "
        "s = Squeeze(h, one)  y = MatMul(s, B)",
        "a sequence model",
        "float y",
        "float[1,6,2] I = {1,0,0,1,1,1,1,0,0,1,1,1}, float[1,6,2] R = {1,0,0,1,1,1,1,0,0,1,1,1}, "
        "int64[1] one = {1}",
    )


def test_what_is_kept_of_regions_is_a_detector() -> None:
    """Boxes and scores go through non-maximum suppression; rows are detections."""
    refused(
        f"{POOLED}  f = Flatten(g)  s = MatMul(f, B)  t = Unsqueeze(s, one)  "
        "k = NonMaxSuppression(boxes, t)  n = Cast<to = 1>(k)  m = Mul(n, two)  y = Identity(m)",
        "a detector",
        "float y",
        "float[1,3,4] boxes = {0,0,1,1, 0,0,2,2, 0,0,3,3}, int64[1] one = {1}, float two = {2}",
    )


def test_scores_of_boxes_are_a_detector_s() -> None:
    """5 boxes with a score each, (N, 5) beside (N, 5, 4)."""
    refused(
        f"{POOLED}  f = Flatten(g)  scores = MatMul(f, S)  c4 = MatMul(f, C)  "
        "boxes = Reshape(c4, to)",
        "a detector",
        "float scores, float boxes",
        f"float[2,5] S = {{{','.join('1' * 10)}}}, float[2,20] C = {{{','.join('1' * 40)}}}, "
        "int64[3] to = {0,5,4}",
    )


def test_a_grid_of_cells_written_out_by_one_layer_is_no_row_of_classes() -> None:
    """As the first YOLO: a dense layer gives 12 numbers, which are 3 x 2 x 2."""
    refused(
        f"{POOLED}  f = Flatten(g)  m = MatMul(f, S)  y = Reshape(m, to)",
        "place by place",
        "float y",
        f"float[2,12] S = {{{','.join('1' * 24)}}}, int64[4] to = {{0,3,2,2}}",
    )


@pytest.mark.parametrize(
    ("tail", "output"),
    [
        ("y = LpNormalization<axis = 1>(m)", "float y"),
        ("l = ReduceL2<axes = [1]>(m)  k = Clip(l, tiny)  e = Expand(k, to)  y = Div(m, e)",
         "float y"),
        ("q = Mul(m, m)  l = ReduceSum(q, one)  s = Sqrt(l)  y = Div(m, s)", "float y"),
        ("image_embeds = Identity(m)", "float image_embeds"),
    ],
)  # fmt: skip
def test_embeddings_are_refused(tail: str, output: str) -> None:
    refused(
        f"{POOLED}  f = Flatten(g)  m = MatMul(f, B)  {tail}",
        "an embedding",
        output,
        "float tiny = {0.001}, int64[2] to = {1,3}, int64[1] one = {1}",
    )


# A dense autoencoder of 8 x 8 pixels, but for its end.
SQUARE = "float[N,1,8,8] x"
NARROW = f"float[64,2] E = {{{','.join('1' * 128)}}}, float[2,64] D = {{{','.join('1' * 128)}}}"
CODED = "f = Flatten(x)  m = MatMul(f, E)  h = Relu(m)"


@pytest.mark.parametrize("tail", ["y = MatMul(h, D)", "d = MatMul(h, D)  y = Sigmoid(d)"])
def test_as_many_numbers_as_pixels_are_an_image(tail: str) -> None:
    refused(f"{CODED}  {tail}", "an autoencoder", "float y", NARROW, SQUARE)


@pytest.mark.parametrize("tail", ["y = Softmax(d)", "y = ArgMax<axis = 1>(d)"])
def test_as_many_classes_as_pixels_are_classes(tail: str) -> None:
    model = model_of(f"{CODED}  d = MatMul(h, D)  {tail}", "float y", NARROW, SQUARE)
    assert dissect(model).logits.classes == 64


@pytest.mark.parametrize("image", ["int64[N,16] ids", "int32[N,16] ids, int32[N,16] mask"])
def test_a_model_of_text_is_told_as_one(image: str) -> None:
    mask = "  m = Cast<to = 1>(mask)  y = Mul(c, m)" if "mask" in image else "  y = Relu(c)"
    with pytest.raises(NotAClassifierError, match="it seems to be a text model") as caught:
        dissect(model_of(f"c = Cast<to = 1>(ids){mask}", image=image))
    assert "one label per image" in caught.value.advice


ODD = [
    # (N, C, 1, 1), from a fully convolutional network.
    (f"{POOLED}  y = Conv(g, L)", "float y"),
    # Pooled over all places by a kernel as large as the map.
    ("c = Conv(x, K)  r = Relu(c)  s = Conv(r, L)  "
     "p = AveragePool<kernel_shape = [4, 6], strides = [4, 6]>(s)  y = Flatten(p)", "float y"),
    # The same with a stride of 1, and a temperature behind it.
    ("c = Conv(x, K)  r = Relu(c)  s = Conv(r, L)  p = AveragePool<kernel_shape = [4, 6]>(s)  "
     "f = Flatten(p)  y = Div(f, two)", "float y"),
    # (N, 1, C).
    (f"{POOLED}  f = Flatten(g)  m = MatMul(f, B)  y = Unsqueeze(m, one)", "float y"),
    # Scores beside a map of where each class is seen, and beside one box.
    ("c = Conv(x, K)  r = Relu(c)  maps = Conv(r, L)  g = GlobalAveragePool(maps)  y = Flatten(g)",
     "float y, float maps"),
    (f"{POOLED}  f = Flatten(g)  box = MatMul(f, C)  y = MatMul(f, B)", "float box, float y"),
    # The label alone; a softmax; an embedding beside the scores.
    (f"{POOLED}  f = Flatten(g)  m = MatMul(f, B)  y = ArgMax<axis = 1, keepdims = 0>(m)",
     "int64 y"),
    (f"{POOLED}  f = Flatten(g)  m = MatMul(f, B)  features = Softmax(m)", "float features"),
    (f"{POOLED}  embedding = Flatten(g)  y = MatMul(embedding, B)", "float embedding, float y"),
    # Features of length 1 before the scores: cosines to each class.
    (f"{POOLED}  f = Flatten(g)  l = ReduceL2<axes = [1]>(f)  d = Div(f, l)  y = MatMul(d, B)",
     "float y"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "outputs"), ODD)
@pytest.mark.parametrize("image", [IMAGE, "float[1,1,4,6] x", "float[5,1,4,6] x"])
def test_classifiers_of_odd_shapes_are_accepted(body: str, outputs: str, image: str) -> None:
    weights = "float two = {2}, int64[1] one = {1}, float[2,4] C = {1,2,3,4,5,6,7,8}"
    found = dissect(model_of(body, outputs, weights, image)).logits
    assert found.classes == 3


def test_an_image_of_any_size_is_no_obstacle() -> None:
    body = f"{POOLED}  y = Conv(g, L)"
    assert dissect(model_of(body, image="float[N,1,H,W] x")).logits.classes == 3


def test_scores_that_are_named_are_taken() -> None:
    """What was refused by its name or its size can be named, where the user knows better."""
    body = f"{POOLED}  f = Flatten(g)  embedding = MatMul(f, B)"
    found = dissect(model_of(body, "float embedding"), logits="embedding")
    assert found.logits.classes == 3
