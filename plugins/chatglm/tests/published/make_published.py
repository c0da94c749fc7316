"""Write `shapes.json`: names and shapes of the published weights, as modelscope's code declares them at their sizes.

Python 3.11, torch==2.13.0 (CPU), modelscope==1.9.5, transformers==4.33.3 (`../golden/README.md` says how to install
them); run it as `python make_published.py`. The first files hold the embedding a second time, as the head that it is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from modelscope.models.nlp.chatglm import text_generation as v1
from modelscope.models.nlp.chatglm2 import text_generation as v2

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

import published  # noqa: E402

# What the config.json of the published models say, as far as shapes follow from it.
SIZES: dict[str, dict[str, Any]] = {
    "THUDM/chatglm-6b": {
        "vocab_size": 130528,
        "hidden_size": 4096,
        "inner_hidden_size": 16384,
        "num_attention_heads": 32,
        "num_layers": 28,
        "position_encoding_2d": True,
    },
    "THUDM/chatglm2-6b": {
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "ffn_hidden_size": 13696,
        "hidden_size": 4096,
        "kv_channels": 128,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "num_attention_heads": 32,
        "num_layers": 28,
        "padded_vocab_size": 65024,
        "original_rope": True,
        "seq_length": 32768,
    },
}
SIZES["THUDM/chatglm-6b-v1.1"] = SIZES["THUDM/chatglm-6b"]


def declared(sizes: Mapping[str, Any]) -> torch.nn.Module:
    stub = SimpleNamespace(from_pretrained=lambda *_args, **_kw: None)
    v1.skip_init = lambda kind, *args, **options: kind(*args, **options)
    v1.ChatGLMTokenizer = v2.ChatGLM2Tokenizer = stub
    with torch.device("meta"):
        if "padded_vocab_size" in sizes:
            settings = v2.ChatGLM2Config(**sizes, torch_dtype=torch.float16)
            return v2.ChatGLM2ForConditionalGeneration(settings, empty_init=False)
        return v1.ChatGLMForConditionalGeneration(v1.ChatGLMConfig(**sizes))


if __name__ == "__main__":
    models = {name: published.declared(declared(sizes)) for name, sizes in SIZES.items()}
    published.write(HERE / "shapes.json", models)
