"""What a run of adapters holds, and the commands: train, resume, export, merge, sample's and logits' --lora_path."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from peft_models import batch, seeded  # noqa: E402

from zoo_core.checkpoint import read_state  # noqa: E402
from zoo_core.checkpoint.inspect import tensors  # noqa: E402
from zoo_core.cli import main  # noqa: E402
from zoo_core.data.indexed import bin_path, idx_path, index_bytes  # noqa: E402
from zoo_core.engine.optimizer import OptimizerSettings  # noqa: E402
from zoo_core.generate import load_model  # noqa: E402
from zoo_core.peft import LoraSpec, is_adapter  # noqa: E402
from zoo_core.tokenizers import train_bpe  # noqa: E402

SPEC = LoraSpec(rank=2, alpha=4.0)


@pytest.mark.parametrize("recompute", ["none", "full", "full_attn", "core_attn"])
@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_only_adapters_have_gradients_and_states(family, recompute):
    engine = seeded(family, SPEC, OptimizerSettings(), recompute)
    before = {name: held.tensor.numpy().copy() for name, held in engine.held.items()}
    losses = [engine.train_step([batch(engine.config)], 1e-2).loss for _ in range(3)]
    assert losses[-1] < losses[0]
    changed = {name for name, held in engine.held.items() if not np.array_equal(held.tensor.numpy(), before[name])}
    assert changed == {name for name in engine.held if is_adapter(name)}
    states = list(engine.updater.states())
    assert {state.name for state in states} == changed
    elements = sum(state.tensor.size for state in states)
    assert elements == 2 * sum(engine.held[name].tensor.size for name in changed)
    assert all(held.tensor.grad is None for name, held in engine.held.items() if not is_adapter(name))


def test_lora_plus_multiplies_the_learning_rate_of_B():
    found = {}
    for plus in (1.0, 8.0):
        engine = seeded("llama", SPEC, OptimizerSettings(lora_plus=plus))
        start = {name: held.tensor.numpy().copy() for name, held in engine.held.items()}
        for _ in range(2):  # A has no gradient before B is no longer zero
            engine.train_step([batch(engine.config)], 1e-4)
        found[plus] = {n: np.abs(h.tensor.numpy() - start[n]).max() for n, h in engine.held.items() if is_adapter(n)}
    for name in found[1.0]:
        ratio = found[8.0][name] / found[1.0][name]
        assert abs(ratio - (8 if name.endswith("lora_B") else 1)) < 0.2, name


def test_the_balance_of_routers_belongs_to_the_base():
    engine = seeded("deepseek_v3", SPEC, OptimizerSettings())
    before = {n: h.tensor.numpy().copy() for n, h in engine.held.items() if h.rule.buffer}
    engine.train_step([batch(engine.config)], 1e-2)
    assert before
    for name, values in before.items():
        np.testing.assert_array_equal(engine.held[name].tensor.numpy(), values)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    prefix = tmp_path_factory.mktemp("corpus") / "words"
    lengths = np.full(200, 50)
    tokens_ = np.random.default_rng(0).integers(0, 500, lengths.sum()).astype("<u2")
    bin_path(prefix).write_bytes(tokens_.tobytes())
    idx_path(prefix).write_bytes(index_bytes(lengths, np.arange(201), "<u2"))
    return prefix.parent


def run(model: str, corpus: Path, out: Path, *more: str) -> int:
    words = ["run", "pretrain", "--model", model, "--device", "cpu", "--input_dir", str(corpus)]
    words += [
        "--output_dir",
        str(out),
        "--max_seq_length",
        "16",
        "--per_device_train_batch_size",
        "1",
        "--split",
        "90,10,0",
        "--disable_tqdm",
    ]
    return main([*words, "true", "--learning_rate", "1e-2", "--save_steps", "2", *more])


def test_the_commands(corpus, tmp_path, monkeypatch, capfd):
    """A base, adapters of it, what is made of them, and what is refused."""
    monkeypatch.chdir(tmp_path)
    lora = ("--lora", "true", "--lora_rank", "2", "--lora_target_modules", "q_proj", "down_proj")
    assert run("meta-llama/Meta-Llama-3-8B", corpus, Path("base"), "--scale", "tiny", "--max_steps", "2") == 0
    base = "base/checkpoint-2"
    assert run(base, corpus, Path("whole"), *lora, "--max_steps", "4") == 0
    assert "LoRA of rank 2 on 8 layers" in capfd.readouterr().out
    saved = tensors(Path("whole/checkpoint-4"))
    assert saved and all(is_adapter(tensor.name) for tensor in saved)
    assert read_state("whole/checkpoint-4")["lora"]["base"].endswith(base)
    assert sorted(path.name for path in Path("whole/adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    assert main(["merge", "lora", base, "whole", "merged"]) == 0
    assert "checked    merged - base = scale A B" in capfd.readouterr().out
    np.save("ids.npy", np.arange(32).reshape(2, 16))
    for out, words in {"one": ["whole"], "two": ["merged"], "three": [base, "--lora_path", "whole/adapter"]}.items():
        assert main(["logits", *words, "--ids", "ids.npy", "--out", f"{out}.npy"]) == 0
    one, two, three = (np.load(f"{name}.npy") for name in ("one", "two", "three"))
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(three, one)
    capfd.readouterr()
    other = ("--lora", "true", "--lora_rank", "3", "--lora_target_modules", "q_proj", "down_proj")
    assert run(base, corpus, Path("whole"), *other, "--max_steps", "6", "--resume") == 2
    assert "rank is 2 there, 3 here" in capfd.readouterr().err
    assert run(base, corpus, Path("whole"), "--max_steps", "6", "--resume") == 2
    assert "holds adapters, not a model" in capfd.readouterr().err
    assert run(base, corpus, Path("new"), "--lora", "true", "--lora_target_modules", "q_prj", "--max_steps", "2") == 2
    assert "did you mean q_proj?" in capfd.readouterr().err
    assert run(base, corpus, Path("new"), "--lora", "true", "--pissa", "true", "--max_steps", "2") == 2
    assert "pissa is not supported" in capfd.readouterr().err
    Path("text.txt").write_text("In the beginning God created the heaven and the earth.\n" * 3)
    train_bpe([Path("text.txt")], 270, Path("tokenizer"))
    assert load_model(base, Path("tokenizer"), adapters={"own": "whole"}).notes == ()
    (note,) = load_model("merged", Path("tokenizer"), adapters={"own": "whole"}).notes
    assert "was trained on" in note and note.endswith(f"whose files are not those of {Path('merged')}")
    damaged = next(Path("whole/checkpoint-4").glob("lora-0*.safetensors"))
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    assert main(["sample", base, "--lora_path", "whole", "--tokenizer", "tokenizer", "--prompt", "In the"]) == 2
    assert damaged.name in capfd.readouterr().err
