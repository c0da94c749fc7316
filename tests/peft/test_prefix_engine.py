"""Prefixes in the engine, for every family: what is trained, decoding, packing, recompute, and their rows."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from peft_models import FAMILIES, SEED, batch, single, tiny  # noqa: E402

from zoo_core.arguments import load_arguments  # noqa: E402
from zoo_core.engine.build import from_seed  # noqa: E402
from zoo_core.engine.engine import Engine  # noqa: E402
from zoo_core.engine.optimizer import OptimizerSettings  # noqa: E402
from zoo_core.errors import ConfigError, PlanError, PluginError  # noqa: E402
from zoo_core.layout import merge, pieces, split  # noqa: E402
from zoo_core.peft import PrefixSpec, is_adapter, prefix_from_arguments, prefix_rows  # noqa: E402
from zoo_core.pipeline import PipeLayer  # noqa: E402
from zoo_core.plan import Request, compose, from_arguments  # noqa: E402
from zoo_ops import Cache, set_dropout_state  # noqa: E402

TOKENS, LENGTH, PADS = 5, 12, 3


def engine_of(family, spec, settings=None, recompute="none"):
    architecture, config = tiny(family)
    if family in ("chatglm", "glm"):  # their prompts end at a start token
        own = (
            {"bos_token_id": 302, "gmask_token_id": 301, "mask_token_id": 300}
            if family == "chatglm"
            else {"start_token_id": 302, "mask_token_ids": (300, 303, 301)}
        )
        config = config.replace(**own)
    mesh = single(architecture, config, recompute=recompute)
    return Engine(mesh, architecture, config, from_seed(SEED, config, 1, 0), settings=settings, prefix=spec)


def prompts(config):
    """Ids of two samples; where the family reads a prompt both ways, each has one."""
    ids = np.random.default_rng(4).integers(3, 290, (2, LENGTH))
    ids[:, 5], ids[:, 6] = 301, 302
    return ids


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("llama-fused", "gpt3")])
def test_decoding_behind_a_prefix_equals_one_pass(family):
    engine = engine_of(family, PrefixSpec(TOKENS))
    ids, real = prompts(engine.config), np.ones((2, LENGTH), np.int64)
    real[1, :PADS] = 0
    places = np.maximum(real.cumsum(1) - 1, 0)
    whole = engine.logits({"input_ids": ids, "attention_mask": real}).numpy()
    cache, parts = Cache(engine.config.num_hidden_layers, 2, LENGTH), []
    for start, stop in ((0, 8), (8, 9), (9, 10), (10, LENGTH)):
        fields = {"input_ids": ids[:, start:stop], "attention_mask": real[:, :stop]}
        parts.append(engine.logits({**fields, "position_ids": places[:, start:stop]}, cache).numpy())
    assert cache.length == LENGTH, "virtual tokens are no tokens"
    kept = real.astype(bool)
    np.testing.assert_allclose(np.concatenate(parts, axis=1)[kept], whole[kept], rtol=1e-5, atol=1e-5)
    alone = engine.logits({"input_ids": ids[1:, PADS:]}).numpy()
    np.testing.assert_allclose(whole[1:, PADS:], alone, rtol=1e-5, atol=1e-5)
    plain = Engine(engine.mesh, tiny(family)[0], engine.config, from_seed(SEED, engine.config, 1, 0))
    assert np.abs(plain.logits({"input_ids": ids[1:, PADS:]}).numpy() - alone).max() > 1e-4, "the prefix does nothing"


@pytest.mark.parametrize("family", ["llama", "bloom", "deepseek_v3", "chatglm2", "opt-350m"])
def test_packed_samples_equal_samples_alone(family):
    engine = engine_of(family, PrefixSpec(TOKENS))
    ids = prompts(engine.config)[:1]
    packed = {
        "input_ids": ids,
        "segment_ids": np.array([[0] * 7 + [1] * 5]),
        "position_ids": np.array([[*range(7), *range(5)]]),
    }
    found = engine.logits(packed).numpy()
    for start, stop in ((0, 7), (7, LENGTH)):
        alone = engine.logits({"input_ids": ids[:, start:stop]}).numpy()
        np.testing.assert_allclose(found[:, start:stop], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("family", "hidden"), [("llama", 0), ("llama", 24), ("deepseek_v3", 24), ("bloom", 0)])
def test_only_the_prefix_is_trained(family, hidden):
    losses = {}
    every = ("none", "full", "full_attn", "core_attn")
    for recompute in every if (family, hidden) == ("llama", 24) else every[:2]:
        set_dropout_state(SEED, 0)
        settings = OptimizerSettings(weight_decay=0.1, max_grad_norm=0.0)
        engine = engine_of(family, PrefixSpec(TOKENS, hidden), settings, recompute)
        before = {name: held.tensor.numpy().copy() for name, held in engine.held.items()}
        losses[recompute] = [engine.train_step([batch(engine.config)], 1e-2).loss for _ in range(4)]
        for name, held in engine.held.items():
            changed = not np.array_equal(held.tensor.numpy(), before[name])
            assert changed == is_adapter(name) == engine.is_trained(name), name
            assert is_adapter(name) or held.tensor.grad is None
        states = {state.name for state in engine.updater.states()}
        assert states == set(prefix_rows(engine._elements, engine.config, engine.prefix))
    assert losses["none"][-1] < losses["none"][0]
    for found in losses.values():
        np.testing.assert_allclose(found, losses["none"], rtol=1e-6)


def test_rows_split_as_the_heads_of_the_cache():
    architecture, config = tiny("llama")
    rows = prefix_rows(architecture.pipe_layers(config), config, PrefixSpec(TOKENS))
    heads, width, _ = config.cached_sizes
    assert [row.shape for row in rows.values()] == [(TOKENS, heads * width)] * 2 * config.num_hidden_layers
    row = next(iter(rows.values()))
    assert row.name == "llama.layers.0.self_attn.prefix_key"
    values = np.random.default_rng(0).standard_normal(row.shape).astype(np.float32)
    for degree in (1, 2, heads, 2 * heads):
        np.testing.assert_array_equal(merge([split(values, row, degree, rank) for rank in range(degree)], row), values)
    assert pieces(row, 2 * heads, 1)[0].copies == 2

    architecture, config = tiny("deepseek_v3")
    rows = prefix_rows(architecture.pipe_layers(config), config, PrefixSpec(TOKENS))
    assert {row.shape for row in rows.values()} == {
        (TOKENS, config.qk_rope_head_dim), (TOKENS, config.kv_lora_rank),
    }  # fmt: skip
    assert all(row.dim is None and row.partial_grad for row in rows.values())
    assert len(rows) == 2 * config.num_hidden_layers, "the layer that predicts a second token has none"


def test_values_follow_from_seed_and_name():
    architecture, config = tiny("llama")
    spec = PrefixSpec(TOKENS, 24)
    for row in prefix_rows(architecture.pipe_layers(config), config, spec).values():
        whole = from_seed(SEED, config, 1, 0)(row)
        parts = [from_seed(SEED, config, 2, rank)(row) for rank in range(2)]
        for rank, part in enumerate(parts):
            np.testing.assert_array_equal(part, split(whole, row, 2, rank))
        bound = 1.0 if row.name.endswith("embedding") else np.sqrt(row.init.std**2 * 3)
        assert abs(whole.std() - (1.0 if row.init.kind == "normal" else row.init.std)) < 0.3 * bound


def test_a_block_that_does_not_name_its_attention():
    _, config = tiny("llama")
    with pytest.raises(PluginError, match="does not name its attention"):
        prefix_rows([PipeLayer(lambda: None, "x"), PipeLayer(lambda: None, "x.0", is_block=True)], config, PrefixSpec())


def test_arguments():
    _, config = tiny("llama")

    def loaded(task, *words):
        return load_arguments(task, (), ["--model", "qwen/qwen-7b", *words])

    asked = loaded("sft", "--prefix_tuning", "true", "--num_prefix_tokens", "7", "--prefix_projection")
    assert prefix_from_arguments(asked, config, "base") == PrefixSpec(7, config.hidden_size, "base")
    assert prefix_from_arguments(loaded("sft"), config) is None
    assert prefix_from_arguments(loaded("prefix"), config) == PrefixSpec(128)
    assert from_arguments(asked, 1).virtual_tokens == 7 and from_arguments(asked, 1).task == "prefix"
    with pytest.raises(ConfigError, match="lora and prefix_tuning"):
        prefix_from_arguments(loaded("prefix", "--lora", "true"), config)
    differ = PrefixSpec(7).differences(PrefixSpec(8, 24))
    assert differ == ["num_prefix_tokens is 8 there, 7 here", "prefix_projection is of width 24 there, off here"]
    assert PrefixSpec.from_dict(PrefixSpec(7, 3, "a", "b").to_dict()) == PrefixSpec(7, 3, "a", "b")


def test_plans_leave_room_for_it():
    architecture, config = tiny("gpt3")
    room = config.max_position_embeddings
    compose(Request(sequence=room - 8, virtual_tokens=8, task="prefix"), architecture, config)
    with pytest.raises(PlanError, match="positions were learned") as caught:
        compose(Request(sequence=room - 7, virtual_tokens=8, task="prefix"), architecture, config)
    assert "behind 8 virtual ones" in caught.value.why and str(room - 8) in caught.value.todo
    with pytest.raises(PlanError) as caught:
        compose(Request(sequence=8, virtual_tokens=room, task="prefix"), architecture, config)
    assert "--num_prefix_tokens" in caught.value.todo
    with pytest.raises(PlanError, match="prefix tuning without pipeline"):
        compose(Request(world=2, pipeline=2, virtual_tokens=8), architecture, config)
    projected = {"virtual_tokens": 8, "projects_prefix": True, "task": "prefix", "world": 2, "sharding": 2}
    compose(Request(sharding_stage=1, **projected), architecture, config)
    for stage in (2, 3):
        with pytest.raises(PlanError, match="projected prefix without stages 2 and 3"):
            compose(Request(sharding_stage=stage, **projected), architecture, config)
    architecture, config = tiny("glm")  # its positions are those of the text, with a prefix too
    compose(Request(sequence=config.max_position_embeddings, virtual_tokens=8, task="prefix"), architecture, config)
