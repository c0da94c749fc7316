"""Make the tokenizer files beside this script, and what transformers' `GPT2Tokenizer` makes of some texts with them.

Python 3.11, transformers==4.33.3 (its tokenizer is plain Python), tokenizers==0.13.3. The files are tiny ones in the
format of the published OPT: special tokens first, and a `tokenizer_config.json` with `add_bos_token`.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Tokenizer

HERE = Path(__file__).resolve().parent
TRAINED_ON = [
    "In the beginning was the word, and the word was with the others; they weren't alone there.",
    "We'll see that the number of the tokens is 12345, and that there is another one after it.",
    "the then there other another together, and he's theirs",
]
TEXTS = [
    "",
    "the beginning",
    " the  other   words\n\nhe's there, isn't he? 2024",
    "naïve café: 床前明月光 🙂",
    "a</s>b<pad>",
    "<s> is <unk>nown",
    "trailing space ",
]
TOKEN = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def main() -> None:
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        TRAINED_ON, 330, 2, show_progress=False, special_tokens=["<s>", "<pad>", "</s>", "<unk>"]
    )
    trained.save_model(str(HERE))
    config = {
        "add_bos_token": True,
        "add_prefix_space": False,
        "bos_token": {**TOKEN, "content": "</s>"},
        "eos_token": {**TOKEN, "content": "</s>"},
        "errors": "replace",
        "pad_token": {**TOKEN, "content": "<pad>"},
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": {**TOKEN, "content": "</s>"},
    }
    (HERE / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    theirs = GPT2Tokenizer.from_pretrained(str(HERE))
    cases = []
    for text in TEXTS:
        ids = theirs.encode(text)
        decoded = theirs.decode(ids, clean_up_tokenization_spaces=False)
        skipped = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        cases.append({"text": text, "ids": ids, "decoded": decoded, "without_special": skipped})
    padded = theirs(["the", "the other words"], padding=True)
    found = {
        "bos": theirs.bos_token_id,
        "eos": theirs.eos_token_id,
        "pad": theirs.pad_token_id,
        "padding_side": theirs.padding_side,
        "size": len(theirs),
        "padded": {name: padded[name] for name in ("input_ids", "attention_mask")},
        "partial": [
            {"ids": ids, "decoded": theirs.decode(ids)} for ids in (cases[3]["ids"][-2:], cases[3]["ids"][:-1])
        ],
        "cases": cases,
    }
    (HERE / "expected.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
