"""Fine-tuning on packed rows: the same losses under every plan, by the command itself."""

from __future__ import annotations

import pytest
from both_engines import BOTH, WEIGHTS, auto_layouts, same_columns

STEPS = 20
LAYOUTS = {
    "single": (1, "--per_device_train_batch_size 4"),
    "tp2": (2, "--tp 2 --per_device_train_batch_size 2 --gradient_accumulation_steps 2"),
    "tp2+sp": (2, "--tp 2 --sequence_parallel --per_device_train_batch_size 2 --gradient_accumulation_steps 2"),
    "dp2": (2, "--per_device_train_batch_size 1 --gradient_accumulation_steps 2"),
    "dp2xtp2": (4, "--tp 2 --per_device_train_batch_size 1 --gradient_accumulation_steps 2"),
    "pp2": (2, "--pp 2 --per_device_train_batch_size 2 --gradient_accumulation_steps 2"),
    "tp2xpp2": (4, "--tp 2 --pp 2 --per_device_train_batch_size 1 --gradient_accumulation_steps 4"),
    "sharding2": (2, "--sharding stage1 --per_device_train_batch_size 2"),
    "sharding2-stage2": (2, "--sharding stage2 --per_device_train_batch_size 1 --gradient_accumulation_steps 2"),
    "sharding2-stage3": (2, "--sharding stage3 --per_device_train_batch_size 1 --gradient_accumulation_steps 2"),
    "tp2xsharding2": (4, "--tp 2 --sharding stage1 --per_device_train_batch_size 1 --gradient_accumulation_steps 2"),
    "tp2xsharding2-stage2": (4, "--tp 2 --sharding stage2 --per_device_train_batch_size 2"),
    "auto-tp2+spxsharding2-stage3": (
        4,
        "--engine auto --tp 2 --sequence_parallel --sharding stage3 --per_device_train_batch_size 1 "
        "--gradient_accumulation_steps 2",
    ),
    "static-sharding2-stage2": (
        2,
        "--to_static --sharding stage2 --per_device_train_batch_size 1 --gradient_accumulation_steps 2",
    ),
    "static-auto-tp2": (2, "--engine auto --to_static --tp 2 --per_device_train_batch_size 4"),
    "static-auto-dp2xtp2": (
        4,
        "--engine auto --to_static --tp 2 --per_device_train_batch_size 1 --gradient_accumulation_steps 2",
    ),
}
STATIC = tuple(name for name in LAYOUTS if name.startswith("static-"))
AUTO = auto_layouts(LAYOUTS)
LAYOUTS |= AUTO
COLUMNS = ("loss", "grad_norm", "eval_loss", "eval_accuracy")
FAMILIES = {"qwen": "qwen/qwen-7b", "llama": "meta-llama/Meta-Llama-3-8B"}
SOAKED = {**FAMILIES, "deepseek_v3": "deepseek-ai/DeepSeek-V3"}
OTHERS = {
    "chatglm": "THUDM/chatglm-6b", "bloom": "bigscience/bloom-7b1", "baichuan": "baichuan-inc/Baichuan2-13B-Base",
    "glm": "THUDM/glm-10b", "gpt3": "gpt3-345M", "opt": "facebook/opt-125m",
}  # fmt: skip


PACKED = ("--zero_padding", "--do_eval", "--eval_steps", "10", "--per_device_eval_batch_size", "2")


@pytest.fixture(scope="module")
def tune(layouts_of, tuning_data):
    """Run fine-tuning in a layout; gives the folder of its results."""
    data = ["--tokenizer", str(tuning_data / "tokenizer"), "--dataset_name_or_path", str(tuning_data)]
    return layouts_of("sft", LAYOUTS, STEPS, *data, "--max_length", "48", *PACKED)


def equals_the_single_process(tune, read_losses, model: str, layouts: list[str], *more: str) -> None:
    found = {name: tune(model, name, *more) for name in layouts}
    single = read_losses(found["single"])
    assert len(single) == STEPS and float(single[-1]["loss"]) < float(single[0]["loss"]) - 0.1
    for name in layouts[1:]:
        same_columns(read_losses(found[name]), single, COLUMNS, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_losses_under_plans(tune, read_losses, family, zoo_evidence):
    zoo_evidence(family, "sft", tier="T2", model=FAMILIES[family])
    layouts = ["single", "tp2xpp2"] if family == "qwen" else ["single", "pp2", "tp2xsharding2-stage2"]
    equals_the_single_process(tune, read_losses, FAMILIES[family], layouts)


@pytest.mark.parametrize(
    "family", [f if f == "llama" else pytest.param(f, marks=pytest.mark.soak) for f in (*SOAKED, *OTHERS)]
)
def test_packed_losses_under_the_semi_automatic_engine(tune, read_losses, family, zoo_evidence):
    model = {**SOAKED, **OTHERS}[family]
    zoo_evidence(family, "semi_auto_sft", tier="T2", model=model)
    equals_the_single_process(tune, read_losses, model, ["single", "auto-tp2+spxsharding2-stage3"])


@pytest.mark.parametrize(
    "layout", [n if n == "static-auto-tp2" else pytest.param(n, marks=pytest.mark.soak) for n in STATIC]
)
def test_losses_of_traced_graphs(tune, read_losses, layout, zoo_evidence):
    """Rows are as long as the longest of a micro batch, so that each run makes several programs."""
    zoo_evidence("llama", "sft", "to_static", tier="T2", model=FAMILIES["llama"])
    equals_the_single_process(tune, read_losses, FAMILIES["llama"], ["single", layout], "--zero_padding", "false")


@pytest.mark.parametrize("layout", [n if n == "dp2" else pytest.param(n, marks=pytest.mark.soak) for n in BOTH])
def test_the_semi_automatic_engine_equals_the_manual_one(tune, read_losses, layout, zoo_evidence):
    """And both the single process: what each is off by may not add up."""
    model = FAMILIES["llama"]
    zoo_evidence("llama", "semi_auto_sft", tier="T2", model=model)
    equals_the_single_process(tune, read_losses, model, ["single", layout, f"auto-{layout}"])
    found, wanted = (read_losses(tune(model, name)) for name in (f"auto-{layout}", layout))
    same_columns(found, wanted, COLUMNS, f"auto-{layout}")


@pytest.mark.soak
@pytest.mark.parametrize("layout", BOTH)
def test_weights_after_ten_steps_of_the_semi_automatic_engine(tune, same_weights, layout, zoo_evidence):
    model = FAMILIES["llama"]
    zoo_evidence("llama", "semi_auto_sft", tier="T2", model=model)
    same_weights(*(tune(model, name, *WEIGHTS) for name in ("single", layout, f"auto-{layout}")))


@pytest.mark.soak
@pytest.mark.parametrize("family", SOAKED)
def test_packed_losses_under_all_plans(tune, read_losses, family, zoo_evidence):
    zoo_evidence(family, "sft", tier="T2", model=SOAKED[family])
    layouts = [name for name in LAYOUTS if name not in (*AUTO, *STATIC)]
    equals_the_single_process(tune, read_losses, SOAKED[family], layouts)


@pytest.mark.soak
@pytest.mark.parametrize("family", OTHERS)
def test_packed_losses_of_every_family(tune, read_losses, family, zoo_evidence):
    zoo_evidence(family, "sft", tier="T2", model=OTHERS[family])
    equals_the_single_process(tune, read_losses, OTHERS[family], ["single", "tp2xpp2", "tp2+sp"])
