"""Rotary frequencies against Hugging Face's, rotations against complex numbers."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from zoo_ops.cpu.elementwise import rope_cpu
from zoo_ops.rope import apply_rope, apply_rope_reference, inverse_frequencies, logn_scale, rope_angles
from zoo_ops.rope_scaling import RopeScaling

GOLDEN = json.loads((Path(__file__).parent / "golden" / "rope.json").read_text())


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_angles_are_hugging_faces(name):
    case = GOLDEN["cases"][name]
    scaling = RopeScaling.from_hf(case.get("scaling"))
    inverse, _ = inverse_frequencies(case["dim"], case["theta"], scaling, case["max"], case["seq_len"])
    assert inverse.dtype == np.float32
    np.testing.assert_allclose(inverse, np.array(case["inverse"], np.float32), rtol=3e-7)

    positions = paddle.to_tensor([GOLDEN["positions"]])
    if scaling.kind == "dynamic":
        cos, sin = rope_angles(None, max(case["seq_len"], 8192), case["dim"], case["theta"], scaling, case["max"])
        assert cos.shape == [1, 8192, case["dim"]]
        return
    cos, sin = rope_angles(positions, 0, case["dim"], case["theta"], scaling, case["max"])
    half = case["dim"] // 2
    # one unit in the last place of a frequency times the position is what two correct implementations may differ by
    bound = 1e-6 + 2.5e-7 * np.abs(np.array(GOLDEN["positions"])[:, None] * np.array(case["inverse"]))
    for got, key in ((cos, "cos"), (sin, "sin")):
        assert (np.abs(got.numpy()[0, :, :half] - np.array(case[key])) <= bound).all()
        np.testing.assert_array_equal(got.numpy()[..., :half], got.numpy()[..., half:])


def test_dynamic_follows_the_largest_position():
    scaling = RopeScaling("dynamic", 2.0)
    positions = paddle.to_tensor([[3, 4, 39]])
    with_positions = rope_angles(positions, 3, 8, 1e4, scaling, 16)[0]
    without = rope_angles(None, 40, 8, 1e4, scaling, 16)[0]
    np.testing.assert_array_equal(with_positions.numpy()[0], without.numpy()[0][[3, 4, 39]])
    plain = rope_angles(None, 40, 8, 1e4, None, 16)[0]
    assert abs(plain - without).max() > 0.1


def test_past_continues_the_positions_and_base_scale_stretches():
    whole = rope_angles(None, 9, 8)
    tail = rope_angles(None, 9, 8, past=5)
    for a, b in zip(whole, tail, strict=True):
        np.testing.assert_array_equal(a.numpy()[:, 5:], b.numpy())
    scaled = rope_angles(None, 9, 8, 1e4, base_scale=3.0)[0]
    np.testing.assert_allclose(scaled.numpy(), rope_angles(None, 9, 8, 1e4 * 3 ** (8 / 6))[0].numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "heads,dim,rotary,interleaved", [(3, 6, None, False), (5, 10, 4, False), (2, 8, 4, True), (1, 64, None, True)]
)
@pytest.mark.parametrize("own_positions", [False, True])
def test_rotation_is_a_complex_product(heads, dim, rotary, interleaved, own_positions):
    paddle.seed(1)
    x, weight = paddle.randn([2, 7, heads, dim]), paddle.randn([2, 7, heads, dim])
    width = rotary or dim
    positions = paddle.to_tensor([[5, 6, 7, 8, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6]]) if own_positions else None
    cos, sin = rope_angles(positions, 7, width, 100.0)

    wide = x.numpy().astype(np.float64)
    half = width // 2
    first, second = (
        (wide[..., 0:width:2], wide[..., 1:width:2]) if interleaved else (wide[..., :half], wide[..., half:width])
    )
    turned = (first + 1j * second) * (cos.numpy() + 1j * sin.numpy())[..., None, :half]
    expected = wide.copy()
    if interleaved:
        expected[..., 0:width:2], expected[..., 1:width:2] = turned.real, turned.imag
    else:
        expected[..., :half], expected[..., half:width] = turned.real, turned.imag

    def fast(x, cos, sin, rotary_dim, interleaved):
        return rope_cpu(x, cos, sin, rotary_dim or x.shape[-1], interleaved)

    grads = []
    for function in (apply_rope, apply_rope_reference, fast):
        leaf = x.clone().detach()
        leaf.stop_gradient = False
        out = function(leaf, cos, sin, rotary_dim=rotary, interleaved=interleaved)
        (out * weight).sum().backward()
        np.testing.assert_allclose(out.numpy(), expected, atol=1e-6)
        grads.append(leaf.grad.numpy())
    for grad in grads[1:]:
        np.testing.assert_allclose(grad, grads[0], atol=1e-6)


def test_scores_depend_on_distance_only():
    q, k = paddle.randn([1, 1, 1, 16]), paddle.randn([1, 1, 1, 16])

    def score(i, j):
        at = [rope_angles(paddle.to_tensor([[p]]), 0, 16) for p in (i, j)]
        return float((apply_rope(q, *at[0]) * apply_rope(k, *at[1])).sum())

    assert score(3, 1) == pytest.approx(score(103, 101), abs=1e-5)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-3)


def test_logn_scale():
    scale = logn_scale(None, 4, past=2, query_len=6)
    expected = [max(1.0, np.log(i + 1) / np.log(4)) for i in range(2, 8)]
    assert scale.shape == [1, 6, 1, 1]
    np.testing.assert_allclose(scale.numpy().ravel(), expected, rtol=1e-6)
    by_position = logn_scale(paddle.to_tensor([[7, 0]]), 4)
    np.testing.assert_allclose(by_position.numpy().ravel(), [np.log(8) / np.log(4), 1], rtol=1e-6)
    with pytest.raises(ValueError, match="query_len"):
        logn_scale(None, 4)


@pytest.mark.parametrize(
    "hf",
    [
        None,
        {"type": "linear", "factor": 4.0},
        {"type": "dynamic", "factor": 2.0},
        GOLDEN["cases"]["llama3"]["scaling"],
        {**GOLDEN["cases"]["yarn_deepseek"]["scaling"], "type": "yarn"},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "truncate": False},
    ],
)
def test_scaling_reads_and_writes_hugging_face(hf):
    scaling = RopeScaling.from_hf(hf)
    assert hash(scaling) == hash(RopeScaling.from_hf(scaling.to_hf()))
    assert scaling == RopeScaling.from_hf(scaling.to_hf())
    written = scaling.to_hf()
    assert (written is None) == (hf is None)
    if hf is not None:
        assert hf.items() <= {**written, "type": written.get("type", written.get("rope_type"))}.items()


def test_scaling_refuses_what_it_does_not_know():
    assert RopeScaling.from_hf({"rope_type": "default", "rope_theta": 1e4}) == RopeScaling()
    with pytest.raises(ValueError, match="longrope"):
        RopeScaling.from_hf({"rope_type": "longrope", "factor": 2.0})
    with pytest.raises(ValueError, match="no 'factor'"):
        RopeScaling.from_hf({"type": "linear"})
