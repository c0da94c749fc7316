"""A training step on one card against AdamW and clipping written out plainly, and the state through a checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from zoo_core.checkpoint import Reader
from zoo_core.engine.build import from_seed
from zoo_core.engine.engine import Engine
from zoo_core.engine.loss_scale import LossScale
from zoo_core.engine.mesh import make_mesh
from zoo_core.engine.optimizer import OptimizerSettings
from zoo_core.engine.state import from_checkpoint, load_states, save
from zoo_core.plan import Request, compose
from zoo_core.registry import find

TINY = {"vocab_size": 37, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2,
        "intermediate_size": 24}  # fmt: skip
SETTINGS = OptimizerSettings(weight_decay=0.1, max_grad_norm=0.5, epsilon=1e-6)


def engine(source=None, accumulate=2, settings=SETTINGS, **changes):
    found = find("meta-llama/Meta-Llama-3-8B")
    config = found.config.replace(**{**TINY, **changes})
    plan = compose(Request(micro_batch=2, accumulate=accumulate), found.architecture, config)
    mesh = make_mesh(plan)
    made = source(mesh) if source else from_seed(5, config, 1, 0)
    return Engine(mesh, found.architecture, config, made, settings=settings)


def batches(step, accumulate=2, unlabelled=0):
    rng = np.random.default_rng(step)
    ids = rng.integers(0, 37, (accumulate, 2, 9))
    labels = ids[..., 1:].copy()
    labels[0, 0, :unlabelled] = -100
    return [{"input_ids": i[:, :-1], "labels": t} for i, t in zip(ids, labels, strict=True)]


def weights(made):
    return {name: held.tensor.numpy().copy() for name, held in made.held.items()}


def test_a_step_is_clipped_adamw_with_decay_of_matrices_only():
    made = engine()
    before, grads = weights(made), {}
    original = made.updater.clip._dygraph_clip

    def spy(pairs):
        grads.update({p.name: g.numpy().copy() for p, g in pairs})
        return original(pairs)

    made.updater.clip._dygraph_clip = spy
    result = made.train_step(batches(1), 1e-2)
    norm = np.sqrt(sum((g.astype("float64") ** 2).sum() for g in grads.values()))
    assert result.grad_norm == pytest.approx(norm, rel=1e-6) and norm > SETTINGS.max_grad_norm
    for name, grad in grads.items():
        g = grad.astype("float64") * SETTINGS.max_grad_norm / norm
        decay = 0.0 if "norm" in name else SETTINGS.weight_decay
        step = g / (np.abs(g) + SETTINGS.epsilon)  # after one step both moments are those of a single gradient
        expected = before[name] * (1 - 1e-2 * decay) - 1e-2 * step
        np.testing.assert_allclose(made.held[name].tensor.numpy(), expected, atol=2e-6, err_msg=name)


def test_the_loss_is_the_mean_over_labelled_tokens_of_all_micro_batches():
    made = engine()
    fields = batches(2, unlabelled=5)
    result = made.train_step(fields, 0.0)
    total, tokens, correct = made.evaluate(fields)
    assert correct == 0
    assert tokens == result.tokens == 2 * 2 * 8 - 5
    assert result.loss == pytest.approx(total / tokens, rel=1e-6)


def test_accumulation_equals_one_large_batch():
    many, one = engine(accumulate=2), engine(accumulate=1)
    parts = batches(3)
    whole = [{key: np.concatenate([part[key] for part in parts]) for key in parts[0]}]
    for _ in range(3):
        a, b = many.train_step(parts, 1e-3), one.train_step(whole, 1e-3)
        assert a.loss == pytest.approx(b.loss, rel=1e-6) and a.grad_norm == pytest.approx(b.grad_norm, rel=1e-5)


def test_a_checkpoint_brings_back_every_bit(tmp_path):
    straight = engine()
    for step in range(3):
        straight.train_step(batches(step), 1e-2)
    folder = save(straight, tmp_path, 3, state={"consumed_samples": 12})
    expected = [straight.train_step(batches(step), 1e-2) for step in range(3, 6)]
    with Reader(folder, straight.table) as reader:
        resumed = engine(lambda mesh: from_checkpoint(reader, mesh))
        load_states(resumed, reader)
        assert reader.state["consumed_samples"] == 12
    assert [resumed.train_step(batches(step), 1e-2) for step in range(3, 6)] == expected
    for name, values in weights(straight).items():
        np.testing.assert_array_equal(weights(resumed)[name], values, err_msg=name)


@pytest.mark.parametrize("recompute", ("full", "full_attn", "core_attn"))
def test_recompute_changes_no_bit(recompute):
    found = find("meta-llama/Meta-Llama-3-8B")
    config = found.config.replace(**TINY)
    results = []
    for kind in ("none", recompute):
        plan = compose(Request(micro_batch=2, accumulate=2, recompute=kind), found.architecture, config)
        made = Engine(make_mesh(plan), found.architecture, config, from_seed(5, config, 1, 0), settings=SETTINGS)
        results.append([made.train_step(batches(step), 1e-2) for step in range(3)])
    assert results[0] == results[1]


def test_the_stop_wish_comes_back():
    assert engine().train_step(batches(1), 1e-3, stop=True).stop
    assert not engine().train_step(batches(1), 1e-3).stop


def test_fp32_gradients_kept_apart_are_those_of_one_step(monkeypatch):
    """`amp_master_grad`; its wrapper wants a half-precision name, though it works on any."""
    from paddle.distributed.fleet.utils import mix_precision_utils

    wrapper = mix_precision_utils.MixPrecisionLayer
    monkeypatch.setattr(mix_precision_utils, "MixPrecisionLayer", lambda layers, dtype: wrapper(layers, "bfloat16"))
    plain, apart = engine(), engine(settings=replace(SETTINGS, master_grad=True))
    for step in range(3):
        expected, found = plain.train_step(batches(step), 1e-2), apart.train_step(batches(step), 1e-2)
        assert (found.loss, found.grad_norm) == pytest.approx((expected.loss, expected.grad_norm), rel=1e-6)


@pytest.mark.parametrize("limit", (0.5, 0.0))
def test_a_scaled_loss_changes_no_step(limit):
    settings = replace(SETTINGS, max_grad_norm=limit)
    plain, scaled = engine(settings=settings), engine(settings=replace(settings, loss_scale=1024.0))
    for step in range(3):
        expected, found = plain.train_step(batches(step), 1e-2), scaled.train_step(batches(step), 1e-2)
        assert (found.loss, found.grad_norm) == pytest.approx((expected.loss, expected.grad_norm), rel=1e-6)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_step_that_overflows_changes_nothing_but_the_scale(tmp_path):
    made = engine(settings=replace(SETTINGS, loss_scale=2.0**127))
    before = weights(made)
    result = made.train_step(batches(1), 1e-2, stop=True)
    assert not math.isfinite(result.grad_norm) and result.stop
    for name, values in weights(made).items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)
    folder = save(made, tmp_path, 1, state={})
    with Reader(folder, made.table) as reader:
        resumed = engine(lambda mesh: from_checkpoint(reader, mesh), settings=replace(SETTINGS, loss_scale=8.0))
        load_states(resumed, reader)
    assert resumed.updater.loss_scale.state() == (2.0**126, 0)


def test_the_scale_doubles_after_many_good_steps():
    scale = LossScale(8.0)
    for _ in range(1999):
        scale.update(overflowed=False)
    assert scale.state() == (8.0, 1999)
    scale.update(overflowed=False)
    assert scale.state() == (16.0, 0)


def test_a_wrong_number_of_micro_batches_is_refused():
    with pytest.raises(ValueError, match="1 micro batches for a plan that accumulates 2"):
        engine().train_step(batches(1)[:1], 1e-3)


@pytest.mark.parametrize(
    ("name", "decays"),
    [("llama.norm.weight", False), ("qwen.h.0.ln_1.weight", False), ("a.q_proj.bias", False),
     ("a.q_norm.weight", False), ("a.q_proj.weight", True),
     ("llama.embed_tokens.weight", True), ("lm_head.weight", True)],
)  # fmt: skip
def test_biases_and_norms_do_not_decay(name, decays):
    assert OptimizerSettings.decays(name) is decays
