"""Families and model names that zoo's own plugins have, so that a missing one can be named: plain data, no imports."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KNOWN", "KnownFamily"]


@dataclass(frozen=True)
class KnownFamily:
    """A family, the distribution that has it, and the names users type for its models."""

    family: str
    distribution: str
    models: tuple[str, ...]


def _family(family: str, distribution: str, names: str) -> KnownFamily:
    return KnownFamily(family, distribution, tuple(names.split()))


KNOWN = (
    _family(
        "llama",
        "zoo-llama",
        "facebook/llama-7b facebook/llama-13b facebook/llama-65b meta-llama/Llama-2-7b meta-llama/Llama-2-7b-chat "
        "meta-llama/Llama-2-13b meta-llama/Llama-2-13b-chat meta-llama/Llama-2-70b meta-llama/Meta-Llama-3-8B "
        "meta-llama/Meta-Llama-3.1-8B-Instruct FlagAlpha/Llama2-Chinese-7b-Chat FlagAlpha/Llama2-Chinese-13b-Chat "
        "idea-ccnl/ziya-llama-13b-v1 linly-ai/chinese-llama-2-7b linly-ai/chinese-llama-2-13b",
    ),
    _family(
        "qwen",
        "zoo-qwen",
        "qwen/qwen-7b qwen/qwen-7b-chat qwen/qwen-14b qwen/qwen-14b-chat Qwen/Qwen2-7B Qwen/Qwen2.5-7B Qwen/Qwen3-8B",
    ),
    _family("gpt3", "zoo-gpt3", "gpt2-medium-en gpt3-345M gpt3-1.3B gpt3-6.7B gpt3-13B gpt3-175B"),
    _family("chatglm", "zoo-chatglm", "THUDM/chatglm-6b THUDM/chatglm-6b-v1.1 THUDM/chatglm2-6b"),
    _family(
        "bloom",
        "zoo-bloom",
        "bigscience/bloom-560m bigscience/bloom-7b1 bigscience/bloom bigscience/bloomz-7b1 bigscience/bloomz-7b1-mt",
    ),
    _family(
        "baichuan",
        "zoo-baichuan",
        "baichuan-inc/Baichuan-7B baichuan-inc/Baichuan-13B-Base baichuan-inc/Baichuan-13B-Chat "
        "baichuan-inc/Baichuan2-7B-Base baichuan-inc/Baichuan2-7B-Chat baichuan-inc/Baichuan2-13B-Base "
        "baichuan-inc/Baichuan2-13B-Chat",
    ),
    _family("deepseek_v3", "zoo-deepseek-v3", "deepseek-ai/DeepSeek-V3"),
    _family(
        "opt",
        "zoo-opt",
        "facebook/opt-125m facebook/opt-350m facebook/opt-1.3b facebook/opt-2.7b facebook/opt-6.7b facebook/opt-13b "
        "facebook/opt-30b facebook/opt-66b",
    ),
    _family("glm", "zoo-glm", "THUDM/glm-10b THUDM/glm-10b-chinese THUDM/glm-130b"),
)
