"""Preference optimisation under plans: the same losses, rewards and gradient norms as one process, by the command."""

from __future__ import annotations

import numpy as np
import pytest
from both_engines import BOTH, WEIGHTS, auto_layouts, same_columns

STEPS = 20
LAYOUTS = {
    "single": (1, "--per_device_train_batch_size 4"),
    "tp2": (2, "--tp 2 --per_device_train_batch_size 2 --gradient_accumulation_steps 2"),
    "tp2+sp": (2, "--tp 2 --sequence_parallel --per_device_train_batch_size 2 --gradient_accumulation_steps 2"),
    "pp2": (2, "--pp 2 --per_device_train_batch_size 1 --gradient_accumulation_steps 4"),
    "dp2": (2, "--per_device_train_batch_size 2"),
    "dp2xtp2": (4, "--tp 2 --per_device_train_batch_size 1 --gradient_accumulation_steps 2"),
    "tp2xpp2": (4, "--tp 2 --pp 2 --per_device_train_batch_size 2 --gradient_accumulation_steps 2"),
    "sharding2": (2, "--sharding stage1 --per_device_train_batch_size 2"),
    "sharding2-stage2": (2, "--sharding stage2 --per_device_train_batch_size 2"),
    "sharding2-stage3": (2, "--sharding stage3 --per_device_train_batch_size 1 --gradient_accumulation_steps 2"),
    "tp2xsharding2": (4, "--tp 2 --sharding stage1 --per_device_train_batch_size 1 --gradient_accumulation_steps 2"),
    "auto-tp2+spxsharding2-stage3": (
        4,
        "--engine auto --tp 2 --sequence_parallel --sharding stage3 --per_device_train_batch_size 1 "
        "--gradient_accumulation_steps 2",
    ),
}
AUTO = auto_layouts(LAYOUTS)
LAYOUTS |= AUTO
COLUMNS = (
    "loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen",
    "logps/rejected", "nll_loss", "eval_loss", "eval_rewards/margins", "eval_rewards/accuracies", "eval_nll_loss",
)  # fmt: skip
MODELS = {"llama": "meta-llama/Meta-Llama-3-8B", "qwen": "qwen/qwen-7b"}
OTHERS = {
    "qwen": "qwen/qwen-7b",
    "deepseek_v3": "deepseek-ai/DeepSeek-V3", "chatglm": "THUDM/chatglm2-6b", "bloom": "bigscience/bloom-7b1",
    "baichuan": "baichuan-inc/Baichuan2-13B-Base", "glm": "THUDM/glm-10b", "gpt3": "gpt3-345M",
    "opt": "facebook/opt-125m",
}  # fmt: skip
LORA = ("--lora", "--lora_rank", "4", "--learning_rate", "1e-2")


@pytest.fixture(scope="module")
def prefer(layouts_of, pairs):
    """Run preference optimisation in a layout; gives the folder of its results."""
    data = ["--tokenizer", str(pairs / "tokenizer"), "--train_dataset_path", str(pairs / "pairs-train.jsonl")]
    data += ["--dev_dataset_path", str(pairs / "pairs-dev.jsonl"), "--max_seq_len", "40", "--max_prompt_len", "24"]
    often = "--beta 0.3 --do_eval --eval_steps 10 --per_device_eval_batch_size 2".split()
    return layouts_of("dpo", LAYOUTS, STEPS, *data, *often)


def equal(prefer, read_losses, model: str, layouts: list[str], *more: str) -> None:
    found = {layout: read_losses(prefer(model, layout, *more)) for layout in ("single", *layouts)}
    single = found.pop("single")
    assert len(single) == STEPS and float(single[-1]["loss"]) < float(single[0]["loss"]) - 0.1
    for layout, rows in found.items():
        same_columns(rows, single, COLUMNS, layout)


def test_losses_under_plans(prefer, read_losses, zoo_evidence):
    """What is split and cut at once; the others, and adapters, are below."""
    zoo_evidence("llama", "dpo", tier="T2", model=MODELS["llama"])
    equal(prefer, read_losses, MODELS["llama"], ["tp2xpp2"])


@pytest.mark.parametrize("family", ["llama", *(pytest.param(family, marks=pytest.mark.soak) for family in OTHERS)])
def test_losses_under_the_semi_automatic_engine(prefer, read_losses, family, zoo_evidence):
    model = {**MODELS, **OTHERS}[family]
    zoo_evidence(family, "semi_auto_dpo", tier="T2", model=model)
    equal(prefer, read_losses, model, ["auto-tp2+spxsharding2-stage3"])


@pytest.mark.soak
@pytest.mark.parametrize("layout", BOTH)
def test_the_semi_automatic_engine_equals_the_manual_one(prefer, read_losses, layout, zoo_evidence):
    """And both the single process: what each is off by may not add up."""
    model = MODELS["llama"]
    zoo_evidence("llama", "semi_auto_dpo", tier="T2", model=model)
    equal(prefer, read_losses, model, [layout, f"auto-{layout}"])
    found, wanted = (read_losses(prefer(model, name)) for name in (f"auto-{layout}", layout))
    same_columns(found, wanted, COLUMNS, f"auto-{layout}")


@pytest.mark.soak
@pytest.mark.parametrize("layout", BOTH)
def test_weights_after_ten_steps_of_the_semi_automatic_engine(prefer, same_weights, layout, zoo_evidence):
    model = MODELS["llama"]
    zoo_evidence("llama", "semi_auto_dpo", tier="T2", model=model)
    same_weights(*(prefer(model, name, *WEIGHTS) for name in ("single", layout, f"auto-{layout}")))


@pytest.mark.soak
@pytest.mark.parametrize("more", [(), LORA], ids=["weights", "lora"])
@pytest.mark.parametrize("family", MODELS)
def test_losses_under_all_plans(prefer, read_losses, family, more, zoo_evidence):
    zoo_evidence(family, "dpo", tier="T2", model=MODELS[family])
    layouts = [layout for layout in LAYOUTS if layout not in ("single", *AUTO)]
    equal(prefer, read_losses, MODELS[family], layouts, *more)


@pytest.mark.soak
@pytest.mark.parametrize("family", OTHERS)
def test_losses_of_every_family(prefer, read_losses, family, zoo_evidence):
    zoo_evidence(family, "dpo", tier="T2", model=OTHERS[family])
    equal(prefer, read_losses, OTHERS[family], ["tp2"])


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["ipo", "orpo", "kto_pair", "dpop"])
def test_other_losses_under_plans(prefer, read_losses, kind):
    """kto_pair needs micro batches of one size, from which it estimates."""
    micro = ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps")
    world = {"single": "2", "tp2": "2", "pp2": "2", "sharding2": "1"}
    found = {
        layout: read_losses(prefer(MODELS["llama"], layout, *micro, steps, "--loss_type", kind))
        for layout, steps in world.items()
    }
    for layout, rows in found.items():
        for column in ("loss", "grad_norm", "rewards/margins"):
            values, wanted = ([float(row[column]) for row in part] for part in (rows, found["single"]))
            np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-5, err_msg=f"{column} under {layout}")
