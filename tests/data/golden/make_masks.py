"""Make masks.json: which tokens of a conversation are answers, by transformers' `return_assistant_tokens_mask`.

    python make_masks.py ../../tokenizers/golden/bpe masks.json  # transformers 5.23.0, tokenizers 0.23.3, jinja2 3.1.6

The templates mark answers with `{% generation %}`, from which transformers takes the mask; zoo does not read the marks.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import transformers

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nbe quick<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '<|im_end|>\n\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] | trim + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] | trim + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_end|>\n\n' }}{% endif %}"
)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


CONVERSATIONS = [
    [turn("user", "what is the fox?"), turn("assistant", "quick")],
    [turn("system", "see\n\"all\" <things>"), turn("user", " 床前明月光 "), turn("assistant", "疑是地上霜")],
    [
        turn("user", "the lazy dog\n"), turn("assistant", "they've said it"), turn("user", "we'll 🌙"),
        turn("assistant", "jumps over\n\nthe fox"), turn("user", "why"), turn("assistant", "."),
    ],
]  # fmt: skip


def special(content: str) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"content": content, **flags, "special": True}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bpe", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    added = {"340": special("<|im_start|>"), "341": special("<|im_end|>"), "4": special("<|endoftext|>")}
    found: dict[str, Any] = {"transformers": transformers.__version__, "conversations": CONVERSATIONS, "cases": {}}
    for name, template in {"chatml": CHATML, "headers": HEADERS}.items():
        config = {
            "added_tokens_decoder": added, "chat_template": template, "bos_token": "<|endoftext|>",
            "eos_token": "<|im_end|>", "tokenizer_class": "GPT2Tokenizer",
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            for file in ("vocab.json", "merges.txt"):
                Path(folder, file).write_bytes((given.bpe / file).read_bytes())
            Path(folder, "tokenizer_config.json").write_text(json.dumps(config))
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            made = [
                tokenizer.apply_chat_template(
                    messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
                )
                for messages in CONVERSATIONS
            ]
        config.pop("tokenizer_class")
        found["cases"][name] = {
            "config": config,
            "ids": [list(one["input_ids"]) for one in made],
            "masks": [list(one["assistant_masks"]) for one in made],
        }
    given.out.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
