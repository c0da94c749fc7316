"""Make bpe/vocab.json, bpe/merges.txt and the ids of transformers' GPT2Tokenizer for bpe/cases.json.

    python make_bpe.py bpe          # transformers 5.23.0, tokenizers 0.23.3: trains the vocabulary, writes ids-5.json
    python make_bpe.py --only bpe   # transformers 4.33.3: writes ids-4.json

Version 5 stands on the library `tokenizers`, as zoo does. The tokenizer of version 4.33 is written in Python, so it is
independent, but it knows neither `added_tokens_decoder` nor spaces beside special tokens: two cases only.

The vocabulary is trained on the texts below, so that the whole is a few kilobytes and names no one else's data.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import transformers

WORDS = "the quick brown fox jumps over the lazy dog; we'll see 123 times what they've said. 床前明月光，疑是地上霜。 "
TEXTS = (
    "",
    " ",
    "the quick fox",
    " the  quick\n\n fox ",
    "We'll see: they've said 12345 things!",
    "床前明月光 means moonlight 🌙é",
    "<|endoftext|>the fox<|endoftext|> </s> dog",
    "what is [gMASK] said <sop>fox <note> [MASK]  dog",
    "tab\tand\u00a0space\u2003wide \x00 end",
)


def train(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    content = json.loads(tokenizer.to_str())["model"]
    vocabulary = json.dumps(content["vocab"], ensure_ascii=False, indent=0, separators=(",", ":"))
    (folder / "vocab.json").write_text(vocabulary + "\n", encoding="utf-8")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


def cases() -> dict[str, dict[str, Any]]:
    """Files beside the vocabulary: none, and as OPT and GLM publish them, and what a fine-tuned GPT-2 has."""

    def token(content: str, **flags: bool) -> dict[str, Any]:
        defaults = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        return {"content": content, **defaults, **flags}

    end = {"__type": "AddedToken", **token("</s>", normalized=True)}
    filling = {**end, "content": "<pad>"}
    return {
        "gpt2": {"tokenizer_config.json": {"model_max_length": 1024}},
        "opt": {
            "tokenizer_config.json": {
                "errors": "replace", "unk_token": end, "bos_token": end, "eos_token": end,
                "pad_token": filling, "add_prefix_space": False, "add_bos_token": True,
                "tokenizer_class": "GPT2Tokenizer",
            },
        },
        "glm": {
            "added_tokens.json": {"[gMASK]": 342, "<sop>": 340, "<eop>": 341, "<note>": 343, "[MASK]": 344},
            "special_tokens_map.json": {
                "bos_token": "<|endoftext|>", "eos_token": "<eop>", "unk_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>", "mask_token": "[MASK]", "sep_token": "<sop>", "cls_token": "[gMASK]",
            },
        },
        "prefix": {
            "tokenizer_config.json": {"add_prefix_space": True, "pad_token": "<filler>", "padding_side": "left"},
        },
        "decoder": {
            "tokenizer_config.json": {
                "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>",
                "unk_token": "<unk>",
                "added_tokens_decoder": {
                    "0": {**token("<s>"), "special": True}, "2": {**token("</s>"), "special": True},
                    "3": {**token("<unk>"), "special": True}, "340": {**token("<note>"), "special": False},
                    "341": {**token("[MASK]", lstrip=True), "special": True},
                },
            },
        },
    }  # fmt: skip


def of(folder: Path, beside: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for file in ("vocab.json", "merges.txt"):
            (place / file).write_bytes((folder / file).read_bytes())
        for file, content in beside.items():
            (place / file).write_text(json.dumps(content))
        tokenizer = transformers.GPT2Tokenizer.from_pretrained(name)
    found: dict[str, Any] = {
        "roles": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
        "size": len(tokenizer),
        "padding_side": tokenizer.padding_side,
    }
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    keep = {"clean_up_tokenization_spaces": False}
    found["ids"] = ids
    found["with_special"] = [tokenizer.encode(text, add_special_tokens=True) for text in TEXTS]
    found["skipped"] = [tokenizer.decode(row, skip_special_tokens=True, **keep) for row in ids]
    found["cut"] = [tokenizer.decode(row[:-1], **keep) for row in ids]
    if transformers.__version__.startswith("5"):
        found["unparsed"] = [tokenizer.encode(t, add_special_tokens=False, split_special_tokens=True) for t in TEXTS]
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="store_true", help="keep the vocabulary")
    arguments = parser.parse_args()
    if not arguments.only:
        arguments.folder.mkdir(exist_ok=True)
        train(arguments.folder)
    major = transformers.__version__.split(".")[0]
    wanted = {name: files for name, files in cases().items() if major == "5" or name in ("gpt2", "opt")}
    ids = {name: {"files": files, **of(arguments.folder, files)} for name, files in wanted.items()}
    content = {"transformers": transformers.__version__, "texts": TEXTS, **ids}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace('},"', '},\n"') + "\n"
    (arguments.folder / f"ids-{major}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
