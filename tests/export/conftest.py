"""Tiny models with weights that let no part hide, and their exports."""

from __future__ import annotations

import pytest

TEXT = "In the beginning God created the heaven and the earth.\n床前明月光,疑是地上霜。\n"

CHATGLM = {"bos_token_id": 302, "gmask_token_id": 301, "mask_token_id": 300}
GLM = {"start_token_id": 302, "mask_token_ids": (300, 303, 301)}

FAMILIES = {
    "llama": ("meta-llama/Meta-Llama-3-8B", {}),
    "qwen": ("qwen/qwen-7b", {}),
    "gpt3": ("gpt3-345M", {}),
    "bloom": ("bigscience/bloom-560m", {}),
    "baichuan": ("baichuan-inc/Baichuan2-13B-Base", {}),
    "chatglm": ("THUDM/chatglm-6b", CHATGLM),
    "deepseek_v3": ("deepseek-ai/DeepSeek-V3", {}),
    "opt": ("facebook/opt-350m", {}),
    "glm": ("THUDM/glm-10b", GLM),
}

MORE = {
    "llama2-fused": ("meta-llama/Llama-2-7b", {"fuse_attention_qkv": True, "fuse_attention_ffn": True}),
    "llama3.1": ("meta-llama/Meta-Llama-3.1-8B-Instruct", {}),
    "qwen2": ("Qwen/Qwen2.5-1.5B", {}),
    "qwen3": ("Qwen/Qwen3-0.6B", {}),
    "baichuan-7b": ("baichuan-inc/Baichuan-7B", {}),
    "chatglm2": ("THUDM/chatglm2-6b", {}),
    "opt-125m": ("facebook/opt-125m", {}),
    "glm-130b": ("THUDM/glm-130b", GLM),
}


@pytest.fixture(scope="session")
def engine_of():
    """A function from a family to an engine over two blocks of it."""
    from zoo_core import find
    from zoo_core.engine.engine import Engine
    from zoo_core.engine.mesh import make_mesh
    from zoo_core.peft import with_adapters, with_prefix
    from zoo_core.plan import Request, compose
    from zoo_core.testing.models import random_weights

    def make(family, lora=None, prefix=None, **changes):
        name, own = {**FAMILIES, **MORE}[family]
        found = find(name)
        architecture = found.architecture
        scale = architecture.capabilities.scales["tiny"]
        config = found.config.replace(**{**scale, "num_hidden_layers": 2, **own, **changes})
        table = architecture.table(config)
        if lora is not None:
            table = with_adapters(table, lora)
        if prefix is not None:
            table = with_prefix(table, architecture.pipe_layers(config), config, prefix)
        weights = random_weights(table)
        mesh = make_mesh(compose(Request(task="logits"), architecture, config, name))
        return Engine(mesh, architecture, config, lambda rule: weights[rule.single], lora=lora, prefix=prefix)

    return make


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A Hugging Face folder with a tokenizer of 280 tokens; the model has 512."""
    from zoo_core import find
    from zoo_core.checkpoint import save_hf, whole_tensors
    from zoo_core.testing.models import random_weights
    from zoo_core.tokenizers import train_bpe

    path = tmp_path_factory.mktemp("model")
    (path / "text.txt").write_text(TEXT, encoding="utf-8")
    tokenizer = train_bpe([path / "text.txt"], 280, path)
    found = find("qwen/qwen-7b")
    scale = found.architecture.capabilities.scales["tiny"]
    config = found.config.replace(**{**scale, "num_hidden_layers": 2})
    table = found.architecture.table(config)
    files = {file.name: file for file in tokenizer.files}
    tensors = whole_tensors(table, random_weights(table), "float32")
    return save_hf(path / "weights", tensors, table=table, config=config, dtype="float32", files=files)


@pytest.fixture(scope="session")
def exported(folder, tmp_path_factory):
    """The same, exported for three rows of 80 tokens by the command."""
    from zoo_core.cli import main

    path = tmp_path_factory.mktemp("exported") / "static"
    assert main(["export", str(folder), str(path), "--batch_size", "3", "--max_length", "80"]) == 0
    return path
