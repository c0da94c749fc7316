"""Predicted sizes against the table written out, and the published runs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest

from zoo_core import layout
from zoo_core.arguments import load_arguments
from zoo_core.cli._tuned import tuned_of
from zoo_core.errors import ConfigError
from zoo_core.known import KNOWN
from zoo_core.plan import Request, compose, owners, share
from zoo_core.plan.counts import compact_table, counted
from zoo_core.plan.hardware import hardware, hardware_names
from zoo_core.plan.memory import owned_elements, predict_memory, stage_elements
from zoo_core.plan.precision import Keeping, Numbers, keeping_of
from zoo_core.plan.published import PUBLISHED, predicted
from zoo_core.plan.throughput import flops_of_token, predict_speed
from zoo_core.quantization import QuantSpec
from zoo_core.registry import registry

HALF = Numbers("bfloat16", "bfloat16", master=True)
NAMES = sorted({name for _, entry in registry().models for name in [entry.name]})


def model(name, scale=None):
    found = registry().find(name)
    config = found.config.replace(**found.architecture.capabilities.scales[scale]) if scale else found.config
    return found.architecture, config, counted(found.architecture, config)


@pytest.mark.parametrize(
    "spec", [QuantSpec("gptq", 4, 16, act_order=True), QuantSpec("w8a8", smooth=True)], ids=("gptq", "w8a8")
)
@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("facebook/llama-7b", Request(task="lora", lora=True)),
        ("facebook/llama-7b", Request(world=4, tensor=2, pipeline=2, task="lora", lora=True)),
        ("deepseek-ai/DeepSeek-V3", Request(task="lora", lora=True)),
        ("deepseek-ai/DeepSeek-V3", Request(world=2, sharding=2, sharding_stage=1, expert=2, task="lora", lora=True)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"tp{value.tensor}-pp{value.pipeline}-ep{value.expert}",
)
def test_integers_are_counted_as_their_rows_say(name, request_, spec):
    architecture, config, _ = model(name, "tiny")
    config = config.replace(quantization_config=spec, intermediate_size=192)
    counts = counted(architecture, config)
    plan = compose(request_, architecture, config, name)
    table = architecture.table(config)
    owned = owners(table, plan.layers, plan.blocks)
    wanted = [0] * plan.pipeline
    sizes = {"int8": 1, "uint8": 1, "int32": 4, "float32": 4, "": 4}
    for row_name, row in table.items():
        if row.single == row_name and (row.expert is None or row.expert % plan.expert == 0):
            stage = plan.stage_of(owned[row_name])
            wanted[stage] += prod(layout.local_shape(row, plan.tensor)) * sizes[row.dtype]
    found = predict_memory(plan, counts, Numbers(), Keeping())
    assert [stage.weights for stage in found] == wanted
    floats = predict_memory(plan, counted(architecture, config.replace(quantization_config=None)), Numbers(), Keeping())
    assert sum(one.weights for one in found) < 0.8 * sum(one.weights for one in floats)


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.model)
def test_published_runs(row):
    made, memory, speed = predicted(row)
    assert abs(memory) < 0.05 and abs(speed) < 0.10
    assert made.speed.mfu == pytest.approx(0.555, abs=0.01)


def test_no_more_than_two_rows_were_fitted():
    required = ("facebook/llama-7b", "facebook/llama-13b", "qwen/qwen-7b", "baichuan-inc/Baichuan2-7B-Base")
    assert [row.model for row in PUBLISHED[:4]] == list(required)
    assert sum(row.fitted for row in PUBLISHED) == 2


@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts_are_those_of_the_rows(name):
    """The true number: the shapes of every weight name of the full table, a tied one once."""
    architecture, config, counts = model(name)
    full = architecture.parameter_count(config)
    assert counts.parameters == full
    if full < 2e11:
        table = architecture.table(config)
        assert full == sum(prod(r.shape) for n, r in table.items() if not r.buffer and r.single == n)


def published():
    """For each model, the elements of all tensors of its published files, from the shapes kept beside the plugins."""
    found = {}
    for path in (Path(__file__).parents[2] / "plugins").glob("*/tests/published/*.json"):
        for entry in json.loads(path.read_text(encoding="utf-8")):
            total = 0
            for name, shape in entry["tensors"].items():
                runs = re.findall(r"\{(\d+)-(\d+)\}", name)
                total += prod(shape) * prod(int(last) - int(first) + 1 for first, last in runs)
            found |= dict.fromkeys(entry["models"], total)
    return found


def test_parameter_counts_are_those_of_the_published_files():
    """A file may also hold what is no parameter of its own: copies of a tied one, and buffers."""
    totals = published()
    assert len(totals) > 90
    for name, total in totals.items():
        architecture, config, counts = model(name)
        more = [e for e in counts.entries if e.rule.buffer or e.rule.single != e.name]
        beside = sum(prod(e.rule.shape) * e.times for e in more)
        assert total in (counts.parameters, counts.parameters + beside), name


def test_every_known_family_is_counted():
    assert {family.family for family in KNOWN} <= {architecture.family for architecture, _ in registry().models}


PLANS = [
    {"world": 4, "tensor": 2, "pipeline": 2, "accumulate": 2},
    {"world": 8, "tensor": 2, "pipeline": 4, "accumulate": 8},
    {"world": 8, "pipeline": 4, "accumulate": 8, "sharding_stage": 1},
    {"world": 8, "tensor": 4, "sharding_stage": 2},
    {"world": 4, "sharding_stage": 3},
]


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen2.5-1.5B", "bigscience/bloom-560m", "deepseek-ai/DeepSeek-V3", "THUDM/chatglm2-6b"]
)
@pytest.mark.parametrize("asked", [*PLANS, {"world": 8, "expert": 4, "tensor": 2}], ids=str)
def test_elements_of_a_stage_are_exact(name, asked):
    """Against the shares, which walk over every name."""
    if asked.get("expert") and "DeepSeek" not in name:
        asked = {**asked, "expert": 1}
    architecture, config, counts = model(name, "small")
    table = architecture.table(config)
    plan = compose(Request(**asked), architecture, config)
    for part in share(plan, table):
        assert sum(stage_elements(plan, counts, part.stage)) == part.local_elements


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_states_are_given_away_as_fleet_does(stage):
    """Fleet's loop, as it is written: a parameter goes to the first rank of those that have least."""
    architecture, config, counts = model("qwen/qwen-7b", "small")
    plan = compose(Request(world=8, tensor=2, sharding_stage=stage), architecture, config)
    table = architecture.table(config)
    layer_of = owners(table, plan.layers, plan.blocks)
    local = [prod(layout.local_shape(table[name], 2)) for name in sorted(table, key=layer_of.__getitem__)]
    if stage == 3:
        # of float32 on CPU, 1024 elements are the 4096 bytes of which every parameter is made a multiple
        expected = [sum(n if n <= 1024 else -(-n // 1024) * 1024 // 4 for n in local)] * 4
    else:
        expected = [0] * 4
        for size in sorted(local, reverse=True) if stage == 1 else local:
            expected[expected.index(min(expected))] += size
        assert sum(expected) == sum(local)
    assert owned_elements(plan, counts, 0) == tuple(expected)


def test_bytes_of_states_follow_from_elements():
    architecture, config, counts = model("facebook/llama-7b")
    plan = compose(Request(world=8, tensor=2, sharding_stage=1, sequence=4096), architecture, config)
    (stage,) = predict_memory(plan, counts, HALF, Keeping())
    local = share(plan, architecture.table(config))[0].local_elements
    owned = max(owned_elements(plan, counts, 0))
    assert (stage.weights, stage.gradients, stage.optimizer) == (2 * local, 2 * local, 12 * owned)
    (stage,) = predict_memory(plan, counts, Numbers(), Keeping())
    assert (stage.weights, stage.gradients, stage.optimizer) == (4 * local, 4 * local, 8 * owned)
    (stage,) = predict_memory(plan, counts, Numbers("bfloat16", "bfloat16", True, True), Keeping())
    assert stage.gradients == 4 * local


def llama_activations(**asked):
    """Bytes of activations of Llama-7b at 2048 tokens, half precision, on one rank of each stage."""
    architecture, config, counts = model("facebook/llama-7b")
    plan = compose(Request(**{"sequence": 2048, **asked}), architecture, config)
    return [stage.activations for stage in predict_memory(plan, counts, HALF, Keeping())]


def test_activations_of_a_block_by_hand():
    """What a Llama block keeps: two norm inputs and two norm outputs, q, k, v and attention's, gate, up, product."""
    tokens, hidden, ffn, heads = 2048, 4096, 11008, 32
    block = tokens * (2 * (4 * hidden + 4 * hidden + 3 * ffn) + 4 * heads)
    ends = tokens * 2 * 2 * hidden  # the last norm's input, and its output, which the head reads
    assert llama_activations() == [32 * block + ends]
    assert llama_activations(recompute="full") == [32 * tokens * 2 * hidden + ends + block]
    split = tokens * (2 * (2 * hidden + 2 * hidden / 2 + 2 * hidden + 3 * ffn / 2) + 4 * heads / 2)
    (found,) = llama_activations(world=2, tensor=2, sequence_parallel=True)
    assert found == 32 * split + tokens * 2 * (hidden / 2 + hidden)


def tuned_7b(*words, task="pretrain"):
    """Llama-7b at scale 1, counted for what the words train."""
    architecture, config, _ = model("facebook/llama-7b")
    arguments = load_arguments(task, (), ["--model", "facebook/llama-7b", *words])
    return architecture, config, counted(architecture, config, tuned_of(arguments, config))


@pytest.mark.parametrize("asked", [{}, {"world": 2, "tensor": 2}, {"world": 8, "sharding_stage": 1}], ids=str)
def test_adapters_of_llama_7b_by_hand(asked):
    """Rank 8 beside all seven matrices of 32 blocks; under tp 2 one side of each is split."""
    architecture, config, counts = tuned_7b("--lora", "true", "--lora_rank", "8")
    _, _, whole = model("facebook/llama-7b")
    hidden, ffn, tensor = 4096, 11008, asked.get("tensor", 1)
    assert counts.added == 32 * 8 * (4 * 2 * hidden + 3 * (hidden + ffn)) == 19_988_480
    # q, k, v: A whole, B split; o: A split, B whole; gate, up: A whole, B split; down: A split, B whole
    block = 8 * (3 * (hidden + hidden // tensor) + (hidden // tensor + hidden) + 3 * (hidden + ffn // tensor))
    plan = compose(Request(sequence=2048, **asked), architecture, config)
    (stage,), (full,) = (predict_memory(plan, c, HALF, Keeping()) for c in (counts, whole))
    assert stage.weights == full.weights + 2 * 32 * block
    assert stage.gradients == 2 * 32 * block
    assert stage.optimizer == pytest.approx(12 * 32 * block / plan.sharding, rel=0.01)
    assert stage.activations == full.activations + 32 * 2048 * 2 * 8 * 7  # what is between A and B
    assert stage.logits == full.logits


def test_a_prefix_of_llama_7b_by_hand():
    architecture, config, counts = tuned_7b("--prefix_tuning", "true", "--num_prefix_tokens", "64")
    plan = compose(Request(sequence=2048), architecture, config)
    (stage,), (full,) = (predict_memory(plan, c, HALF, Keeping()) for c in (counts, model("facebook/llama-7b")[2]))
    assert counts.added == 32 * 2 * 64 * 4096 and stage.gradients == 2 * counts.added
    assert (stage.weights, stage.optimizer) == (full.weights + 2 * counts.added, 12 * counts.added)
    assert stage.activations == full.activations + 32 * 2 * 2 * 64 * 4096


def test_a_reference_is_a_copy_only_where_no_adapter_can_be_switched_off():
    architecture, config, whole = model("facebook/llama-7b")
    plan = compose(Request(sequence=2048), architecture, config)
    (full,) = predict_memory(plan, whole, HALF, Keeping())
    weights = []
    for words in ((), ("--lora", "true"), ("--loss_type", "simpo")):
        counts = tuned_7b(*words, task="dpo")[2]
        (stage,) = predict_memory(plan, counts, HALF, Keeping())
        weights.append(stage.weights - 2 * counts.added)
        assert stage.activations >= 2 * full.activations and stage.logits == 2 * full.logits
    assert weights == [2 * full.weights, full.weights, full.weights]


def test_what_is_frozen_has_no_gradient_to_compute():
    """Operations of a token: 6 for each trained element, 4 for each that is not, 12 x width x sequence of attention."""
    architecture, config, counts = tuned_7b("--lora", "true", "--lora_rank", "8")
    multiplied = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008) + 32000 * 4096
    attention = 12 * 32 * 4096 * 2048
    assert flops_of_token(counts, 2048) == 4 * multiplied + 6 * 19_988_480 + attention
    pairs = tuned_7b("--lora", "true", "--lora_rank", "8", task="dpo")[2]
    assert flops_of_token(pairs, 2048) == 6 * multiplied + 6 * 19_988_480 + attention * 4 / 3
    plan, device = compose(Request(sequence=2048), architecture, config), hardware("a100-80g")
    speeds = [predict_speed(plan, c, HALF, Keeping(), device) for c in (counts, model("facebook/llama-7b")[2], pairs)]
    products = [speed.compute * device.peak("bfloat16") * device.matmul / 2048 for speed in speeds]
    causal = attention / 2  # a flash kernel sees half of the positions
    assert products[0] == pytest.approx(4 * multiplied + 6 * 19_988_480 + causal)
    assert products[1] == pytest.approx(6 * multiplied + causal)
    assert products[2] == pytest.approx(2 * (6 * multiplied + 6 * 19_988_480 + causal * 4 / 3))
    assert speeds[0].update < speeds[1].update / 100


def test_pipelines_hold_more_on_early_stages():
    held = llama_activations(world=4, pipeline=4, accumulate=8)
    assert held[0] > held[1] > held[2] > held[3]
    block = 2048 * (2 * (8 * 4096 + 3 * 11008) + 4 * 32)
    assert held[0] - held[1] == pytest.approx(8 * block, rel=0.01)
    few = llama_activations(world=4, pipeline=4, accumulate=1)
    assert max(few) < held[2]


def test_hardware_is_complete_and_checked(tmp_path):
    assert set(hardware_names()) >= {"a100-40g", "a100-80g", "h100", "h200", "v100-16g", "v100-32g", "cpu"}
    for name in hardware_names():
        described = hardware(name)
        assert described.name == name and described.note and 0 < described.matmul <= 1
    with pytest.raises(ConfigError, match="did you mean a100-80g"):
        hardware("a100-80")
    with pytest.raises(ConfigError, match="bfloat16"):
        hardware("v100-32g").peak("bfloat16")
    path = tmp_path / "mine.json"
    path.write_text('{"device": "gpu"}')
    with pytest.raises(ConfigError, match="describes no hardware"):
        hardware(str(path))


def test_the_compact_table_names_the_first_expert_only():
    architecture, config, _ = model("deepseek-ai/DeepSeek-V3")
    table = compact_table(architecture, config)
    assert len(table) < 2000
    experts = [name for name in table if ".experts." in name]
    assert experts and all(".experts.0." in name for name in experts)
    assert all(len(table[name].experts) == 256 for name in experts)


def test_fused_kernels_are_missing_where_the_matrix_says_so():
    """The planner reads the configuration, the documents read the cells."""
    for architecture, entry in registry().models:
        cells = {**architecture.capabilities.cells, **entry.cells}
        missing = cells["flash_attention"].state in ("refused", "not applicable")
        assert entry.config.fused_attention is not missing, entry.name


@pytest.mark.parametrize(
    ("name", "flash"),
    [
        ("facebook/llama-7b", True), ("gpt3-13B", True), ("THUDM/chatglm2-6b", True), ("deepseek-ai/DeepSeek-V3", True),
        ("bigscience/bloom-7b1", False), ("baichuan-inc/Baichuan2-13B-Base", False), ("THUDM/chatglm-6b", False),
        ("THUDM/glm-10b", False), ("baichuan-inc/Baichuan2-7B-Base", True),
    ],
)  # fmt: skip
def test_flash_kernels_are_counted_where_they_work(name, flash):
    """As `zoo_ops.core_attention` decides: without a bias, without a prompt that is read both ways."""
    architecture, config, counts = model(name)
    assert config.fused_attention is flash
    words = ["--model", name, "--use_flash_attention", "--bf16", "--fp16_opt_level", "O2"]
    keeping = keeping_of(load_arguments("pretrain", (), words), "gpu", flash)
    plan = compose(Request(sequence=1024), architecture, config)
    (kept,), (scored,) = (
        predict_memory(plan, counts, HALF, one) for one in (keeping, replace(keeping, flash_attention=False))
    )
    drops = getattr(config, "attention_probs_dropout_prob", 0) or getattr(config, "attention_dropout_prob", 0)
    assert (kept.activations < scored.activations) is (flash and not drops)
