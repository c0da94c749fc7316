"""GPTQ against its definition, solved by brute force, and against PaddleSlim's code; smoothing against its definition.

Shape legend: T tokens, I/O in and out features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zoo_core.errors import ConfigError
from zoo_core.quantize.gptq import GptqOptions, gptq, output_error
from zoo_core.quantize.smooth import smoothing
from zoo_core.quantized.pack import quantise_rtn

GOLDEN = Path(__file__).with_name("golden") / "gptq.npz"


@pytest.fixture
def layer():
    """Correlated inputs [T, I] of different sizes, and a weight [I, O]."""
    random = np.random.default_rng(3)
    x_TI = random.standard_normal((80, 24)) @ (random.standard_normal((24, 24)) / 3 + np.diag(np.linspace(3, 0.3, 24)))
    return x_TI, random.standard_normal((24, 6)).astype(np.float32)


def brute_force(weight_IO, hessian_II, options):
    """Optimal brain quantisation in a given order: after each rounding, solve for the rows that are left.

    The rows that are left are the minimum of tr(D^T H D) over all of them, found by a linear solve from the original
    weight each time: no factor of H, no blocks, no updates that build on each other.
    """
    size = len(weight_IO)
    damped_II = hessian_II + np.eye(size) * options.percdamp * np.diag(hessian_II).mean()
    group = size if options.group_size < 0 else options.group_size
    order = np.argsort(-np.diag(hessian_II), kind="stable") if options.act_order else np.arange(size)
    found_IO, scales = np.array(weight_IO, np.float64), {}
    if options.act_order:
        for number in range(-(-size // group)):
            scales[number] = weight_IO[number * group : (number + 1) * group]
    fixed: list[int] = []
    for i in order:
        free = [j for j in order if j not in fixed]
        if fixed:  # minimum over the free rows, the fixed ones as they are
            change_fO = weight_IO[fixed] - found_IO[fixed]
            moved = np.linalg.solve(damped_II[np.ix_(free, free)], damped_II[np.ix_(free, fixed)] @ change_fO)
            found_IO[free] = weight_IO[free] + moved
        number = i // group
        if number not in scales:
            scales[number] = found_IO[number * group : (number + 1) * group].copy()
        symmetric = options.symmetric
        _, scale, zero = quantise_rtn(np.asarray(scales[number], np.float32), options.bits, -1, symmetric)
        most = (1 << options.bits - 1) - 1
        shift = 0 if zero is None else zero[0].astype(float)
        q_O = np.clip(np.rint(found_IO[i] / scale[0].astype(np.float64)) + shift, -most - 1, most)
        found_IO[i] = (q_O - shift) * scale[0]
        fixed.append(i)
    return found_IO


@pytest.mark.parametrize(
    "options",
    [
        GptqOptions(),
        GptqOptions(bits=3, percdamp=0.1),
        GptqOptions(block=7),
        GptqOptions(group_size=8, block=5),
        GptqOptions(group_size=16, block=24),
        GptqOptions(act_order=True, group_size=8, block=10),
        GptqOptions(act_order=True, symmetric=False),
        GptqOptions(bits=8, group_size=8, symmetric=False, block=9),
    ],
    ids=lambda options: (
        f"{options.bits}-{options.group_size}-{options.block}{'-order' * options.act_order}"
        f"{'-zeros' * (not options.symmetric)}"
    ),
)
def test_is_optimal_brain_quantisation(layer, options):
    x_TI, weight_IO = layer
    hessian_II = x_TI.T @ x_TI
    found = gptq(weight_IO, hessian_II, options)
    np.testing.assert_allclose(found.dense(), brute_force(weight_IO, hessian_II, options), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("plain4", GptqOptions(4)),
        ("order4", GptqOptions(4, act_order=True)),
        ("plain3", GptqOptions(3)),
        ("order3", GptqOptions(3, act_order=True)),
        ("plain8", GptqOptions(8)),
        ("blocks4", GptqOptions(4, block=16)),
        ("groups4", GptqOptions(4, group_size=32, block=32)),
    ],
)
def test_equals_paddleslim(case, options):
    golden = np.load(GOLDEN)
    x_TI = golden["x"].astype(np.float64)
    found = gptq(golden["weight"], x_TI.T @ x_TI, options).dense()
    np.testing.assert_allclose(found, golden[case], rtol=1e-4, atol=1e-5)


def test_scales_of_a_group_wider_than_a_block_know_of_all_updates(layer):
    """PaddleSlim (and the code it is from) takes the scales of rows beyond the block from weights that are behind."""
    golden = np.load(GOLDEN)
    x_TI = golden["x"].astype(np.float64)
    hessian_II = x_TI.T @ x_TI
    narrow, wide = (gptq(golden["weight"], hessian_II, GptqOptions(3, 32, block=block)) for block in (24, 64))
    np.testing.assert_allclose(narrow.dense(), wide.dense(), rtol=1e-6, atol=1e-7)
    assert np.abs(golden["groups3"] - wide.dense()).max() > 1e-3


def test_makes_less_error_than_rounding_to_nearest(layer):
    x_TI, weight_IO = layer
    hessian_II = x_TI.T @ x_TI
    for bits in (3, 4, 8):
        q_IO, scale_GO, _ = quantise_rtn(weight_IO, bits)
        nearest = output_error(weight_IO, q_IO * scale_GO, hessian_II)
        found = output_error(weight_IO, gptq(weight_IO, hessian_II, GptqOptions(bits)).dense(), hessian_II)
        assert found < 0.8 * nearest
        direct = np.linalg.norm(x_TI @ (weight_IO - q_IO * scale_GO)) / np.linalg.norm(x_TI @ weight_IO)
        assert nearest == pytest.approx(direct, rel=1e-6)


def test_features_that_are_always_0_do_no_harm(layer):
    x_TI, weight_IO = layer
    x_TI = x_TI.copy()
    x_TI[:, 4] = 0
    found = gptq(weight_IO, x_TI.T @ x_TI, GptqOptions(act_order=True))
    assert np.isfinite(found.dense()).all() and not found.dense()[4].any()


def test_a_short_last_group(layer):
    x_TI, weight_IO = layer
    found = gptq(weight_IO, x_TI.T @ x_TI, GptqOptions(8, group_size=16))
    assert found.scale_GO.shape == (2, 6)
    np.testing.assert_allclose(found.dense(), weight_IO, atol=0.05)


def test_refuses_activations_that_are_no_numbers(layer):
    _, weight_IO = layer
    with pytest.raises(ConfigError, match="do not determine"):
        gptq(weight_IO, np.full((24, 24), np.nan))


def test_smoothing_is_its_definition():
    random = np.random.default_rng(0)
    absmax_I = random.uniform(0.1, 30, 8).astype(np.float32)
    weights = [random.standard_normal((8, width)).astype(np.float32) for width in (5, 3)]
    together_I = np.abs(np.concatenate(weights, axis=1)).max(axis=1)
    for alpha in (0.0, 0.3, 0.5, 1.0):
        expected = absmax_I**alpha / together_I ** (1 - alpha)
        np.testing.assert_allclose(smoothing(absmax_I, weights, alpha), expected, rtol=1e-6)
    half = smoothing(absmax_I, weights, 0.5)  # at one half, both then span the same
    np.testing.assert_allclose(absmax_I / half, together_I * half, rtol=1e-5)


def test_smoothing_leaves_idle_features_alone():
    absmax_I = np.array([0.0, 2.0, 3.0], np.float32)
    weight_IO = np.array([[1.0], [0.0], [4.0]], np.float32)
    np.testing.assert_allclose(smoothing(absmax_I, [weight_IO]), [1, 1, np.sqrt(3 / 4)], rtol=1e-6)
    with pytest.raises(ConfigError, match="alpha"):
        smoothing(absmax_I, [weight_IO], 1.5)
    with pytest.raises(ConfigError, match="not finite"):
        smoothing(np.array([np.inf, 1, 1], np.float32), [weight_IO])
