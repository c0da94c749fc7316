"""Fine-tuning on packed rows: the same losses under every plan, by the command itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

STEPS = 20
LAYOUTS = {
    "single": (1, "--per_device_train_batch_size 4"),
    "tp2": (2, "--tp 2 --per_device_train_batch_size 2 --gradient_accumulation_steps 2"),
    "tp2+sp": (2, "--tp 2 --sequence_parallel --per_device_train_batch_size 2 --gradient_accumulation_steps 2"),
    "pp2": (2, "--pp 2 --per_device_train_batch_size 2 --gradient_accumulation_steps 2"),
    "tp2xpp2": (4, "--tp 2 --pp 2 --per_device_train_batch_size 1 --gradient_accumulation_steps 4"),
    "sharding2": (2, "--sharding stage1 --per_device_train_batch_size 2"),
    "tp2xsharding2": (4, "--tp 2 --sharding stage1 --per_device_train_batch_size 1 --gradient_accumulation_steps 2"),
    "tp2xsharding2-stage2": (4, "--tp 2 --sharding stage2 --per_device_train_batch_size 2"),
    "auto-tp2xsharding2-stage3": (
        4,
        "--engine auto --tp 2 --sharding stage3 --per_device_train_batch_size 1 --gradient_accumulation_steps 2",
    ),
    "auto-tp2+spxsharding2-stage3": (
        4,
        "--engine auto --tp 2 --sequence_parallel --sharding stage3 --per_device_train_batch_size 1 "
        "--gradient_accumulation_steps 2",
    ),
}
FAMILIES = {"qwen": "qwen/qwen-7b", "llama": "meta-llama/Meta-Llama-3-8B"}
SOAKED = {**FAMILIES, "deepseek_v3": "deepseek-ai/DeepSeek-V3"}
OTHERS = {
    "chatglm": "THUDM/chatglm-6b", "bloom": "bigscience/bloom-7b1", "baichuan": "baichuan-inc/Baichuan2-13B-Base",
    "glm": "THUDM/glm-10b", "gpt3": "gpt3-345M", "opt": "facebook/opt-125m",
}  # fmt: skip


@pytest.fixture
def tune(nursery, tuning_data, tmp_path):
    """Run fine-tuning in ranks of their own; gives the folder of its results."""

    def run(name: str, model: str, world: int, *more: str) -> Path:
        words = ["run", "sft", "--model", model, "--scale", "tiny", "--num_hidden_layers", "2", "--device", "cpu"]
        words += ["--tokenizer", str(tuning_data / "tokenizer"), "--dataset_name_or_path", str(tuning_data)]
        words += ["--output_dir", str(tmp_path / name), "--disable_tqdm", "true", "--report_to", "none"]
        words += ["--max_steps", str(STEPS), "--learning_rate", "1e-3", "--save_strategy", "no", "--max_length", "48"]
        words += ["--nproc", str(world)] if world > 1 else []
        told = nursery.run([*words, *more], world, limit=900)
        assert told["statuses"] == [0] * world, nursery.log()
        return tmp_path / name

    return run


def equals_the_single_process(tune, read_losses, model: str, layouts: list[str], *more: str) -> None:
    flags = ["--zero_padding", "--do_eval", "--eval_steps", "10", "--per_device_eval_batch_size", "2", *more]
    found = {name: tune(name, model, LAYOUTS[name][0], *flags, *LAYOUTS[name][1].split()) for name in layouts}
    single = read_losses(found["single"])
    assert len(single) == STEPS and float(single[-1]["loss"]) < float(single[0]["loss"]) - 0.1
    for name in layouts[1:]:
        rows = read_losses(found[name])
        for column in ("loss", "grad_norm", "eval_loss", "eval_accuracy"):
            values, wanted = ([float(row[column]) for row in part if row[column]] for part in (rows, single))
            np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-5, err_msg=f"{column} under {name}")


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
    layout = "auto-tp2xsharding2-stage3" if family == "gpt3" else "auto-tp2+spxsharding2-stage3"
    equals_the_single_process(tune, read_losses, model, ["single", layout])


@pytest.mark.soak
@pytest.mark.parametrize("family", SOAKED)
def test_packed_losses_under_all_plans(tune, read_losses, family, zoo_evidence):
    zoo_evidence(family, "sft", tier="T2", model=SOAKED[family])
    equals_the_single_process(tune, read_losses, SOAKED[family], list(LAYOUTS))


@pytest.mark.soak
@pytest.mark.parametrize("family", OTHERS)
def test_packed_losses_of_every_family(tune, read_losses, family, zoo_evidence):
    zoo_evidence(family, "sft", tier="T2", model=OTHERS[family])
    equals_the_single_process(tune, read_losses, OTHERS[family], ["single", "tp2xpp2"])
